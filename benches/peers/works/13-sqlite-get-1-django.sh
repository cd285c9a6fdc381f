what='SQLite get, 1 caller' peer="Django's database cache" measure=median at_most_rounds=3
needs=(django)
measure_peer() { django sqlite get; }
measure_larder() { larder sqlite get 1; }
