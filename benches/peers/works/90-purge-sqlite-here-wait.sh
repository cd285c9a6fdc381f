what='SQLite purge of 500,000 of 1,000,000 items: longest wait of a writer of its own process' peer='the bound' measure=longest at_least=1
measure_both() { once purge-sqlite-here purge_rounds sqlite here | against_bound longest 15000; }
