# The memory tier, of one key that everybody wants.
what='PostgreSQL get of a hot key, 1 caller, memory tier' peer='larder, without the tier' measure=rate at_least=50
measure_peer() { larder postgres get_hot 1; }
measure_larder() { larder postgres get_hot_memory 1; }
