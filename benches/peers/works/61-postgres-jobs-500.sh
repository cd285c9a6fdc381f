what='PostgreSQL, no-op jobs, 500 at once' peer='graphile_worker (Rust), local queue of 5,000' measure=rate at_least=1.25
needs=(rivals)
measure_peer() { "$rivals" graphile-jobs "$LARDER_TEST_POSTGRES_URL" "$jobs" 500 5000; }
measure_larder() { jobs_rate postgres 500; }
