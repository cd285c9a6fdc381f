what='SQLite get, 64 callers' peer='diskcache, JSON' measure=rate at_least=3
needs=(diskcache)
measure_peer() { diskcache get 64; }
measure_larder() { larder sqlite get 64; }
