"""`python -m benchmarks.bars.recipes`: what the recipes in examples/ gain on the CPU, each beside
the function of the package that it replaces.

Runs recipes_cases.py twice, with freed memory kept in the process and as malloc is by default;
writes benchmarks/results/recipes/cpu.json, which `benchmarks.tables` renders into
examples/README.md. A package that is not installed is named, and nothing is written then. `--quick`
takes tiny inputs, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .. import bars
from ..facts import installed
from ..heap import HEAPS
from ..report import in_threads, version
from . import Result, Target
from .recipes_cases import PACKAGES

# By the names of the cases: what the table says of them.
TARGETS = tuple(
    Target(f"{package} | {work}", name, package, "focaldet", None, None)
    for name, (package, work) in PACKAGES.items()
)


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("recipes", __doc__, measured, table, argv)


def measured(rounds: int, quick: bool) -> Result:
    result = bars.timed("recipes_cases", rounds, quick)
    found = {package: installed(package) for package, _ in PACKAGES.values()}
    result["facts"]["versions"] |= {name: text for name, text in found.items() if text}
    return result


def table(result: Result) -> str:
    facts = result["facts"]
    quick = " Quick: the figures mean nothing." if facts["quick"] else ""
    packages = dict.fromkeys(package for package, _ in PACKAGES.values())
    versions = ", ".join(f"{name} {version(facts, name)}" for name in ("torch", *packages))
    lines = [
        f"{facts['cpu']}, {in_threads(facts)}, {facts['dtype']}; {versions}.{quick}",
        "",
        "| package | what is replaced | gain, heap kept | default malloc |",
        "|---|---|---:|---:|",
    ]
    for target in TARGETS:
        cells = [bars.cell(target, result[heap]) for heap in HEAPS]
        lines.append(f"| {' | '.join([target.work, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
