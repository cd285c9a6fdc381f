#!/usr/bin/env python3
"""Writes cron_oracle.tsv, what cron_oracle.rs holds the crate's ticks against.

    pip install croniter==7.0.0 tzdata==2025.2
    python tests/it/cron_oracle.py > tests/it/cron_oracle.tsv

Two oracles, neither of which shares code with the crate:

croniter    Far from any change of offset, croniter alone, with its option for Vixie
            cron's rule. A row whose start or ticks come within two days of a change
            is dropped, for croniter runs a doubled time twice. Expressions on which
            croniter means something else are left out: `LW`, `1-31` or `0-6` next
            to another restricted day (to croniter a full range is `*`), `#` and `W`
            next to another restricted day (croniter takes both as conditions).
            `FRI#L` is written `L5` to it.
clock       Around a change, every second (or minute) is converted with zoneinfo and
            looked at. croniter only says which wall-clock times match, on a naive
            calendar; the rules for gaps and overlaps are spelled out in `ticks`.

tzdata 2025.2 is IANA 2025b, which chrono-tz 0.10.4 carries too. All times are past, so
that later releases should agree as well; the `offsets` lines list every change of the
zones used, and the test compares them first, so that a disagreement about timezones
cannot look like one about cron.

Lines: offsets ZONE FROM OFFSET [CHANGE OFFSET]...
       ORACLE EXPRESSION ZONE START LATEST NEXT NEXT-BUT-ONE
LATEST is the last tick at or before START; the ticks are seconds from START, START and
FROM seconds of the Unix epoch, CHANGE seconds from the one before, OFFSET seconds east
of Greenwich.
"""

import random
import re
import sys
import zoneinfo
from bisect import bisect_left, bisect_right
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

import tzdata
from croniter import CroniterBadDateError, croniter

assert tzdata.IANA_VERSION == "2025b", tzdata.IANA_VERSION
assert version("croniter") == "7.0.0", version("croniter")
zoneinfo.reset_tzpath(())  # the package, not the machine's files

RANDOM = random.Random(20240331)
EPOCH = datetime(1970, 1, 1)
DAY = 86400
FROM = int((datetime(2000, 1, 1) - EPOCH).total_seconds())
TO = int((datetime(2025, 1, 1) - EPOCH).total_seconds())
ZONES = [zoneinfo.ZoneInfo(name) for name in """
    UTC Europe/Berlin Europe/London Europe/Lisbon Europe/Istanbul Europe/Moscow
    America/New_York America/Los_Angeles America/St_Johns America/Sao_Paulo
    America/Santiago America/Havana America/Caracas Africa/Cairo Africa/Casablanca
    Africa/Lagos Asia/Tehran Asia/Kolkata Asia/Kathmandu Asia/Tokyo Asia/Pyongyang
    Asia/Amman Asia/Beirut Australia/Sydney Australia/Lord_Howe Australia/Adelaide
    Antarctica/Troll Pacific/Auckland Pacific/Chatham Pacific/Apia Pacific/Fakaofo
    Pacific/Kiritimati America/Asuncion America/Chicago America/Godthab Asia/Gaza
    Asia/Ulaanbaatar Atlantic/Azores Europe/Dublin Europe/Chisinau Pacific/Easter
    Pacific/Norfolk Africa/Windhoek Asia/Jerusalem
""".split()]


def offset(zone, at):
    aware = datetime.fromtimestamp(at, timezone.utc).astimezone(zone)
    return int(aware.utcoffset().total_seconds())


def changes_of(zone):
    """Every instant from FROM to TO at which the offset changes."""
    changes = []
    for at in range(FROM, TO, DAY):
        low, high = at, at + DAY
        before = offset(zone, low)
        if offset(zone, high) != before:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(zone, middle) == before else (low, middle)
            changes.append(high)
    return changes


CHANGES = {zone.key: changes_of(zone) for zone in ZONES}


# Expressions.

def number(low, high):
    return str(RANDOM.randint(low, high))


def some(low, high, step_max):
    """One of the shapes that a field may have, apart from `*`."""
    kind = RANDOM.randrange(6)
    first, last = sorted(RANDOM.sample(range(low, high + 1), 2))
    step = RANDOM.randint(2, step_max)
    if kind <= 1:
        return number(low, high)
    if kind == 2:
        return ",".join(sorted({number(low, high) for _ in range(3)}, key=int))
    if (first, last) == (low, high):
        last -= 1
    return [f"{first}-{last}", f"{first}-{last}/{step}", f"*/{step}"][kind - 3]


