"""diskcache under the load of benches/load: python diskcache_load.py get|set CALLERS SECONDS prints a line of JSON.

Its defaults are kept (WAL, synchronous NORMAL), but for the values: JSON, as larder stores, by its own JSONDisk or as text
that the caller encodes (JSON_TEXT=1), whichever is quicker. Callers are threads, as its documentation has it, or
processes (PROCESSES=1).
"""

import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time

import diskcache

KEYS = 10_000


def profile(number):
    return {
        "id": number,
        "name": f"User {number}",
        "email": f"user{number}@example.com",
        "tags": ["alpha", "beta", "gamma"],
        "score": 12.5,
        "text": "x" * 128,
    }


def scatter(seed):
    mixed = ((seed ^ 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    return (((mixed ^ (mixed >> 31)) * 0x94D049BB133111EB) & (2**64 - 1)) >> 20


def opened(folder):
    if os.environ.get("JSON_TEXT"):
        return diskcache.Cache(folder)
    return diskcache.Cache(folder, disk=diskcache.JSONDisk)


def call(cache, work, number):
    text = os.environ.get("JSON_TEXT")
    key = f"user:{number}"
    if work == "get":
        found = cache.get(key)
        assert (json.loads(found) if text else found)["id"] == number
    else:
        value = profile(number)
        cache.set(key, json.dumps(value) if text else value)


def caller(folder, work, seed, until, took):
    with opened(folder) as cache:
        call(cache, work, 0)
        while time.perf_counter() < until:
            seed += 1
            number = scatter(seed) % KEYS
            began = time.perf_counter()
            call(cache, work, number)
            took.append(time.perf_counter() - began)


def in_process(folder, work, seed, until, pipe):
    took = []
    caller(folder, work, seed, until, took)
    pipe.send(took)


def load(folder, work, callers, seconds):
    until = time.perf_counter() + seconds
    if os.environ.get("PROCESSES"):
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(callers)]
        tasks = [
            multiprocessing.Process(target=in_process, args=(folder, work, number << 40, until, pipe))
            for number, (_, pipe) in enumerate(pipes)
        ]
        for task in tasks:
            task.start()
        lists = [pipe.recv() for pipe, _ in pipes]
    else:
        lists = [[] for _ in range(callers)]
        tasks = [
            threading.Thread(target=caller, args=(folder, work, number << 40, until, lists[number]))
            for number in range(callers)
        ]
        for task in tasks:
            task.start()
    for task in tasks:
        task.join()
    return sorted(took for one in lists for took in one)


def main():
    work, callers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        with opened(folder) as cache:
            with cache.transact():
                for number in range(KEYS):
                    call(cache, "set", number)
        began = time.perf_counter()
        with opened(folder) as cache:
            call(cache, work, 0)
        cold = time.perf_counter() - began
        load(folder, work, callers, seconds / 4)
        took = load(folder, work, callers, seconds)
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
