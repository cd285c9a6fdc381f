# 1.2 times the cost of a get, at most.
what='PostgreSQL get_or_compute of a fresh value, 64 callers' peer='larder, get' measure=rate at_least=0.833
measure_peer() { larder postgres get 64; }
measure_larder() { larder postgres get_or_compute 64; }
