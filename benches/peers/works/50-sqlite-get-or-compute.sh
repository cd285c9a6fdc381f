# 1.2 times the cost of a get, at most.
what='SQLite get_or_compute of a fresh value, 1 caller' peer='larder, get' measure=median at_least=0.833
measure_peer() { larder sqlite get 1; }
measure_larder() { larder sqlite get_or_compute 1; }
