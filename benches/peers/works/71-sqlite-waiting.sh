what='SQLite, no-op jobs, 300,000 jobs due tomorrow' peer='larder, an empty table' measure=rate at_least=0.9
measure_both() { once queue-sqlite queue_rounds sqlite | of_filled Waiting; }
