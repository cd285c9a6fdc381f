what='Idle daemon on PostgreSQL: its share of a core' peer='the bound' measure=share at_least=1
measure_both() { once idle-postgres idle_round postgres | against_bound share 0.3; }
