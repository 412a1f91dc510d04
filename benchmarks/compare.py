"""`python -m benchmarks --compare OLD NEW`: what got slower beyond the noise, between two results.

Rows belong together that are of one provider of one case, way and cache. Neighbours on a machine
only ever add to a time, so the factor between two rows is that of their fastest rounds. It counts

- beyond the noise: if the quotients of all rounds of the one by all of the other, sorted, lie on
  one side of 1 but for those that the rank sum test expects elsewhere (Moses's bounds of the factor
  between two samples, with 99 %, whatever the distribution), and
- beyond a margin, for what all rounds of a run share: where the memory came to lie, the clock, a
  neighbour who stays. Its default is what a busy machine needs. From 18 passes of the short set on
  two cores beside a load of 6, 40 pairs of runs of three passes were drawn: by ratios no row went
  beyond 0.5, and had the code become twice as slow, 97.3 % of the rows would have. (Beyond 0.3 one
  run in six had a row; of single passes, one in four beyond 0.5.) A quiet machine can do with
  `--margin 0.1`.

What is compared depends on the machines. On the same one it is the times. With `--ratios`, or where
machines differ, it is how long focaldet takes beside its peers: its time by the geometric mean of
those of all others that both runs have timed (the limit, torchvision, ...) in the same round. A
machine that is slower, or busier, is so for all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .plots.series import LIMIT, ours
from .report import LIMITS, Row, digits, duration, spread
from .stored import Result, Unusable, read

MARGIN = 0.5
Z = 2.576  # of the normal distribution: 99 % lie within
MACHINE = ("cpu", "cores", "gpu")
SETTINGS = ("focaldet", "csrc_sha256", "torch", "torchvision", "python", "simd", "threads", "heap")

Key = tuple[str, str, str, str, str]


class Change(NamedTuple):
    """By which factor a row's times, or its ratios, changed, and the bounds of the noise."""

    old: Row
    new: Row
    factor: float
    low: float
    high: float

    def is_slower(self, margin: float) -> bool:
        return self.low > 1 and self.factor > 1 + margin

    def is_faster(self, margin: float) -> bool:
        return self.high < 1 and self.factor < 1 / (1 + margin)


def main(old_path: Path, new_path: Path, ratios: bool, margin: float) -> int:
    """The exit code: 1 if something of focaldet's got slower, or is timed no longer."""
    old, new = read(old_path), read(new_path)
    old_rows, new_rows = by_key(old), by_key(new)
    refuse_strangers(old, new, old_rows.keys() & new_rows.keys())
    differing = differences(old.facts, new.facts, MACHINE)
    kind = "ratios" if ratios or differing else "times"
    found = list((ratio_changes if kind == "ratios" else time_changes)(old_rows, new_rows))
    broken = list(no_longer_timed(old_rows, new_rows))
    mine = [change for change in found if is_ours(change.new)]
    if not mine and not broken:
        raise Unusable(f"{old.path} and {new.path}: no row of focaldet was timed in both")
    slower = any(change.is_slower(margin) for change in mine)
    print("\n".join(heading(old, new, kind, margin)))
    print("\n".join(report(found, old_rows, new_rows, broken, margin)))
    return int(slower or bool(broken))


# Matching ---------------------------------------------------------------------------------------


def key(row: Row) -> Key:
    return row.op, row.case, row.way, row.cache, row.provider


def by_key(result: Result) -> dict[Key, Row]:
    return {key(row): row for row in result.rows}


def is_ours(row: Row) -> bool:
    return ours(row.provider)


def refuse_strangers(old: Result, new: Result, shared: set[Key]) -> None:
    for name in ("device", "dtype", "quick"):
        before, after = old.facts.get(name), new.facts.get(name)
        if before != after:
            raise Unusable(
                f"{old.path} and {new.path} cannot be compared: {name} {before} and {after}"
            )
    if not shared:
        raise Unusable(f"{old.path} and {new.path} have no case in common")


def differences(old: dict[str, Any], new: dict[str, Any], names: Sequence[str]) -> list[str]:
    """As "torch 2.13.0 -> 2.14.1"."""
    return [
        f"{name} {str(old.get(name))[:40]} -> {str(new.get(name))[:40]}"
        for name in names
        if old.get(name) != new.get(name)
    ]


# Judging ----------------------------------------------------------------------------------------


