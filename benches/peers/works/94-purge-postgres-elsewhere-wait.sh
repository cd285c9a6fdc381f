what='PostgreSQL purge of 500,000 of 1,000,000 items: longest wait of a writer of another process' peer='the bound' measure=longest at_least=1
measure_both() { once purge-postgres-elsewhere purge_rounds postgres elsewhere | against_bound longest 15000; }