def maybe(text, otherwise, odds):
    return text if RANDOM.random() < odds else otherwise


def days():
    """Day of month, month, day of week."""
    month = maybe(some(1, 12, 6), "*", 0.2)
    if RANDOM.random() < 0.1:
        month = RANDOM.choice(["JAN", "feb-Apr", "JUN,DEC", "OCT"])
    kind = RANDOM.randrange(10)
    if kind <= 3:
        return "*", month, "*"
    if kind == 4:
        return RANDOM.choice(["?", some(1, 28, 9)]), month, "*"
    if kind == 5:
        of_week = RANDOM.choice(["MON-FRI", "sat,sun", "7", "1/2", "*/2", "SAT-SUN", "5-7", number(0, 7)])
        return "*", month, of_week
    if kind == 6:
        special = ["L", f"{number(1, 28)}W", "1W", f"{number(0, 6)}#{number(1, 5)}", f"{number(0, 6)}#L"]
        special = RANDOM.choice(special)
        return ("*", "*", special) if "#" in special else (special, month, "?")
    if kind == 7:
        return f"*/{number(2, 15)}", month, number(0, 7)
    if kind == 8:
        return some(1, 28, 9), month, RANDOM.choice(["MON", "2,4", "1-5", "*/3", number(0, 7)])
    return RANDOM.choice([("29", "2", "*"), ("31", "*", "*"), ("1", "1", "*"), ("30", "*/5", "*")])


def expression():
    minute = maybe(some(0, 59, 30), "*", 0.9)
    hour = maybe(some(0, 23, 12), "*", 0.7)
    fields = [minute, hour, *days()]
    if RANDOM.random() < 0.1:
        fields.insert(0, some(0, 59, 30))
    return " ".join(fields)


def expression_near(wall, by_second):
    """One that is likely to tick at about this wall-clock time."""
    near = wall + timedelta(minutes=RANDOM.randint(-100, 100))
    minute = RANDOM.choice([str(near.minute), str(near.minute), "*/15", "*/20", "5/25", "0,30",
                            "15,45", "0", "*", "10-50/20", some(0, 59, 30)])
    hours = [str(near.hour), str(near.hour), "*", "*/2", "*/6", "1-3", "0-4", "2,14", "1/2",
             f"{near.hour},{(near.hour + 9) % 24}", "23,0", "*/12"]
    hour = RANDOM.choice(hours)
    if hour == "23,0":
        hour = "0,23"
    kind = RANDOM.randrange(12)
    date = (str(near.day), str(near.month), "*")
    weekly = ("*", "*", str(near.isoweekday()))
    alternatives = [date, weekly, ("*/2", "*", "*"), (str(near.day), "*", "FRI")]
    date = alternatives[kind] if kind < len(alternatives) else ("*", "*", "*")
    fields = [minute, hour, *date]
    if by_second:
        seconds = ["*/20", "30", "0,59", "15-45/15"]
        fields.insert(0, RANDOM.choice(seconds))
    return " ".join(fields)


def to_croniter(text):
    """croniter has the seconds last, and `L5` for `5#L`."""
    fields = text.replace("?", "*").split()
    fields[-1] = re.sub(r"(\d)#L", r"L\1", fields[-1])
    return " ".join(fields[1:] + fields[:1] if len(fields) == 6 else fields)


def cron(text, start):
    return croniter(to_croniter(text), start, ret_type=datetime, implement_cron_bug=True)


# Oracles. Each gives (latest, next, next but one), or None when it has no say.

def ask_croniter(text, zone, start):
    aware = datetime.fromtimestamp(start, timezone.utc).astimezone(zone)
    try:
        forwards, backwards = cron(text, aware), cron(text, aware + timedelta(seconds=1))
        found = [backwards.get_prev(), forwards.get_next(), forwards.get_next()]
    except CroniterBadDateError:
        return None
    found = [int(tick.timestamp()) for tick in found]
    near = [abs(at - change) < 2 * DAY for change in CHANGES[zone.key] for at in [start, *found]]
    return None if any(near) or found[0] < 0 else found


