# shellcheck shell=bash
# What the test scripts need beside Rust. Sourced, not run.
#
#   require cc         a C compiler: SQLite is compiled into larder
#   require postgres   PostgreSQL 15 or newer, its server programs included
#   require pgbouncer  PgBouncer, which one test puts before the server
#   require redis      Redis and redis-benchmark, for benches/peers
#
# `require` installs what is missing where it can (as root, with apt) and
# otherwise says what to install and exits with 2.

oldest_postgres=15

# Prints the folder that holds the newest suitable initdb, pg_ctl and postgres.
find_postgres() {
    local programs version best='' best_version=0
    local on_path
    on_path=$(command -v initdb || true)
    for programs in \
        /usr/lib/postgresql/*/bin \
        /usr/pgsql-*/bin \
        /usr/libexec/postgresql*/ \
        /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin \
        ${on_path:+"$(dirname "$on_path")"}; do
        programs=${programs%/}
        [[ -x $programs/initdb && -x $programs/pg_ctl && -x $programs/postgres && -x $programs/createdb ]] || continue
        version=$("$programs/postgres" --version 2>/dev/null) || continue
        # "postgres (PostgreSQL) 17.2 (Debian …)", or 18beta1, or 19devel.
        [[ $version =~ \)\ ([0-9]+) ]] || continue
        version=${BASH_REMATCH[1]}
        if ((version >= oldest_postgres && version > best_version)); then
            best=$programs
            best_version=$version
        fi
    done
    [[ -n $best ]] && printf '%s\n' "$best"
}

is_there() {
    case $1 in
    cc) command -v cc >/dev/null ;;
    postgres) find_postgres >/dev/null ;;
    pgbouncer) command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]] ;;
    redis) command -v redis-server >/dev/null && command -v redis-benchmark >/dev/null ;;
    *) echo "tests/requirements.sh knows nothing named $1" >&2 && return 2 ;;
    esac
}

require() {
    local name
    local missing=()
    for name in "$@"; do
        is_there "$name" || missing+=("$name")
    done
    ((${#missing[@]} == 0)) && return

    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        echo "Missing: ${missing[*]}. Installing from the distribution's packages." >&2
        install_with_apt "${missing[@]}" >&2 || say_what_to_install "${missing[@]}"
        hash -r
    fi
    for name in "${missing[@]}"; do
        is_there "$name" || say_what_to_install "${missing[@]}"
    done
}

# Runs in a subshell, so that its lock and its trap end with it.
install_with_apt() (
    # Of two test runs that start together, the second waits for the first and
    # then finds little to do. The lock is on this file: nothing to clean up.
    exec 8<"${BASH_SOURCE[0]}"
    flock 8

    packages=()
    for name in "$@"; do
        case $name in
        cc) packages+=(gcc libc6-dev) ;;
        postgres) packages+=(postgresql) ;;
        pgbouncer) packages+=(pgbouncer) ;;
        redis) packages+=(redis-server redis-tools) ;;
        esac
    done

    # Debian's packages make a cluster and start services. This machine wanted
    # only the programs: two files say so for as long as the installation takes.
    drop_ins=/etc/postgresql-common/createcluster.d
    drop_in=$drop_ins/larder-tests.conf
    policy=/usr/sbin/policy-rc.d
    [[ -e $policy ]] && policy=''
    trap 'rm -f "$drop_in" ${policy:+"$policy"}; rmdir "$drop_ins" /etc/postgresql-common 2>/dev/null || true' EXIT
    mkdir -p "$drop_ins"
    echo 'create_main_cluster = false' >"$drop_in"
    if [[ -n $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi

    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o DPkg::Lock::Timeout=300 update </dev/null &&
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${packages[@]}" </dev/null
)

say_what_to_install() {
    local apt='' dnf='' brew='' name
    for name in "$@"; do
        case $name in
        cc)
            apt+=' gcc libc6-dev' dnf+=' gcc' brew+=' gcc'
            echo "Missing: a C compiler, named cc, for the SQLite that is compiled into larder."
            ;;
        postgres)
            apt+=' postgresql' dnf+=' postgresql-server' brew+=' postgresql@17'
            echo "Missing: the server programs (initdb, pg_ctl, postgres) of PostgreSQL $oldest_postgres or newer."
            ;;
        pgbouncer)
            apt+=' pgbouncer' dnf+=' pgbouncer' brew+=' pgbouncer'
            echo "Missing: PgBouncer, which a test puts before the server."
            ;;
        redis)
            apt+=' redis-server redis-tools' dnf+=' redis' brew+=' redis'
            echo "Missing: Redis, beside which larder is measured."
            ;;
        esac
    done >&2
    cat >&2 <<END
Install what is missing with one of
    apt-get install --no-install-recommends$apt
    dnf install$dnf
    brew install$brew
END
    if [[ " $* " == *" postgres "* ]]; then
        cat >&2 <<END
or set LARDER_TEST_POSTGRES_URL to the URL of a running server (postgres://USER:PASSWORD@HOST:PORT/DATABASE)
whose user may create schemas and databases.
END
    fi
    exit 2
}
