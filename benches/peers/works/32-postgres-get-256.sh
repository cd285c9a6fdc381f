what='PostgreSQL get, 256 callers' peer='pgbench, prepared SELECT, 16 clients' measure=rate at_least=5
needs=(pgbench)
measure_peer() { pgbench_select 16; }
measure_larder() { larder postgres get 256; }
