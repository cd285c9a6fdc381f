# shellcheck shell=bash
# How each side is measured: a line of JSON, with what it has of rate (by the second), median, p99, longest, total, ready
# and cold (microseconds), share (per cent of a core) and memory (MiB). Sourced by run.sh.

larder() { # ENGINE WORK CALLERS
    "$larder_cache" --figures "$1" "$2" "$3" "$seconds"
}

jobs_rate() { # ENGINE CONCURRENCY
    "$larder_jobs" --figures rate "$1" "$jobs" "$2"
}

jobs_enqueue() { # ENGINE CLIENTS
    "$larder_jobs" --figures enqueue "$1" "$2" "$seconds"
}

jobs_start() { # ENGINE here|elsewhere COUNT MILLISECONDS
    "$larder_jobs" --figures start "$@"
}

purge() { # purge|delete ENGINE here|elsewhere
    "$larder_purge" --figures "$1" "$2" "$3" "$purged_items"
}

# Measured once for all the works that show a part of it.
once() { # NAME COMMAND...
    local kept=$BENCH_FOLDER/$1
    if [[ ! -e $kept ]]; then
        "${@:2}" >"$kept.new" || return
        mv "$kept.new" "$kept"
    fi
    cat "$kept"
}

# What a purge took in each round: `purge_rounds ENGINE here|elsewhere`, a line a side and round.
purge_rounds() {
    local figures
    for _ in 1 2; do
        figures=$(purge delete "$1" "$2") && echo "peer $figures" || return
        figures=$(purge purge "$1" "$2") && echo "larder $figures" || return
    done
}

idle_round() { # ENGINE
    local url=$LARDER_TEST_POSTGRES_URL figures
    [[ $1 == postgres ]] || url=sqlite://$BENCH_FOLDER/idle.db
    figures=$(LARDER_DATABASE_URL=$url python3 benches/peers/idle_daemon.py "$(realpath "$larder_program")" 9 20) &&
        echo "larder $figures"
}

queue_rounds() { # ENGINE
    LARDER_BENCH_ENGINE=$1 LARDER_BENCH_ROUNDS=15 LARDER_BENCH_JOBS=4000 "$larder_queue" --figures
}

# The rounds of `once queue-ENGINE`, with the empty table as the peer.
of_filled() { # Finished|Waiting
    sed -n -e "s/^{\"filled\": \"Empty\", /peer {/p" -e "s/^{\"filled\": \"$1\", /larder {/p"
}

# A figure that is to be kept, as a peer.
bound() { # MEASURE FIGURE
    echo "{\"$1\": $2}"
}

# The figures of one side alone, with a bound as the peer.
against_bound() { # MEASURE FIGURE
    sed -n "s/^larder \(.*\)/peer {\"$1\": $2}\nlarder \1/p"
}

diskcache() { # WORK CALLERS
    JSON_TEXT=1 "$python" benches/peers/diskcache_load.py "$1" "$2" "$seconds"
}

django() { # ENGINE WORK
    ENGINE=$1 "$python" benches/peers/django_load.py "$2" "$seconds"
}

huey() { # THREADS
    "$python" benches/peers/huey_load.py "$jobs" "$1"
}

graphile_worker() { # CONCURRENCY LOCAL_QUEUE
    NODE_FOLDER=$(realpath "$node_folder") node benches/peers/graphile_worker.mjs "$LARDER_TEST_POSTGRES_URL" "$jobs" "$1" "$2"
}

pgbench_select() { # CLIENTS
    local log=$BENCH_FOLDER/pgbench script=$BENCH_FOLDER/select.sql
    psql --quiet "$LARDER_TEST_POSTGRES_URL" <<'SQL'
SET client_min_messages = error;
DROP TABLE IF EXISTS pgbench_item;
CREATE TABLE pgbench_item (key text PRIMARY KEY, value json NOT NULL);
INSERT INTO pgbench_item SELECT 'user:' || n, json_build_object('id', n, 'name', 'User ' || n, 'email',
    'user' || n || '@example.com', 'tags', json_build_array('alpha', 'beta', 'gamma'), 'score', 12.5,
    'text', repeat('x', 128)) FROM generate_series(0, 9999) AS n;
VACUUM ANALYZE pgbench_item;
SQL
    printf '%s\n' '\set n random(0, 9999)' \
        "SELECT value FROM pgbench_item WHERE key = 'user:' || CAST(:n AS text);" >"$script"
    pgbench --no-vacuum --protocol prepared --client "$1" --jobs 2 --time 1 --file "$script" \
        "$LARDER_TEST_POSTGRES_URL" >/dev/null 2>&1
    rm -f "$log".*
    pgbench --no-vacuum --protocol prepared --client "$1" --jobs 2 --time "${seconds%.*}" --file "$script" \
        --log --log-prefix "$log" --sampling-rate 0.1 "$LARDER_TEST_POSTGRES_URL" 2>/dev/null |
        python3 benches/peers/figures.py pgbench "$log"
}

redis_benchmark() { # get|set CLIENTS
    redis-benchmark -p "$redis_port" -t "$1" -c "$2" -d 250 -r 10000 -n 200000 --csv |
        python3 benches/peers/figures.py redis "${1^^}"
}
