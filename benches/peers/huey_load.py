"""huey on SQLite: jobs that do nothing, from its consumer's start to the last job's end: python huey_load.py JOBS THREADS
prints a line of JSON.

Its defaults are kept, which are the write-ahead log and no fsync.
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time

from huey import SqliteHuey


def main():
    jobs, threads = int(sys.argv[1]), int(sys.argv[2])
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        huey = SqliteHuey("load", filename=os.path.join(folder, "huey.db"))
        left, lock, done = jobs, threading.Lock(), threading.Event()

        @huey.task()
        def nothing():
            nonlocal left
            with lock:
                left -= 1
                if left == 0:
                    done.set()

        for _ in range(jobs):
            nothing()
        began = time.perf_counter()
        consumer = huey.create_consumer(workers=threads, worker_type="thread", periodic=False, check_worker_health=False)
        consumer.start()
        done.wait()
        took = time.perf_counter() - began
        consumer.stop(graceful=True)
    print(json.dumps({"rate": round(jobs / took, 1)}))


if __name__ == "__main__":
    main()
