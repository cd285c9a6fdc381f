# Somebody listens, on both sides.
what='PostgreSQL enqueue, one by one, 8 clients' peer='apalis-postgres, with its notifications' measure=rate at_least=2
needs=(rivals)
measure_peer() { "$rivals" apalis-postgres-enqueue "$LARDER_TEST_POSTGRES_URL" 8 "$seconds"; }
measure_larder() { jobs_enqueue postgres 8; }