def bounds(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """Of the factor between two samples: the extremes, where they are too few for 99 %."""
    n, m = len(old), len(new)
    quotients = sorted(after / before for before in old for after in new)
    rank = max(0, math.floor(n * m / 2 - Z * math.sqrt(n * m * (n + m + 1) / 12)))
    return quotients[rank], quotients[-1 - rank]


def time_changes(old: dict[Key, Row], new: dict[Key, Row]) -> Iterator[Change]:
    """Of all rows that both have timed."""
    for name, after in new.items():
        before = old.get(name)
        if before and before.seconds and after.seconds:
            factor = min(after.seconds) / min(before.seconds)
            yield Change(before, after, factor, *bounds(before.seconds, after.seconds))


def ratio_changes(old: dict[Key, Row], new: dict[Key, Row]) -> Iterator[Change]:
    """Of focaldet's rows that both have timed beside a peer."""
    for change in time_changes(old, new):
        before, after = peers(old, change.old), peers(new, change.new)
        if is_ours(change.new) and (shared := sorted(before.keys() & after.keys())):
            units = [[before[name] for name in shared], [after[name] for name in shared]]
            fastest = [statistics.geometric_mean(map(min, unit)) for unit in units]
            rounds = map(relative, (change.old.seconds, change.new.seconds), units)
            factor = change.factor * fastest[0] / fastest[1]
            yield Change(change.old, change.new, factor, *bounds(*rounds))


def peers(rows: dict[Key, Row], mine: Row) -> dict[str, list[float]]:
    """The times of all that were timed in turns with that row."""
    found = {
        name[-1]: row.seconds
        for name, row in rows.items()
        if name[:-1] == key(mine)[:-1] and not is_ours(row)
    }
    if not found.keys() & set(LIMITS):
        found[LIMIT] = mine.limit
    return {k: times for k, times in found.items() if times and len(times) == len(mine.seconds)}


def relative(mine: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """By round, to the others' geometric mean."""
    units = map(statistics.geometric_mean, zip(*others, strict=True))
    return [time / unit for time, unit in zip(mine, units, strict=True)]


def no_longer_timed(old: dict[Key, Row], new: dict[Key, Row]) -> Iterator[Row]:
    """Rows of focaldet that fail, or whose results have become wrong."""
    for name, row in new.items():
        if is_ours(row) and not row.seconds and name in old and old[name].seconds:
            yield row


# Reporting --------------------------------------------------------------------------------------


def heading(old: Result, new: Result, kind: str, margin: float) -> Iterator[str]:
    yield f"old      {old.path}"
    yield f"new      {new.path}"
    if text := differences(old.facts, new.facts, (*MACHINE, *SETTINGS)):
        yield f"differ   {'; '.join(text)}"
    what = {"times": "times", "ratios": "focaldet's time by its peers'"}[kind]
    yield f"compared {what} of the fastest rounds, beyond the noise and a margin of {margin:g}"


def report(
    found: list[Change],
    old: dict[Key, Row],
    new: dict[Key, Row],
    broken: list[Row],
    margin: float,
) -> Iterator[str]:
    """What changed, what is new and what is gone."""
    mine = [change for change in found if is_ours(change.new)]
    others = [change for change in found if not is_ours(change.new)]
    slower = [change for change in mine if change.is_slower(margin)]
    faster = [change for change in mine if change.is_faster(margin)]
    for title, changes in (("slower", slower), ("faster", faster)):
        yield from section(title, map(line, sorted(changes, key=lambda change: -change.factor)))
    yield from section("timed no longer", (f"{title_of(row)}: {row.note}" for row in broken))
    judged = {key(change.new) for change in mine}
    both = [row for name, row in new.items() if name in old and row.seconds and old[name].seconds]
    alone = [title_of(row) for row in both if is_ours(row) and key(row) not in judged]
    yield from section("not judged, for no peer was timed beside it in both", sorted(alone))
    yield from section("new", sorted({title_of(new[name]) for name in new.keys() - old.keys()}))
    yield from section("gone", sorted({title_of(old[name]) for name in old.keys() - new.keys()}))
    same = len(mine) - len(slower) - len(faster)
    yield f"\n{same} of {len(mine)} rows of focaldet as before"
    if others:
        middle, low, high = spread([change.factor for change in others])
        yield f"the others' times: {digits(middle)}x in the middle ({digits(low)} - {digits(high)})"


def section(title: str, lines: Iterable[str]) -> Iterator[str]:
    if found := list(lines):
        yield f"\n{title}"
        yield from (f"  {text}" for text in found)


def line(change: Change) -> str:
    times = " -> ".join(duration(min(row.seconds)) for row in (change.old, change.new))
    return f"{digits(change.factor) + 'x':>6}  {times:<20}  {title_of(change.new)}"


def title_of(row: Row) -> str:
    marks = [row.way] * (row.way != "both") + [row.cache] * (row.cache != "warm")
    return f"{row.case}{''.join(f', {mark}' for mark in marks)}: {row.provider}"
