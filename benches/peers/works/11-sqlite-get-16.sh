what='SQLite get, 16 callers' peer='diskcache, JSON' measure=rate at_least=1.5
needs=(diskcache)
measure_peer() { diskcache get 16; }
measure_larder() { larder sqlite get 16; }
