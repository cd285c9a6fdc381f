what='PostgreSQL get, 64 callers' peer='redis-benchmark, GET, 64 clients' measure=rate at_least=1
needs=(redis)
measure_peer() { redis_benchmark get 64; }
measure_larder() { larder postgres get 64; }
