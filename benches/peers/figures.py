"""The figures of a peer's own benchmark program, as one line of JSON: python figures.py pgbench LOG | redis TEST."""

import csv
import glob
import json
import re
import sys


def pgbench(text, prefix):
    took = sorted(int(line.split()[2]) for log in glob.glob(prefix + ".*") for line in open(log))
    return {
        "rate": float(re.search(r"tps = ([0-9.]+)", text).group(1)),
        "median": took[len(took) // 2],
        "p99": took[len(took) * 99 // 100],
        "cold": None,
    }


def redis(text, test):
    row = next(row for row in csv.DictReader(text.splitlines()) if row["test"] == test)
    return {
        "rate": float(row["rps"]),
        "median": float(row["p50_latency_ms"]) * 1000,
        "p99": float(row["p99_latency_ms"]) * 1000,
        "cold": None,
    }


text = sys.stdin.read()
print(json.dumps({"pgbench": pgbench, "redis": redis}[sys.argv[1]](text, sys.argv[2])))
