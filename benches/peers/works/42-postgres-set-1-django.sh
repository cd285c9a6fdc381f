what='PostgreSQL set, 1 caller' peer="Django's database cache" measure=median at_most_rounds=3
needs=(django)
measure_peer() { django postgres set; }
measure_larder() { larder postgres set 1; }
