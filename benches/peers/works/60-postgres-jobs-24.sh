what='PostgreSQL, no-op jobs, 24 at once' peer='graphile-worker (Node), local queue of 500' measure=rate at_least=2
needs=(graphile_worker)
measure_peer() { graphile_worker 24 500; }
measure_larder() { jobs_rate postgres 24; }
