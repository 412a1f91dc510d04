"""`python -m benchmarks.kernel_pages`: what was measured of each family of kernels, rendered into
its page in docs/kernels.

The figures are those of results/cpu.json and of the float32 part of results/gpu/*.json, as
`python -m benchmarks.tables` has them all; here they stand beside the limit that a page speaks of,
and the memory. `--check` changes nothing, and exits with 1 if a page does not say what they say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import ROOT
from .report import LIMITS, Row, duration, in_threads, percent, size, spread
from .tables import parse, read, replace

SECTION = "measured"  # between its markers in each page
PAGES = (  # named as the op of the benchmarks' rows
    "anchors",
    "boxes",
    "focal_loss",
    "match",
    "nms",
    "postprocess",
    "retinanet_loss",
    "softmax_focal_loss",
)

Run = dict[str, Any]  # facts and rows
Case = tuple[str, str]  # its name, and what is done: forward, or both
Providers = dict[str, Row]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.kernel_pages", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a page differs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--pages", type=Path, default=ROOT / "docs" / "kernels")
    args = parser.parse_args(argv)
    cpu = parse(args.results / "cpu.json", "`python -m benchmarks --json`")
    gpus = [
        parse(path, "`bash benchmarks/gpu.sh`")["steps"]["float32"]
        for path in sorted(args.results.glob("gpu/*.json"))
    ]
    code = 0
    for name in PAGES:
        page = args.pages / f"{name}.md"
        text = read(page)
        rendered = replace(text, SECTION, partial(table, name, cpu, gpus), page)
        if rendered == text:
            continue
        if args.check:
            print(f"{page} does not say what {args.results} says; run this without --check")
            code = 1
        else:
            page.write_text(rendered, encoding="utf-8")
    return code


def table(op: str, cpu: Run, gpus: Sequence[Run]) -> str:
    """Time, and the share of what the machine's memory allows, on each machine; memory on the
    CPU, where torch's profiler counts that of tensors. A column without a figure is left out."""
    cases = [dict(wholes(op, run)) for run in (cpu, *gpus)]
    columns: dict[str, list[str]] = {"": [], "CPU": [], "memory": [], "torchvision's": []}
    columns |= {gpu["facts"]["gpu"]: [] for gpu in gpus}
    for case, way in cases[0]:
        on_cpu, *on_gpus = (run.get((case, way), {}) for run in cases)
        title = case + ", forward and backward" * (way == "both")
        memory = peak(on_cpu, "focaldet"), peak(on_cpu, "torchvision")
        cells = title, speed(on_cpu), *memory, *map(speed, on_gpus)
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    shown = {head: column for head, column in columns.items() if any(column)}
    lines = [f"| {' | '.join(cells)} |" for cells in (shown, *zip(*shown.values(), strict=True))]
    rule = f"|---|{'---:|' * (len(shown) - 1)}"
    return "\n".join([lines[0], rule, *lines[1:], "", caption(cpu, gpus)])


def wholes(op: str, run: Run) -> Iterator[tuple[Case, Providers]]:
    """The cases of an op: forward and backward together where there is a backward."""
    ways: dict[str, dict[str, Providers]] = {}
    for fields in run["rows"]:
        row = Row(**fields)
        if row.op == op:
            ways.setdefault(row.case, {}).setdefault(row.way, {})[row.provider] = row
    for case, by_way in ways.items():
        way = list(by_way)[-1]  # the last is the whole
        yield (case, way), by_way[way]


def speed(providers: Providers) -> str:
    row = providers.get("focaldet")
    if row is None or not row.seconds:
        return ""
    limit = next((name for name in LIMITS if name in providers), None)
    reached = row.reached()
    share = f" ({percent(spread(reached).median)} of a {limit})" if reached and limit else ""
    return duration(spread(row.seconds).median) + share


def peak(providers: Providers, name: str) -> str:
    row = providers.get(name)
    return size(row.peak) if row and row.peak is not None else ""


def caption(cpu: Run, gpus: Sequence[Run]) -> str:
    facts = cpu["facts"]
    heap = "heap kept" if facts["heap"] == "kept" else "default malloc"
    parts = [
        f"CPU: {facts['cpu']}, {in_threads(facts)}, SIMD {facts['simd']}, {facts['dtype']}, "
        f"{heap}, csrc `{facts['csrc_sha256'][:12]}`."
    ]
    parts += [
        f"{gpu['facts']['gpu']}: cold caches, csrc `{gpu['facts']['csrc_sha256'][:12]}`."
        for gpu in gpus
    ]
    return " ".join([*parts, "[How to read it](index.md#what-is-measured)."])


if __name__ == "__main__":
    sys.exit(main())
