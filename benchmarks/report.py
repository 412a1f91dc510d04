"""The results of a run: a row for each provider of each case, as text and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .heap import HEAPS

LIMITS = ("copy", "read")  # the providers of limits.py


@dataclass
class Row:
    """What was measured of a provider of a case: its seconds for one call, by round.

    A case is identified by op, case, way and cache. Results that are older than a field load with
    its default.
    """

    op: str
    case: str
    provider: str
    moved: int | None  # bytes read and written at least
    note: str = ""  # why there are no seconds; beside seconds, a remark
    seconds: list[float] = field(default_factory=list)
    way: str = "both"
    cache: str = "warm"
    sizes: dict[str, int | str] = field(default_factory=dict)
    operations: float | None = None  # arithmetic, at least
    limit: list[float] = field(default_factory=list)  # seconds that memory needs for `moved`
    peak: int | None = None  # bytes taken at most beside inputs

    def relative_to(self, base: Row | None) -> list[float]:
        """Ratios of times of the same round; none where there are no times."""
        if base is None or not base.seconds or not self.seconds:
            return []
        return [mine / theirs for mine, theirs in zip(self.seconds, base.seconds, strict=True)]

    def reached(self) -> list[float]:
        """The fraction of the limit in each round; none where there is no limit."""
        if not self.limit:
            return []
        return [limit / mine for limit, mine in zip(self.limit, self.seconds, strict=True)]


class Spread(NamedTuple):
    median: float
    low: float  # quartiles
    high: float


def spread(values: list[float]) -> Spread:
    if len(values) == 1:
        return Spread(*values * 3)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def in_threads(facts: dict[str, Any]) -> str:
    return f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"


def version(facts: dict[str, Any], name: str) -> str:
    """Of a package. (Older results have some of them among the facts.)"""
    return facts.get("versions", facts).get(name) or "not installed"


def header(facts: dict[str, Any]) -> str:
    gpu = f"; {facts['gpu']}" if facts["gpu"] else ""
    quick = "; quick: the figures mean nothing" if facts["quick"] else ""
    limits = ", ".join(f"{k} {v / 1e9:.3g} GB/s" for k, v in facts["limits"].items())
    busy = "; other work may be in the way" if facts["load"] > facts["cores"] / 2 else ""
    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in facts["versions"].items())
    return f"""\
machine  {facts["cpu"]}, {facts["cores"]} cores{gpu}; memory: {limits}
load     {facts["load"]:g} processes at the start{busy}
run      device {facts["device"]}, dtype {facts["dtype"]}, {in_threads(facts)}, \
SIMD {facts["simd"]}{quick}
versions {versions}
csrc     sha256 {facts["csrc_sha256"]}
heap     {HEAPS[facts["heap"]]}

Medians and quartiles of one call; ratios are of times within one round. "% of copy" ("of read"): of
the speed at which this machine copies (reads) the bytes that must be moved at least. Peak: memory
taken at most beside the inputs, as tensors. Forward saves what backward needs."""


def block(rows: list[Row]) -> str:
    """A case: a table for each way and state of the caches, a line for each provider."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault((row.way, row.cache), {})[row.provider] = row
    return "\n".join("\n".join(_table(group)) for group in groups.values())


def _table(rows: dict[str, Row]) -> Iterator[str]:
    first = next(iter(rows.values()))
    unnamed = {k: size for k, size in first.sizes.items() if f"{k} = " not in first.case}
    sizes = ", ".join(f"{name}={size:,}" for name, size in unnamed.items())
    yield f"\n{first.case}{f' ({sizes})' if sizes else ''}; {first.way}, {first.cache} caches"
    limit = next((name for name in LIMITS if name in rows), None)
    for name, row in rows.items():
        title = f"{name}, {size(row.moved)}" if name == limit and row.moved else name
        cells = _cells(row, rows.get("focaldet"), limit) if row.seconds else ""
        yield f"  {title:<16}{cells}{row.note}".rstrip()


def _cells(row: Row, focaldet: Row | None, limit: str | None) -> str:
    middle, low, high = spread(row.seconds)
    ratio = reached = rate = peak = ""
    if row is not focaldet and (ratios := row.relative_to(focaldet)):
        times, least, most = map(digits, spread(ratios))
        ratio = f"{times} x focaldet ({least} - {most})"
    if fractions := row.reached():
        reached = f"{percent(spread(fractions).median)} of {limit}"
    if row.operations and row.provider != limit:
        rate = f"{row.operations / middle / 1e9:.3g} GFLOP/s"
    if row.peak is not None:
        peak = f"peak {size(row.peak)}"
    times = f"{duration(middle):>9}  {duration(low)} - {duration(high)}"
    cells = f"{times:<33}", f"{reached:<15}", f"{ratio:<36}", f"{peak:<14}", f"{rate:<15}"
    return " ".join(cells)


def percent(fraction: float) -> str:
    value = 100 * fraction
    if value < 0.1:
        return "< 0.1 %"
    return f"{value:.0f} %" if value >= 9.5 else f"{value:.1f} %"


def size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-6)} µs"


def digits(value: float) -> str:
    """Three of them; more for large numbers, never an exponent."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def write_json(path: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    found = {"facts": facts, "rows": [asdict(row) for row in rows]}
    path.write_text(layout(found) + "\n", encoding="utf-8")


def layout(value: Any, margin: str = "\n") -> str:
    """JSON with a line for each object that holds no other, so that a diff can be read."""
    inner = margin + " "
    if isinstance(value, dict) and any(isinstance(each, dict) for each in value.values()):
        lines = [f"{json.dumps(key)}: {layout(each, inner)}" for key, each in value.items()]
        return "{" + inner + f",{inner}".join(lines) + margin + "}"
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "[" + inner + f",{inner}".join(map(json.dumps, value)) + margin + "]"
    return json.dumps(value)
