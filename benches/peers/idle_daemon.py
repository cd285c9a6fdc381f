"""A worker that has nothing to do: python idle_daemon.py LARDER STARTS SECONDS prints a line of JSON for the database of
LARDER_DATABASE_URL: the share of a core in per cent, the resident memory in MiB, and the time from its start to its line
`ready` in microseconds, the median of so many starts on a database that is there.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time


def started(larder, folder):
    began = time.perf_counter()
    daemon = subprocess.Popen([larder, "worker"], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for line in daemon.stderr:
        if b"ready" in line:
            return daemon, time.perf_counter() - began
    raise SystemExit(f"{larder} worker ended with {daemon.wait()} and never was ready")


def ended(daemon):
    daemon.send_signal(signal.SIGTERM)
    daemon.stderr.read()
    daemon.wait()


def used(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    line = next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main():
    larder, starts, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        # The first start makes the tables.
        ended(started(larder, folder)[0])
        ready = []
        for _ in range(starts):
            daemon, took = started(larder, folder)
            ready.append(took)
            if len(ready) < starts:
                ended(daemon)
        try:
            time.sleep(2)
            before, began = used(daemon.pid), time.perf_counter()
            time.sleep(seconds)
            share = (used(daemon.pid) - before) / (time.perf_counter() - began) * 100
            memory = resident(daemon.pid)
        finally:
            ended(daemon)
    print(
        json.dumps(
            {"share": round(share, 3), "memory": round(memory, 2), "ready": round(statistics.median(ready) * 1e6, 1)}
        )
    )


if __name__ == "__main__":
    main()
