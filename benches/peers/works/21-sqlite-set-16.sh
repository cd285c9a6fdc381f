what='SQLite set, 16 callers' peer='diskcache, JSON' measure=rate at_least=3
needs=(diskcache)
measure_peer() { diskcache set 16; }
measure_larder() { larder sqlite set 16; }
