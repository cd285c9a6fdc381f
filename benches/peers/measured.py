"""What benches/peers/run.sh measured, as report.py and plots.py read it."""

import json
import statistics

# How a figure is written, and whether more of it is better.
UNITS = {
    "rate": (lambda value: f"{value:,.0f} per s", True),
    "share": (lambda value: f"{value:.2f} %", False),
    "memory": (lambda value: f"{value:.1f} MiB", False),
}


def time_shown(value):
    if value < 1_000:
        return f"{value:,.1f} us"
    if value < 1_000_000:
        return f"{value / 1_000:,.2f} ms"
    return f"{value / 1_000_000:,.2f} s"


def shown(measure, value):
    if value is None:
        return ""
    return UNITS.get(measure, (time_shown, False))[0](value)


def more_is_better(measure):
    return UNITS.get(measure, (time_shown, False))[1]


def middle(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


class Work:
    """One line of the table."""

    def __init__(self, row):
        self.what, self.peer, self.measure, self.at_least = (
            row["work"],
            row["peer"],
            row["measure"],
            row["at_least"],
        )
        self.sides = {"peer": [], "larder": []}
        self.missing = None

    def figures(self, side, name):
        return [figures.get(name) for figures in self.sides[side]]

    def median(self, side, name=None):
        return middle(self.figures(side, name or self.measure))

    def pairs(self):
        return list(zip(self.figures("peer", self.measure), self.figures("larder", self.measure)))

    def ratio(self):
        if more_is_better(self.measure):
            return middle(ours / theirs for theirs, ours in self.pairs())
        # Nothing at all is as good as the least that is told.
        return middle(theirs / max(ours, 0.01) for theirs, ours in self.pairs())


def works(path):
    found = {}
    for line in open(path):
        row = json.loads(line)
        key = (row["work"], row["peer"])
        work = found.setdefault(key, Work(row))
        if row["side"] == "missing":
            work.missing = row["figures"]
        else:
            work.sides[row["side"]].append(row["figures"])
    return list(found.values())


def growth(path):
    """{engine: {operation: {rows: figure}}}"""
    found = {}
    try:
        lines = open(path).readlines()
    except FileNotFoundError:
        return found
    for line in lines:
        row = json.loads(line)
        for operation, figure in row["figures"].items():
            found.setdefault(row["engine"], {}).setdefault(operation, {})[row["rows"]] = figure
    return found


OPERATIONS = {
    "get": "get, 1 caller",
    "set": "set, 1 caller",
    "purge": "purge, 1,000 items",
    "enqueue": "enqueue, 1 caller",
    "fetch": "fetch and finish, 100 jobs",
}
ENGINES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def plot_name(work):
    words = "".join(letter if letter.isalnum() else " " for letter in f"{work.what} {work.peer}".lower()).split()
    return "-".join(words)
