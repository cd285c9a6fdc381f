what='SQLite get, 16 callers' peer='diskcache, JSON' measure=rate at_least=1.5
needs() { [[ -x $python ]]; }
measure_peer() { diskcache get 16; }
measure_larder() { larder sqlite get 16; }
