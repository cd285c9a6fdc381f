#!/usr/bin/env bash
# Runs the whole test suite, on SQLite and on PostgreSQL:
#
#   tests/run.sh              everything
#   tests/run.sh FILTER...    the tests whose names contain FILTER (other
#                             arguments go to the test runner as well)
#
# Besides Rust it needs a C compiler and PostgreSQL 15 or newer. As root on a
# system with apt it installs what is missing; otherwise it says what to install
# and exits with 2. It starts a server of its own, see tests/with-postgres.sh,
# unless LARDER_TEST_POSTGRES_URL names one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

# Whatever the shell is set up for, the tests neither see nor touch.
unset DATABASE_URL
for name in "${!LARDER_@}"; do
    [[ $name == LARDER_TEST_* ]] || unset "$name"
done

if [[ -z ${LARDER_TEST_POSTGRES_URL:-} ]]; then
    # shellcheck source=SCRIPTDIR/requirements.sh
    source tests/requirements.sh
    require cc postgres pgbouncer
    exec tests/with-postgres.sh tests/run.sh "$@"
fi

trap 'echo "The suite took $SECONDS s, compiling it included." >&2' EXIT
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "$@"
else
    cargo test --all-targets "$@"
fi
if (($# == 0)); then
    cargo test --doc
fi
