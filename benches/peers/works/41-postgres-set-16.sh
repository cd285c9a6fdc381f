what='PostgreSQL set, 16 callers' peer='sqlx, 16 such loops at once' measure=rate at_least=1
measure_peer() { larder postgres plain_set 16; }
measure_larder() { larder postgres set 16; }
