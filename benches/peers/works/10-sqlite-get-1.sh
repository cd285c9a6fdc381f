what='SQLite get, 1 caller' peer='diskcache, JSON' measure=median at_least=3
needs=(diskcache)
measure_peer() { diskcache get 1; }
measure_larder() { larder sqlite get 1; }
