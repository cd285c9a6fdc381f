# Of 10, 100 and 1,000 jobs that apalis-sqlite fetches at once, the best.
what='SQLite, no-op jobs' peer='apalis-sqlite, without its index' measure=rate at_least=2 at_most_rounds=3
needs=(rivals)
measure_peer() { "$rivals" apalis-sqlite-jobs "$BENCH_FOLDER" "$jobs" 16; }
measure_larder() { jobs_rate sqlite 16; }
