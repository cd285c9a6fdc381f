"""The page of what benches/peers/run.sh measured: python report.py RESULTS GROWTH VERSIONS ROUNDS SECONDS."""

import datetime
import os
import platform
import subprocess
import sys

import measured
from measured import shown

RULES = """\
- The same work on both sides: 10,000 keys, chosen at random, and values of about 250 bytes of JSON that are encoded
  and decoded into the caller's own type. `pgbench` and `redis-benchmark` decode nothing and so have less to do.
- The same number of callers at once on both sides, unless the work says otherwise. diskcache's callers are threads.
- The same promise of durability. SQLite: write-ahead log and `synchronous = NORMAL`, which are diskcache's defaults and
  larder's; Django's database is told the same. PostgreSQL: a server with its own defaults, `fsync` on. Redis keeps nothing
  on disk, and huey never waits for it, which is to their advantage.
- diskcache stores the JSON text that the caller makes, which is quicker than its own `JSONDisk`.
- larder has its default settings and no memory tier, unless the work says so: every read is one of the database.
- larder, and the peers that are crates, are built as larder is shipped: optimized over all crates at once (`lto = "fat"`, one
  unit), with mimalloc. In the build of `cargo build --release` with the system's allocator gathered gets are some 10 to 20 %
  fewer; jobs are as many.
- Each round measures the peer and then larder, work by work, so that whatever else the machine does meets both. A
  quarter of the time goes before it as warm-up. The first call of all, which opens connections, is not in the figures: it
  is the column `cold`.
- Jobs: 20,000 that do nothing, enqueued in one transaction while a worker waits that has run 2,000 others before. The time
  runs from then until the last one is written down as done, on both sides; `cold` is what larder's worker took from its
  start until its first job ran. huey's are enqueued before its threads start, and counted from then: it enqueues one by
  one. Peers have the settings of their own benchmarks.
- Jobs beside finished or waiting ones: 15 rounds of 4,000 jobs, on the three tables in turn.
- Enqueue to start: from before the call of `enqueue` to the handler's first line, one clock for both, and nothing else to
  do. Jobs come at no even distance, so that they keep no step with whoever looks at intervals.
- A purge has a writer beside it that sets one live item after the other, as fast as it can; so has the one big DELETE, on
  a table that was filled alike. `longest` is the longest wait of one set, and `alone` that of the two seconds before, when
  the same writer had nothing beside it.
- The idle daemon is `larder worker` with its default schedules. Its share of a core is its own processor time in 20 s; what
  the database server does for it is not in it.
- A bound is a figure that is to be kept, and no peer: the ratio is the bound's to larder's.
- A figure is the median of the rounds, and so is a ratio, which is taken within each round. A ratio of times is the
  peer's by larder's, and one of rates larder's by the peer's: more is better for larder. Where `at least` is empty, the
  figures are for information."""

COLUMNS = ("rate", "median", "p99", "longest", "alone", "total", "cold")


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def table(works):
    print("| work | peer | peer's figure | larder's figure | ratio | at least | holds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for work in works:
        at_least = "" if work.at_least is None else f"{work.at_least:g}"
        if work.missing:
            print(f"| {work.what} | {work.peer} | not to be had: {work.missing} | | | {at_least} | not measured |")
            continue
        ratio = work.ratio()
        holds = ("yes" if ratio >= work.at_least else "**no**") if at_least else ""
        figures = [shown(work.measure, work.median(side)) for side in ("peer", "larder")]
        ratio = f"{ratio:,.2f}" if ratio < 100 else f"{ratio:,.0f}"
        print(f"| {work.what} | {work.peer} | {figures[0]} | {figures[1]} | {ratio} | {at_least} | {holds} |")


def spread(works):
    print("| work | who | " + " | ".join(COLUMNS) + " |")
    print("| --- | --- |" + " --- |" * len(COLUMNS))
    seen = set()
    for work in works:
        for side, who in (("peer", work.peer), ("larder", "larder")):
            figures = [shown(name, work.median(side, name)) for name in COLUMNS]
            # A bound has no spread, and what was measured once for several lines of the table is shown once.
            line = f"{who} | " + " | ".join(figures)
            if sum(map(bool, figures)) > (who.startswith("the bound")) and line not in seen:
                seen.add(line)
                print(f"| {work.what} | {line} |")


def growth(engines):
    rows = sorted({size for operations in engines.values() for sizes in operations.values() for size in sizes})
    print("| engine | what | " + " | ".join(f"{size:,}" for size in rows) + " |")
    print("| --- | --- |" + " --- |" * len(rows))
    for engine, operations in engines.items():
        for operation, sizes in operations.items():
            figures = [measured.time_shown(sizes[size]) for size in rows]
            print(f"| {measured.ENGINES[engine]} | {measured.OPERATIONS[operation]} | " + " | ".join(figures) + " |")


def main():
    results, grown, versions, rounds, seconds = sys.argv[1:]
    works = measured.works(results)
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    print("# Benchmarks\n")
    print("larder and its peers at the same work, in one run: `benches/peers/run.sh` measures, and writes this page.")
    print(f"\n{datetime.date.today()}, {os.cpu_count()} cores of {processor()}, Linux {platform.release()}, Rust {version}.")
    named = "; ".join(line.strip() for line in open(versions) if line.strip())
    print(f"{named}. {rounds} rounds of {float(seconds):g} s for each side of each work, unless a work says otherwise.\n")
    if os.environ.get("NOTE"):
        print(os.environ["NOTE"] + "\n")
    if works:
        table(works)
        print("\n## Spread\n")
        spread(works)
    engines = measured.growth(grown)
    if engines:
        print("\n## Growth\n")
        print("What a call costs in a table of so many items or ready jobs, half of the items expired, or 20,000 of them at most.")
        print("A purge's time has the pauses in it that it makes for other writers. `docs/SCALING.md` says what follows.\n")
        growth(engines)
        print("\n![Cost against size](benchmarks/growth.svg)")
    if works:
        print("\n## Plots\n")
        print("Each dot is a round; the line is the median.\n")
        for work in works:
            if not work.missing:
                print(f"![{work.what}, against {work.peer}](benchmarks/{measured.plot_name(work)}.svg)\n")
        print("## Rules\n")
        print(RULES)
        missing = sorted({f"{work.peer} ({work.missing})" for work in works if work.missing})
        print(f"- Not measured here: {'; '.join(missing)}." if missing else "- Every peer could be had.")


main()
