what='Idle daemon on SQLite: from its start until it is ready' peer='the bound' measure=ready at_least=1
measure_both() { once idle-sqlite idle_round sqlite | against_bound ready 150000; }
