#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own:
#
#   tests/with-postgres.sh COMMAND [ARGUMENT...]
#
# The command finds the server's URL in LARDER_TEST_POSTGRES_URL. The server
# listens on the loopback address only and is tuned for tests. It is gone, with
# its files, when this script ends, however that comes about. The exit status is
# the command's. If LARDER_TEST_POSTGRES_URL is set already, the command runs
# with that server, and none is started. With LARDER_POSTGRES_DURABLE set, its
# data survive a crash as by PostgreSQL's own defaults, for what is measured.
#
# shellcheck disable=SC2317 # Functions that only traps call look unreachable.
set -euo pipefail

if (($# == 0)); then
    echo "Usage: $0 COMMAND [ARGUMENT...]" >&2
    exit 2
fi
if [[ -n ${LARDER_TEST_POSTGRES_URL:-} ]]; then
    exec "$@"
fi

# shellcheck source=SCRIPTDIR/requirements.sh
source "$(dirname "${BASH_SOURCE[0]}")/requirements.sh"
require postgres
programs=$(find_postgres)

# Settings for libpq (PGHOST, PGSSLMODE, …) are meant for some other server.
for name in "${!PG@}"; do
    unset "$name"
done

# --- The server ----------------------------------------------------------------
#
# A process of its own, the keeper, makes the server, waits for this script to
# let go of a pipe, and takes everything down again, one after the other. Were it
# traps of this script, they would not run when it is killed outright; the
# kernel lets go of the pipe then too.

keep_server() {
    trap '' HUP INT TERM
    if make_server; then
        mv "$folder/new-url" "$folder/url"
        read -r <&8 || true
        if [[ -s $folder/command ]]; then
            end_group "$(cat "$folder/command")"
        fi
    else
        echo "tests/with-postgres.sh: no PostgreSQL server came up. The programs in $programs said:" >&2
        cat "$folder/log" >&2
    fi
    if [[ -e $folder/data/postmaster.pid ]]; then
        as_server "$programs/pg_ctl" stop --pgdata "$folder/data" --mode immediate --silent || true
    fi
    rm -rf "$folder"
}

make_server() {
    local password port attempt
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s\n' "$password" >"$folder/password"
    # A password in the clear on loopback: SCRAM would cost a debug build a tenth of a second a connection.
    as_server "$programs/initdb" \
        --pgdata "$folder/data" --username larder --pwfile "$folder/password" \
        --auth-local scram-sha-256 --auth-host password \
        --encoding UTF8 --locale "$(utf8_locale)" --no-sync >"$folder/log" 2>&1 || return 1

    cat >>"$folder/data/postgresql.conf" <<END
listen_addresses = '127.0.0.1'
unix_socket_directories = '${folder//\'/\'\'}'
max_connections = 300
shared_buffers = 128MB
END
    if [[ -z ${LARDER_POSTGRES_DURABLE:-} ]]; then
        cat >>"$folder/data/postgresql.conf" <<END
# The data live no longer than the tests: they need not survive a crash.
fsync = off
synchronous_commit = off
full_page_writes = off
END
    fi

    # A port is free if the server can take it; asking beforehand would tell only
    # what was true a moment ago. These lie below the range that systems use for
    # outgoing connections.
    for attempt in {1..20}; do
        port=$((20000 + RANDOM % 12000))
        : >"$folder/log"
        if as_server "$programs/pg_ctl" start --pgdata "$folder/data" --log "$folder/log" \
            --options "-p $port" --wait --timeout 60 >/dev/null 2>&1; then
            break
        fi
        if ((attempt == 20)) || ! grep -q 'Address already in use' "$folder/log"; then
            return 1
        fi
    done

    PGPASSWORD=$password as_server "$programs/createdb" \
        --host 127.0.0.1 --port "$port" --username larder larder >>"$folder/log" 2>&1 || return 1
    echo "postgres://larder:$password@127.0.0.1:$port/larder" >"$folder/new-url"
}

# PostgreSQL refuses to run as root.
as_server_user=(env LC_ALL=C)
server_user=''
if ((EUID == 0)); then
    for name in postgres nobody; do
        if id -u "$name" >/dev/null 2>&1; then
            server_user=$name
            break
        fi
    done
    if command -v setpriv >/dev/null; then
        as_server_user=(setpriv --reuid "$server_user" --regid "$(id -g "$server_user")" --clear-groups env LC_ALL=C)
    else
        as_server_user=(runuser -u "$server_user" -- env LC_ALL=C)
    fi
fi

# In a folder that the server's user can read, which the caller's may not be.
as_server() {
    (cd "$folder" && exec "${as_server_user[@]}" "$@" </dev/null)
}

utf8_locale() {
    case $(locale -a 2>/dev/null) in
    *C.UTF-8* | *C.utf8*) echo C.UTF-8 ;;
    *) echo C ;;
    esac
}

# A test runner that was told to stop gives its tests ten seconds to do so.
group_ends() {
    for _ in {1..150}; do
        kill -0 -- "-$1" 2>/dev/null || return 0
        sleep 0.1
    done
}

end_group() {
    if kill -TERM -- "-$1" 2>/dev/null; then
        group_ends "$1"
        kill -KILL -- "-$1" 2>/dev/null || true
    fi
}

keeper=''
folder=''

leave() {
    trap '' HUP INT TERM
    exec 9>&-
    if [[ -n $keeper ]]; then
        wait "$keeper" || true
    else
        rm -rf "$folder"
    fi
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

folder=$(mktemp -d "${TMPDIR:-/tmp}/larder-postgres.XXXXXX")
touch "$folder/log" "$folder/password"
mkfifo "$folder/pipe"
exec 9<>"$folder/pipe"
exec 8<"$folder/pipe"
if [[ -n $server_user ]]; then
    chown -R "$server_user" "$folder"
fi

# A process group of its own, which the terminal's Ctrl-C does not reach. Like
# everything below it must not hold the pipe that it waits for.
set -m
keep_server 9>&- &
keeper=$!
set +m
exec 8<&-

until [[ -e $folder/url ]]; do
    kill -0 "$keeper" 2>/dev/null || exit 2
    sleep 0.05 9>&-
done
LARDER_TEST_POSTGRES_URL=$(cat "$folder/url" 9>&-)
export LARDER_TEST_POSTGRES_URL

# --- The command -----------------------------------------------------------------

status=0
if [[ -t 0 ]]; then
    # A terminal sends its Ctrl-C to the command too, which decides what it means.
    trap : INT
    "$@" 9>&- || status=$?
    exit "$status"
fi

# Without a terminal to read, the command gets a process group of its own: a
# signal to this script reaches all of it, and nothing of it stays behind.
set -m
"$@" <&0 9>&- &
command=$!
set +m
echo "$command" >"$folder/command"

stopped=0
pass_on() {
    stopped=$2
    kill "-$1" -- "-$command" 2>/dev/null || true
}
trap 'pass_on HUP 129' HUP
trap 'pass_on INT 130' INT
trap 'pass_on TERM 143' TERM

while :; do
    status=0
    wait "$command" || status=$?
    kill -0 "$command" 2>/dev/null || break
done
if ((stopped)); then
    status=$stopped
    group_ends "$command" 9>&-
fi
exit "$status"
