what='Idle daemon on PostgreSQL: its resident memory' peer='the bound' measure=memory at_least=1
measure_both() { once idle-postgres idle_round postgres | against_bound memory 25; }
