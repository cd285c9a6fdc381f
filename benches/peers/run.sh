#!/usr/bin/env bash
# Measures larder and its peers at the same work, in turn, and writes
# docs/BENCHMARKS.md with its plots:
#
#   benches/peers/run.sh [WORK...]
#
# A work is a file in benches/peers/works, without its ending, or a pattern of such;
# `growth` is what calls cost in tables of many sizes. Without names it is all of
# them; with names the table is printed, and the page stays as it is. ROUNDS (5) is
# how often each is measured, SECONDS_EACH (2) for how long where time decides. With
# PROFILE=dev larder is built as for its tests, to try this script itself.
# PostgreSQL is a server of this script's own, with fsync on, and so is Redis. The
# peers come from their package registries into a folder below target/. One that
# cannot be had is named in the result. NOTE is a sentence on the machine that goes
# into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ -z ${LARDER_PEERS_POSTGRES:-} ]]; then
    export LARDER_POSTGRES_DURABLE=1 LARDER_PEERS_POSTGRES=1
    exec env -u LARDER_TEST_POSTGRES_URL tests/with-postgres.sh benches/peers/run.sh "$@"
fi

rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-2}
jobs=${JOBS:-20000}
purged_items=${PURGED_ITEMS:-1000000}
folder=${CARGO_TARGET_DIR:-target}/peers
mkdir -p "$folder"
# What is measured lies here, on the disk of target/, and is gone at the end.
BENCH_FOLDER=$(realpath "$(mktemp -d "$folder/run.XXXXXX")")
export BENCH_FOLDER
results=$BENCH_FOLDER/results.jsonl
growth=$BENCH_FOLDER/growth.jsonl
: >"$results"

leave() {
    if [[ -n ${redis:-} ]]; then
        kill "$redis" 2>/dev/null || true
        wait "$redis" 2>/dev/null || true
    fi
    rm -rf "$BENCH_FOLDER"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# shellcheck source=SCRIPTDIR/../../tests/requirements.sh
source tests/requirements.sh
# shellcheck source=SCRIPTDIR/take_part.sh
source benches/peers/take_part.sh
# shellcheck source=SCRIPTDIR/measures.sh
source benches/peers/measures.sh

# --- What is measured -------------------------------------------------------------

files=()
wants_growth=''
for name in "${@:-*}"; do
    if [[ $name == growth || $name == '*' ]]; then
        wants_growth=yes
        [[ $name == '*' ]] || continue
    fi
    # shellcheck disable=SC2206 # The name may be a pattern.
    found=(benches/peers/works/$name.sh)
    if [[ ! -e ${found[0]} ]]; then
        echo "benches/peers/run.sh: there is no work $name in benches/peers/works" >&2
        exit 2
    fi
    files+=("${found[@]}")
done

echo 'Building larder' >&2
log=$BENCH_FOLDER/build.log
benches=(cache jobs queue purge growth)
profile=${PROFILE:-bench}
if ! cargo bench --profile "$profile" "${benches[@]/#/--bench=}" --no-run >"$log" 2>&1; then
    cat "$log" >&2
    exit 2
fi
for name in "${benches[@]}"; do
    declare "larder_$name=$(sed -n "s/.*Executable benches\/$name\.rs (\(.*\))$/\1/p" "$log")"
done
# Cargo builds a package's own programs for its benchmarks.
built=${profile/#bench/release}
larder_program=${CARGO_TARGET_DIR:-target}/${built/#dev/debug}/larder

# --- In turn ----------------------------------------------------------------------

note_figures() { # SIDE FIGURES
    printf '{"work": "%s", "peer": "%s", "measure": "%s", "at_least": %s, "side": "%s", "figures": %s}\n' \
        "$what" "$peer" "$measure" "$at_least" "$1" "$2" >>"$results"
}

# What a work's file sets: `needs` are names of take_part.sh. It defines measure_peer and measure_larder, of one round
# each, or else measure_both, which prints lines of a side and its figures, of all rounds at once.
read_work() { # FILE
    what='' peer='' measure='' at_least=null needs=() at_most_rounds=$rounds
    unset -f measure_both measure_peer measure_larder
    # shellcheck source=/dev/null
    source "$1"
}

declare -A given_up=()
give_up() { # FILE REASON
    given_up[$1]=$2
    note_figures missing "\"$2\""
    echo "$what, against $peer: $2" >&2
}

for ((round = 1; round <= rounds; round++)); do
    for file in "${files[@]}"; do
        read_work "$file"
        if [[ -n ${given_up[$file]:-} ]] || ((round > at_most_rounds)); then
            continue
        fi
        for name in "${needs[@]}"; do
            if ! have "$name"; then
                give_up "$file" "$reason"
                continue 2
            fi
        done
        if declare -F measure_both >/dev/null; then
            if ((round == 1)); then
                echo "[${SECONDS} s] all rounds: $what, against $peer" >&2
                if figures=$(measure_both); then
                    while read -r side line; do
                        note_figures "$side" "$line"
                    done <<<"$figures"
                else
                    give_up "$file" 'it could not be measured'
                fi
            fi
            continue
        fi
        echo "[${SECONDS} s] round $round: $what, against $peer" >&2
        if theirs=$(measure_peer) && ours=$(measure_larder); then
            note_figures peer "$theirs"
            note_figures larder "$ours"
        else
            give_up "$file" 'it could not be measured'
        fi
    done
done

if [[ -n $wants_growth ]]; then
    for engine in sqlite postgres; do
        for rows in 1000 10000 100000 1000000; do
            echo "[${SECONDS} s] growth: $engine with $rows rows" >&2
            printf '{"engine": "%s", "rows": %s, "figures": %s}\n' "$engine" "$rows" \
                "$("$larder_growth" --figures "$engine" "$rows")" >>"$growth"
        done
    done
fi

# --- The page ---------------------------------------------------------------------

page=docs/BENCHMARKS.md
if (($# > 0)); then
    page=/dev/stdout
elif have matplotlib; then
    "$python" benches/peers/plots.py "$results" "$growth" docs/benchmarks
else
    echo "No plots: $reason" >&2
fi
versions >"$BENCH_FOLDER/versions"
python3 benches/peers/report.py "$results" "$growth" "$BENCH_FOLDER/versions" "$rounds" "$seconds" >"$BENCH_FOLDER/page"
cat "$BENCH_FOLDER/page" >"$page"
echo "[${SECONDS} s] done" >&2
