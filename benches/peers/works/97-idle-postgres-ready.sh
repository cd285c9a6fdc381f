what='Idle daemon on PostgreSQL: from its start until it is ready' peer='the bound' measure=ready at_least=1
measure_both() { once idle-postgres idle_round postgres | against_bound ready 150000; }
