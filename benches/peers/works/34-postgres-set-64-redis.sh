# As it is: Redis writes nothing to disk here.
what='PostgreSQL set, 64 callers' peer='redis-benchmark, SET, 64 clients' measure=rate at_most_rounds=3
needs=(redis)
measure_peer() { redis_benchmark set 64; }
measure_larder() { larder postgres set 64; }
