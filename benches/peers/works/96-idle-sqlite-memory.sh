what='Idle daemon on SQLite: its resident memory' peer='the bound' measure=memory at_least=1
measure_both() { once idle-sqlite idle_round sqlite | against_bound memory 25; }
