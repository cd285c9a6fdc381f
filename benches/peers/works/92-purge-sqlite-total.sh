# Under 3 times the peer's time, while another process writes.
what='SQLite purge of 500,000 of 1,000,000 items: in all' peer='one big DELETE' measure=total at_least=0.333
measure_both() { once purge-sqlite-elsewhere purge_rounds sqlite elsewhere; }
