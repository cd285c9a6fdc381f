# shellcheck shell=bash
# How each of larder's peers comes to take part. Sourced by run.sh.
#
# `have NAME` gets what NAME needs, once, and says in `reason` why it cannot. What is
# installed stays in $folder for the next run; redis-server runs until run.sh ends.

python=$folder/venv/bin/python
node_folder=$folder/node
rivals=$folder/rivals/release/rivals
redis_port=''
redis=''
declare -A had=()

have() { # NAME
    if [[ -z ${had[$1]:-} ]]; then
        reason=''
        if "have_$1" >&2; then
            had[$1]=yes
        else
            had[$1]="no: ${reason:-it does not start}"
        fi
    fi
    reason=${had[$1]#no: }
    [[ ${had[$1]} == yes ]]
}

python_package() { # MODULE PACKAGE
    "$python" -c "import $1" 2>/dev/null && return
    if [[ ! -x $python ]] && ! python3 -m venv "$folder/venv"; then
        reason='no python3 that makes a venv'
        return 1
    fi
    if ! "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$2"; then
        reason="pip does not install $2"
        return 1
    fi
}

have_diskcache() { python_package diskcache diskcache==5.6.3; }
have_huey() { python_package huey huey==3.5.4; }
have_django() { python_package django django==5.2.19 && python_package psycopg 'psycopg[binary]==3.3.9'; }
have_matplotlib() { python_package matplotlib matplotlib==3.11.2; }

have_pgbench() {
    command -v pgbench >/dev/null && return
    reason='pgbench, of the PostgreSQL packages, is not installed'
    return 1
}

have_graphile_worker() {
    [[ -d $node_folder/node_modules/graphile-worker ]] && return
    if ! command -v npm >/dev/null; then
        reason='no npm, of Node.js'
        return 1
    fi
    mkdir -p "$node_folder"
    if ! npm install --silent --no-fund --no-audit --prefix "$node_folder" graphile-worker@0.17.3; then
        reason='npm does not install graphile-worker@0.17.3'
        return 1
    fi
}

# The peers that are crates: a package beside larder's, with a lock file of its own.
have_rivals() {
    if ! SQLX_OFFLINE=true cargo build --quiet --release --locked \
        --manifest-path benches/peers/rivals/Cargo.toml --target-dir "$folder/rivals"; then
        reason='benches/peers/rivals does not build'
        return 1
    fi
}

have_redis() {
    if ! (require redis); then
        reason='redis-server and redis-benchmark are not installed'
        return 1
    fi
    for _ in {1..20}; do
        redis_port=$((20000 + RANDOM % 12000))
        redis-server --bind 127.0.0.1 --port "$redis_port" --save '' --appendonly no --dir "$BENCH_FOLDER" >/dev/null &
        redis=$!
        for _ in {1..50}; do
            kill -0 "$redis" 2>/dev/null || break
            if redis-cli -p "$redis_port" ping >/dev/null 2>&1; then
                redis-benchmark -p "$redis_port" -t set -d 250 -r 10000 -n 200000 -q >/dev/null
                return
            fi
            sleep 0.1
        done
    done
    return 1
}

# Asked of those that took part.
versions() {
    local name
    echo "PostgreSQL $(psql --no-align --tuples-only --command 'SHOW server_version' "$LARDER_TEST_POSTGRES_URL")"
    for name in diskcache huey django; do
        if [[ ${had[$name]:-} == yes ]]; then
            "$python" -c "from importlib.metadata import version; print('$name', version('$name'))"
        fi
    done
    if [[ ${had[diskcache]:-} == yes ]]; then
        "$python" -c 'import sqlite3, sys; print("Python", sys.version.split()[0], "with SQLite", sqlite3.sqlite_version)'
    fi
    if [[ ${had[graphile_worker]:-} == yes ]]; then
        node -p '"graphile-worker " + require(process.argv[1]).version + " on Node " + process.version' \
            "$(realpath "$node_folder")/node_modules/graphile-worker/package.json"
    fi
    if [[ ${had[rivals]:-} == yes ]]; then
        sed -n '/^name = "\(graphile_worker\|apalis-sqlite\|apalis-postgres\)"$/ {s/name = "\(.*\)"/\1/; N; s/\nversion = "\(.*\)"/ \1/; p}' \
            benches/peers/rivals/Cargo.lock
    fi
    if [[ ${had[redis]:-} == yes ]]; then
        redis-server --version | sed 's/.*v=\([0-9.]*\).*/Redis \1/'
    fi
}
