# Within 1.5 times the peer's time.
what='SQLite set, 1 caller' peer='diskcache, JSON' measure=median at_least=0.667
needs=(diskcache)
measure_peer() { diskcache set 1; }
measure_larder() { larder sqlite set 1; }
