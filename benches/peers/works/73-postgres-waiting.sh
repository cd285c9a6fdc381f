what='PostgreSQL, no-op jobs, 300,000 jobs due tomorrow' peer='larder, an empty table' measure=rate at_least=0.9
measure_both() { once queue-postgres queue_rounds postgres | of_filled Waiting; }
