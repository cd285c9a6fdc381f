what='Enqueue to start, PostgreSQL, from another process, one job a second' peer='the bound, p50' measure=median at_least=1 at_most_rounds=1
measure_peer() { bound median 3000; }
measure_larder() { jobs_start postgres elsewhere 15 1000; }
