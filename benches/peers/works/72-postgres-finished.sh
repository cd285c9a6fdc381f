what='PostgreSQL, no-op jobs, 1,000,000 finished jobs in the table' peer='larder, an empty table' measure=rate at_least=0.9
measure_both() { once queue-postgres queue_rounds postgres | of_filled Finished; }