class Clock:
    """What the clocks of a zone show, second by second or minute by minute."""

    def __init__(self, zone, around, reach, tick):
        self.instants = range(around - reach, around + reach + 1, tick)
        utc = (datetime.fromtimestamp(at, timezone.utc) for at in self.instants)
        self.walls = [aware.astimezone(zone).replace(tzinfo=None) for aware in utc]
        self.first = {}
        for at, wall in zip(self.instants, self.walls):
            self.first.setdefault(wall, at)

    def ticks(self, text):
        first, last = min(self.walls), max(self.walls)
        calendar = cron(text, first - timedelta(seconds=1))
        matching = []
        for _ in range(40000):
            wall = calendar.get_next()
            if wall > last:
                break
            matching.append(wall)
        else:
            return None
        fields = text.split()
        follows_real_time = any("*" in field for field in fields[: len(fields) - 3])
        if follows_real_time:
            wanted = set(matching)
            return [at for at, wall in zip(self.instants, self.walls) if wall in wanted]
        # The first instant that shows the time, or where none does, a later one.
        ticks = set()
        for wanted in matching:
            later = (at for at, wall in zip(self.instants, self.walls) if wall > wanted)
            ticks.add(self.first[wanted] if wanted in self.first else next(later))
        return sorted(ticks)


def ask_clock(ticks, start):
    at = bisect_right(ticks, start)
    return ticks[at - 1 : at + 2] if 1 <= at <= len(ticks) - 2 else None


# Rows.

def rows_of_croniter(wanted):
    rows = set()
    while len(rows) < wanted:
        text, zone = expression(), RANDOM.choice(ZONES)
        start = RANDOM.randrange(FROM + 5 * 366 * DAY, TO - 5 * 366 * DAY)
        if RANDOM.random() < 0.3:
            start -= start % 900
        found = ask_croniter(text, zone, start)
        if found:
            rows.add(("croniter", text, zone.key, start, *found))
    return rows


def rows_of_clock(per_change, wanted_changes, by_second):
    rows = set()
    changes = [(zone, change) for zone in ZONES for change in CHANGES[zone.key]]
    # Every zone's last ones, among them the odd ones, and some of the rest.
    chosen = [(zone, change) for zone in ZONES for change in CHANGES[zone.key][-4:]]
    chosen += [(zone, change) for zone, change in changes
               if abs(offset(zone, change) - offset(zone, change - 1)) != 3600]
    chosen += RANDOM.sample(changes, wanted_changes)
    if by_second:
        chosen = RANDOM.sample(chosen, wanted_changes)
    for zone, change in sorted(set(chosen), key=lambda it: (it[0].key, it[1])):
        reach = DAY if by_second else 9 * DAY
        others = [other for other in CHANGES[zone.key] if other != change]
        if any(abs(abs(change - other) - reach) < 2 * DAY for other in others):
            continue  # its clock could begin in an overlap
        clock = Clock(zone, change, reach, 1 if by_second else 60)
        before = clock.walls[bisect_left(clock.instants, change) - 1]
        for _ in range(per_change):
            text = expression_near(before, by_second)
            ticks = clock.ticks(text)
            for start in starts(change, ticks or []):
                found = ask_clock(ticks, start)
                if found:
                    rows.add(("clock", text, zone.key, start, *found))
    return rows


def starts(change, ticks):
    """Before, at, and after the change, inside both passes, at a tick and next to it."""
    near = [tick for tick in ticks if abs(tick - change) <= 2 * 3600] or [change]
    return RANDOM.sample([
        change - RANDOM.randrange(3600),
        change + RANDOM.randrange(3600),
        change - RANDOM.randrange(2 * DAY),
        change + RANDOM.randrange(2 * DAY),
        change - 1,
        change,
        RANDOM.choice(near),
        RANDOM.choice(near) - 1,
    ], 3)


def main():
    for zone in ZONES:
        parts = [FROM, offset(zone, FROM)]
        for before, change in zip([FROM, *CHANGES[zone.key]], CHANGES[zone.key]):
            parts += [change - before, offset(zone, change)]
        print("offsets", zone.key, *parts, sep="\t")
    rows = rows_of_croniter(2500)
    rows |= rows_of_clock(16, 45, by_second=False)
    rows |= rows_of_clock(12, 12, by_second=True)
    for oracle, text, zone, start, *ticks in sorted(rows):
        print(oracle, text, zone, start, *(tick - start for tick in ticks), sep="\t")
    print(len(rows), "rows", file=sys.stderr)


main()
