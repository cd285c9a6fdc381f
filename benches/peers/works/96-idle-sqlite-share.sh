what='Idle daemon on SQLite: its share of a core' peer='the bound' measure=share at_least=1
measure_both() { once idle-sqlite idle_round sqlite | against_bound share 0.3; }
