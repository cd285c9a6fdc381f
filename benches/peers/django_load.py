"""Django's database cache, 1 caller: python django_load.py get|set SECONDS prints a line of JSON. On SQLite, or on the
PostgreSQL server of LARDER_TEST_POSTGRES_URL with ENGINE=postgres.

On SQLite it is told to keep a write-ahead log with synchronous NORMAL, as the others do; its own default waits for the
disk at each set.
"""

import json
import os
import sys
import tempfile
import time
from urllib.parse import urlsplit

import django
from django.conf import settings

from diskcache_load import KEYS, profile, scatter


def database(folder):
    if os.environ.get("ENGINE") == "postgres":
        url = urlsplit(os.environ["LARDER_TEST_POSTGRES_URL"])
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path[1:],
            "USER": url.username,
            "PASSWORD": url.password or "",
            "HOST": url.hostname,
            "PORT": url.port,
            "CONN_MAX_AGE": None,
        }
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(folder, "django.db"),
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"},
    }


def call(cache, work, number):
    if work == "get":
        assert json.loads(cache.get(f"user:{number}"))["id"] == number
    else:
        cache.set(f"user:{number}", json.dumps(profile(number)))


def load(cache, work, seconds):
    took, seed = [], 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        seed += 1
        number = scatter(seed) % KEYS
        began = time.perf_counter()
        call(cache, work, number)
        took.append(time.perf_counter() - began)
    return sorted(took)


def main():
    work, seconds = sys.argv[1], float(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        settings.configure(
            DATABASES={"default": database(folder)},
            CACHES={
                "default": {
                    "BACKEND": "django.core.cache.backends.db.DatabaseCache",
                    "LOCATION": "django_item",
                    "TIMEOUT": None,
                    "OPTIONS": {"MAX_ENTRIES": 10 * KEYS},
                }
            },
        )
        django.setup()
        from django.core.cache import cache
        from django.core.management import call_command
        from django.db import connection, transaction

        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS django_item")
        call_command("createcachetable", verbosity=0)
        with transaction.atomic():
            for number in range(KEYS):
                call(cache, "set", number)
        connection.close()
        began = time.perf_counter()
        call(cache, work, 0)
        cold = time.perf_counter() - began
        load(cache, work, seconds / 4)
        took = load(cache, work, seconds)
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE django_item")
        connection.close()
    print(
        json.dumps(
            {
                "rate": round(len(took) / seconds, 1),
                "median": round(took[len(took) // 2] * 1e6, 2),
                "p99": round(took[len(took) * 99 // 100] * 1e6, 2),
                "cold": round(cold * 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
