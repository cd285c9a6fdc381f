# Four threads of Python, which run one at a time; larder with as many jobs at once as by default.
what='SQLite, no-op jobs' peer='huey, 4 threads' measure=rate at_least=15 at_most_rounds=2
needs=(huey)
measure_peer() { huey 4; }
measure_larder() { jobs_rate sqlite 16; }
