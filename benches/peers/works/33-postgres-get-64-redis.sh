what='PostgreSQL get, 64 callers' peer='redis-benchmark, GET, 64 clients' measure=rate at_least=1
needs() { [[ -n $redis_port ]]; }
measure_peer() { redis_get 64; }
measure_larder() { larder postgres get 64; }
