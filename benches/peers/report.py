"""The report of what benches/peers/run.sh measured: python report.py RESULTS ROUNDS SECONDS VERSIONS MISSING..."""

import collections
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys

RULES = """\
- The same work on both sides: 10,000 keys, chosen at random, and values of about 250 bytes of JSON that are encoded
  and decoded into the caller's own type. `pgbench` and `redis-benchmark` decode nothing and so have less to do.
- The same number of callers at once on both sides, unless the work says otherwise. diskcache's callers are threads.
- The same promise of durability. SQLite: write-ahead log and `synchronous = NORMAL`, which are diskcache's defaults and
  larder's. PostgreSQL: a server with its own defaults, `fsync` on. Redis keeps nothing on disk, which is to its advantage.
- diskcache stores the JSON text that the caller makes, which is quicker than its own `JSONDisk`.
- larder has its default settings and no memory tier: every read is one of the database.
- Each round measures the peer and then larder, work by work, so that whatever else the machine does meets both. A
  quarter of the time goes before it as warm-up. The first call of all, which opens connections, is not in the figures: it
  is the column `cold`.
- A figure is the median of the rounds, and so is a ratio, which is taken within each round. A ratio of times is the
  peer's by larder's, and one of rates larder's by the peer's: more is better for larder."""


def shown(measure, value):
    if value is None:
        return ""
    if measure == "rate":
        return f"{value:,.0f} per s"
    return f"{value:,.1f} us" if value < 1000 else f"{value / 1000:,.2f} ms"


def middle(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main():
    results, rounds, seconds, versions, *missing = sys.argv[1:]
    works = collections.OrderedDict()
    for line in open(results):
        row = json.loads(line)
        works.setdefault((row["work"], row["peer"], row["measure"], row["at_least"]), {}).setdefault(
            row["side"], []
        ).append(row["figures"])
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    print("# Benchmarks\n")
    print("larder and its peers at the same work, in one run: `benches/peers/run.sh` measures, and writes this page.")
    print(f"\n{datetime.date.today()}, {os.cpu_count()} cores of {processor()}, Linux {platform.release()}, Rust {version}.")
    print(f"{versions}. {rounds} rounds of {float(seconds):g} s for each side of each work.\n")
    if os.environ.get("NOTE"):
        print(os.environ["NOTE"] + "\n")
    print("| work | peer | peer's figure | larder's figure | ratio | at least | holds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (work, peer, measure, at_least), sides in works.items():
        pairs = [(one[measure], other[measure]) for one, other in zip(sides["peer"], sides["larder"])]
        ratio = middle(ours / theirs if measure == "rate" else theirs / ours for theirs, ours in pairs)
        theirs, ours = (middle(pair[side] for pair in pairs) for side in (0, 1))
        holds = "yes" if ratio >= at_least else "**no**"
        print(
            f"| {work} | {peer} | {shown(measure, theirs)} | {shown(measure, ours)} "
            f"| {ratio:.2f} | {at_least:g} | {holds} |"
        )
    print("\n## Spread\n")
    print("| work | who | rate | median | p99 | cold |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (work, peer, _, _), sides in works.items():
        for side, who in (("peer", peer), ("larder", "larder")):
            figures = [
                shown("rate" if name == "rate" else name, middle(one[name] for one in sides[side]))
                for name in ("rate", "median", "p99", "cold")
            ]
            print(f"| {work} | {who} | " + " | ".join(figures) + " |")
    print("\n## Rules\n")
    print(RULES)
    missing = [peer for peer in missing if peer]
    print(f"- Not to be had on this machine: {', '.join(missing)}." if missing else "- Every peer could be had.")


main()
