"""A result's rows, arranged for drawing: panels of a sweep, and cases beside their limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..report import LIMITS, Row, Spread, spread

LIMIT = "limit"
WAYS = {"both": "forward and backward"}
Value = int | str


@dataclass
class Line:
    """A provider's values along the swept axis."""

    x: list[Value] = field(default_factory=list)
    y: list[Spread] = field(default_factory=list)

    def add(self, x: Value, y: Spread) -> None:
        self.x.append(x)
        self.y.append(y)


@dataclass
class Panel:
    """One function's sweep."""

    title: str
    axis: str
    fixed: dict[str, Value]  # sizes that are the same all along
    seconds: dict[str, Line] = field(default_factory=dict)  # by provider, and the limit
    peak: dict[str, Line] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What was timed in turns."""

    title: str
    rows: dict[str, Row]  # by provider

    @property
    def first(self) -> Row:
        return next(iter(self.rows.values()))

    @property
    def providers(self) -> list[Row]:
        """Without what only moves the bytes."""
        return [row for name, row in self.rows.items() if name not in LIMITS]

    def limit(self) -> list[float]:
        """What the memory needs for the bytes that must be moved, by round."""
        moved = [row.seconds for name, row in self.rows.items() if name in LIMITS]
        return next(filter(None, [row.limit for row in self.rows.values()] + moved), [])

    def ratios(self, base: str) -> dict[str, Spread]:
        """Every provider's time by that of `base`, or by the limit, of the same round."""
        under = (
            self.limit() if base == LIMIT else self.rows[base].seconds if base in self.rows else []
        )
        return {
            row.provider: spread([a / b for a, b in zip(row.seconds, under, strict=True)])
            for row in self.providers
            if row.seconds and len(row.seconds) == len(under)
        }


def cases(rows: Sequence[Row]) -> list[Case]:
    """Titles tell the way, where there are several, and caches that are cold."""
    ways: dict[tuple[str, str], set[str]] = {}
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        ways.setdefault((row.op, row.case), set()).add(row.way)
        found.setdefault((row.op, row.case, row.way, row.cache), {})[row.provider] = row
    return [
        Case(
            case
            + (f", {WAYS.get(way, way)}" if len(ways[op, case]) > 1 else "")
            + (f", {cache} caches" if cache != "warm" else ""),
            by_provider,
        )
        for (op, case, way, cache), by_provider in found.items()
    ]


def providers(rows: Iterable[Row]) -> list[str]:
    """Those that were timed, focaldet first, without the limit."""
    names = dict.fromkeys(row.provider for row in rows if row.seconds)
    return sorted(
        names.keys() - set(LIMITS), key=lambda name: (not ours(name), [*names].index(name))
    )


def ours(provider: str) -> bool:
    """Also of a variant: "focaldet, recompute"."""
    return provider.startswith("focaldet")


def panels(axis: str, rows: Sequence[Row]) -> list[Panel]:
    """One for each title, when the sizes have been taken out of it."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in cases(rows):
        if axis in case.first.sizes:
            title = case.title.replace(f", {sizes_text(case.first.sizes)}", "")
            found.setdefault((case.first.op, title), []).append(case)
    return [panel(title, axis, group) for (_, title), group in found.items()]


def panel(title: str, axis: str, group: list[Case]) -> Panel:
    sizes = [case.first.sizes for case in group]
    fixed = {k: v for k, v in sizes[0].items() if k != axis and all(s.get(k) == v for s in sizes)}
    drawn = Panel(title, axis, fixed)
    for case, size in zip(group, sizes, strict=True):
        for name in providers(case.rows.values()):
            row = case.rows[name]
            drawn.seconds.setdefault(name, Line()).add(size[axis], spread(row.seconds))
            if row.peak is not None:
                peak = Spread(row.peak, row.peak, row.peak)
                drawn.peak.setdefault(name, Line()).add(size[axis], peak)
        if limit := case.limit():
            drawn.seconds.setdefault(LIMIT, Line()).add(size[axis], spread(limit))
    return drawn


def sizes_text(sizes: Mapping[str, Value]) -> str:
    """As it stands in the names of a sweep's cases."""
    return ", ".join(
        f"{k} = {v:,}" if isinstance(v, int) else f"{k} = {v}" for k, v in sizes.items()
    )
