# The memory tier, of one key that everybody wants.
what='PostgreSQL get of a hot key, 16 callers, memory tier' peer='larder, without the tier' measure=rate at_least=50
not_there='benches/cache.rs has no memory tier to measure yet'
measure_peer() { larder postgres get_hot 16; }
measure_larder() { larder postgres get_hot_memory 16 2>/dev/null; }
