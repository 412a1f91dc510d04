"""The README's table: a few rows of benchmarks/results, the CPU's and the GPU's side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .gpu import outcomes
from .report import LIMITS, Row, digits, duration, in_threads, spread, version
from .sources import csrc_sha256

Run = dict[str, Any]

STANDARD = "RetinaNet 800 x 1333"
# The case, and how: forward, or both ways where gradients are what it is for.
CASES = (
    (f"sigmoid_focal_loss from labels, {STANDARD}", "both"),
    (f"match_anchors, {STANDARD}", "forward"),
    (f"generate_anchors, {STANDARD}", "forward"),
    ("nms, 10,000 uniform boxes", "forward"),
    ("batched_nms, 10,000 uniform boxes", "forward"),
    ("nms_padded, dense crowd", "forward"),
    (f"retinanet_loss, {STANDARD}", "both"),
    (f"retinanet_postprocess, {STANDARD}", "forward"),
)


def render(runs: Sequence[Run], gpus: Sequence[Run]) -> str:
    """The table, what was measured on, and a line for a kind of device without a result.

    `runs`: of `python -m benchmarks`; `gpus`: of benchmarks/gpu.sh. The first of each is shown.
    """
    cpus = [run for run in runs if run["facts"]["device"] == "cpu"]
    timed = [part for gpu in gpus for part in gpu["steps"].values() if _is_float32(part)]
    shown = {"CPU": cpus[:1], "GPU": timed[:1]}
    lines = [
        f"| | {' | '.join(f'{kind} | torchvision / ours | ours / limit' for kind in shown)} |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *_rows([[Row(**row) for run in kind for row in run["rows"]] for kind in shown.values()]),
    ]
    captions = [_caption(kind, run[0]["facts"]) for kind, run in shown.items() if run]
    captions += [f"{kind}: not measured yet." for kind, run in shown.items() if not run]
    states = [outcomes.headline(gpu, csrc_sha256()) for gpu in gpus]
    return "\n\n".join(["\n".join(lines), *captions, *states])


def _is_float32(part: Run) -> bool:
    return "rows" in part and part["facts"]["dtype"] == "float32"


def _rows(runs: Sequence[Sequence[Row]]) -> Iterator[str]:
    for case, way in CASES:
        found = [[row for row in rows if (row.case, row.way) == (case, way)] for rows in runs]
        if any(found):
            cells = [cell for rows in found for cell in _cells(rows)]
            title = case + ", forward and backward" * (way == "both")
            yield f"| {title} | {' | '.join(cells)} |"


def _cells(rows: list[Row]) -> list[str]:
    """focaldet's time, the peer's as a multiple of it, and it as a multiple of memory's."""
    by_name = {"limit" if row.provider in LIMITS else row.provider: row for row in rows}
    ours = by_name.get("focaldet")
    if ours is None or not ours.seconds:
        return ["", "", ""]
    ratios = [
        by_name["torchvision"].relative_to(ours) if "torchvision" in by_name else [],
        ours.relative_to(by_name.get("limit")),
    ]
    cells = [f"{digits(spread(ratio).median)}x" if ratio else "" for ratio in ratios]
    return [duration(spread(ours.seconds).median), *cells]


def _caption(kind: str, facts: Run) -> str:
    return (
        f"{kind}: {facts['gpu'] or facts['cpu']}, {in_threads(facts)}, {facts['dtype']}; torch "
        f"{version(facts, 'torch')}, torchvision {version(facts, 'torchvision')}; csrc "
        f"`{facts['csrc_sha256'][:12]}`."
    )
