what='SQLite set, 1 caller' peer="Django's database cache" measure=median at_most_rounds=3
needs=(django)
measure_peer() { django sqlite set; }
measure_larder() { larder sqlite set 1; }
