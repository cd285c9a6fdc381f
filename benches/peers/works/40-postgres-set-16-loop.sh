what='PostgreSQL set, 16 callers' peer='sqlx, a loop of single upserts' measure=rate at_least=3
measure_peer() { larder postgres plain_set 1; }
measure_larder() { larder postgres set 16; }
