#!/usr/bin/env bash
# Measures larder and its peers at the same work, in turn, and writes
# docs/BENCHMARKS.md:
#
#   benches/peers/run.sh [WORK...]
#
# A work is a file in benches/peers/works, without its ending; all of them unless
# said. ROUNDS (5) is how often each is measured, SECONDS_EACH (3) for how long.
# PostgreSQL is a server of this script's own, with fsync on, and so is Redis;
# diskcache goes into a folder below target/. What cannot be had is named in the
# result. NOTE is a sentence on the machine that goes into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ -z ${LARDER_PEERS_POSTGRES:-} ]]; then
    export LARDER_POSTGRES_DURABLE=1 LARDER_PEERS_POSTGRES=1
    exec env -u LARDER_TEST_POSTGRES_URL tests/with-postgres.sh benches/peers/run.sh "$@"
fi

rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-3}
target=${CARGO_TARGET_DIR:-target}
folder=$target/peers
mkdir -p "$folder"
export BENCH_FOLDER=$folder
results=$folder/results.jsonl
: >"$results"
missing=()

# --- Who takes part ---------------------------------------------------------------

larder_program=$(cargo bench --no-default-features --bench cache --no-run 2>&1 | sed -n 's/.*Executable benches\/cache\.rs (\(.*\))$/\1/p')
[[ -x $larder_program ]] || {
    echo "benches/peers/run.sh: benches/cache.rs does not build; try: cargo bench --bench cache --no-run" >&2
    exit 2
}

python=$folder/venv/bin/python
if ! "$python" -c 'import diskcache' 2>/dev/null; then
    { python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet diskcache==5.6.3; } ||
        missing+=("diskcache (no venv, or no package registry)")
fi
for program in pgbench redis-server redis-benchmark; do
    if ! command -v "$program" >/dev/null; then
        missing+=("$program (not installed)")
    fi
done

redis_port=''
redis=''
if command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null; then
    for _ in {1..20}; do
        redis_port=$((20000 + RANDOM % 12000))
        redis-server --bind 127.0.0.1 --port "$redis_port" --save '' --appendonly no --dir "$folder" >/dev/null &
        redis=$!
        for _ in {1..50}; do
            if ! kill -0 "$redis" 2>/dev/null; then
                break
            fi
            if redis-cli -p "$redis_port" ping >/dev/null 2>&1; then
                break 2
            fi
            sleep 0.1
        done
    done
    trap 'kill "$redis"' EXIT
    redis-benchmark -p "$redis_port" -t set -d 250 -r 10000 -n 200000 -q >/dev/null
fi

# --- How each is measured: one line of JSON, with rate, median, p99 and cold --------

larder() { # ENGINE WORK CALLERS
    "$larder_program" --figures "$1" "$2" "$3" "$seconds"
}

diskcache() { # WORK CALLERS
    JSON_TEXT=1 "$python" benches/peers/diskcache_load.py "$1" "$2" "$seconds"
}

pgbench_select() { # CLIENTS
    local log=$folder/pgbench script=$folder/select.sql
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

redis_get() { # CLIENTS
    redis-benchmark -p "$redis_port" -t get -c "$1" -d 250 -r 10000 -n 300000 --csv |
        python3 benches/peers/figures.py redis
}

# --- In turn ------------------------------------------------------------------------

works=()
for work in "${@:-}"; do
    works+=(benches/peers/works/"${work:-*}".sh)
done
for ((round = 1; round <= rounds; round++)); do
    # shellcheck disable=SC2068 # The names may be patterns.
    for file in ${works[@]}; do
        # What a work's file sets.
        what='' peer='' measure='' at_least=''
        # shellcheck source=/dev/null
        source "$file"
        if ! needs; then
            continue
        fi
        echo "round $round: $what, against $peer" >&2
        for side in peer larder; do
            figures=$("measure_$side")
            printf '{"work": "%s", "peer": "%s", "measure": "%s", "at_least": %s, "side": "%s", "figures": %s}\n' \
                "$what" "$peer" "$measure" "$at_least" "$side" "$figures" >>"$results"
        done
    done
done

versions="PostgreSQL $(psql --no-align --tuples-only --command 'SHOW server_version' "$LARDER_TEST_POSTGRES_URL")"
versions+="; $("$python" -c 'import diskcache, sqlite3, sys; print("diskcache", diskcache.__version__, "on Python", sys.version.split()[0], "with SQLite", sqlite3.sqlite_version)' 2>/dev/null || true)"
versions+="; $(redis-server --version 2>/dev/null | sed 's/.*v=\([0-9.]*\).*/Redis \1/' || true)"
python3 benches/peers/report.py "$results" "$rounds" "$seconds" "$versions" "${missing[@]:-}" >docs/BENCHMARKS.md
echo "docs/BENCHMARKS.md is written" >&2
