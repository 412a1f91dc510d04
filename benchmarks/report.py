"""The results of a run: a row for each provider of each case, as text and as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

COPY = "copy"  # the provider that only moves the bytes


@dataclass
class Row:
    """A provider's seconds for one call, by round."""

    op: str
    case: str
    provider: str
    moved: int | None  # bytes
    note: str = ""  # why there are no times
    seconds: list[float] = field(default_factory=list)

    def relative_to(self, base: Row | None) -> list[float]:
        """Ratios of times of the same round; none where there are no times."""
        if base is None or not base.seconds or not self.seconds:
            return []
        return [mine / theirs for mine, theirs in zip(self.seconds, base.seconds, strict=True)]


class Spread(NamedTuple):
    median: float
    low: float  # quartiles
    high: float


def spread(values: list[float]) -> Spread:
    if len(values) == 1:
        return Spread(*values * 3)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


# Keeps freed memory in the process, for all providers alike; malloc reads it when Python starts.
HEAP_KEPT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
HEAPS = {
    "kept": "kept: freed memory stays in the process",
    "default": (
        "default malloc: large buffers go back to the system, and touching new pages can cost\n"
        "         more than the work. To keep them: "
        + " ".join(f"{name}={value}" for name, value in HEAP_KEPT.items())
    ),
}


def in_threads(facts: dict[str, Any]) -> str:
    return f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"


def header(facts: dict[str, Any]) -> str:
    gpu = f"; {facts['gpu']}" if facts["gpu"] else ""
    quick = "; quick: the figures mean nothing" if facts["quick"] else ""
    return f"""\
machine  {facts["cpu"]}, {facts["cores"]} cores{gpu}
run      device {facts["device"]}, dtype {facts["dtype"]}, {in_threads(facts)}, \
SIMD {facts["simd"]}{quick}
versions focaldet {facts["focaldet"]}, torch {facts["torch"]}, \
torchvision {facts["torchvision"] or "not installed"}, Python {facts["python"]}
csrc     sha256 {facts["csrc_sha256"]}
heap     {HEAPS[facts["heap"]]}

Medians and quartiles; ratios are of times within one round. The copy moves the bytes that must be
read and written at least, into memory that is in use."""


def block(rows: list[Row]) -> str:
    """A case: a line for each provider."""
    by_provider = {row.provider: row for row in rows}
    lines = [f"\n{rows[0].case}"]
    for name, row in by_provider.items():
        title = f"copy, {row.moved / 2e6:.3g} MB" if name == COPY else name
        if row.note:
            lines.append(f"  {title:<16}{row.note}")
            continue
        middle, low, high = spread(row.seconds)
        times = f"{duration(middle):>9}  {duration(low)} - {duration(high)}"
        cells = [f"  {title:<16}{times:<32}"]
        for base in ("focaldet", COPY):
            cell = ""
            if name not in (base, COPY) and (ratios := row.relative_to(by_provider.get(base))):
                middle, low, high = map(digits, spread(ratios))
                cell = f"{middle:>7} x {base} ({low} - {high})"
            cells.append(f"{cell:<36}")
        lines.append("".join(cells).rstrip())
    return "\n".join(lines)


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
