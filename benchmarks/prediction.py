"""What suppression and post-processing are to take on a GPU: launches, bytes, and the times that
these and the counted operations predict.

A model, not a measurement. Launches are what the tests in tests/simt count; bytes and operations
per box are those that the kernels' comments derive; the rest are the assumptions below.
`benchmarks.compiler` renders the table into docs/kernels.md.
"""

from __future__ import annotations

from typing import NamedTuple

from .loops import H200

LAUNCH = 2e-6  # seconds from one kernel's start to the next one's
SORT = 8  # kernels of aten::sort.stable
TILE = 256  # candidates of a link of the chain (csrc/cuda/nms_tiles.cuh)
LINK = 2_900  # cycles from one tile's answer to the next one's: a poll, a barrier, 8 words settled
PAIR = 8  # instructions for two boxes that do not touch
ISSUE = 0.5  # share of the peak rate at which they are issued
KEPT = 0.25  # share of boxes
TRAFFIC = {False: 230, True: 350}  # bytes read and written per box, with its sorts; by "groups?"
MEMORY = 120  # bytes in use per box, of which 32 are taken to be the sorts' own
BOXES = (1_000, 10_000, 100_000, 200_000, 1_000_000)
CLASSES = 80


class Work(NamedTuple):
    launches: int
    traffic: float  # bytes
    pairs: float
    links: float  # of the longest chain

    def seconds(self) -> float:
        """Nothing overlaps: an upper bound, as far as the assumptions hold."""
        return (
            self.launches * LAUNCH
            + self.traffic / H200.copy
            + self.pairs * PAIR / (ISSUE * H200.instructions)
            + self.links * LINK / H200.clock
        )


def suppression(boxes: int, groups: int) -> Work:
    sorts = 1 if groups == 1 else 2
    group = boxes / groups
    return Work(
        launches=3 + sorts * (1 + SORT),
        traffic=boxes * TRAFFIC[groups > 1],
        pairs=boxes * KEPT * group / 2,
        links=group / TILE,
    )


def post_processing(logits: int, size: int, rows: int) -> Work:
    """One pass over the logits is enough; the 8 launches of the others leave at once."""
    nms = suppression(rows, CLASSES)
    return nms._replace(launches=12 + nms.launches, traffic=nms.traffic + logits * size)


def table() -> str:
    lines = [
        f"Predicted for an {H200.name}, as no GPU has run this: {LAUNCH * 1e6:g} µs a kernel "
        f"({SORT} kernels a sort), {H200.copy / 1e12:g} TB/s, {KEPT:.0%} of the boxes kept, {PAIR} "
        f"instructions a pair at {ISSUE:.0%} of the peak rate, {LINK:,} cycles for a link of the "
        f"chain of tiles ({TILE} boxes of one group); added up.",
        "",
        "| work | kernels | bytes moved | memory in use | predicted | torchvision's mask |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for groups, name in ((1, "nms, one group"), (CLASSES, f"batched_nms, {CLASSES} classes")):
        for n in BOXES:
            work = suppression(n, groups)
            mask = n * -(-n // 64) * 8
            cells = (f"`{name.split(',')[0]}`,{name.partition(',')[2]}, {n:,} boxes", work.launches)
            sizes = (work.traffic, n * MEMORY)
            lines.append(row(*cells, *map(megabytes, sizes), work.seconds(), megabytes(mask)))
    images, anchors, size, topk = 16, 201_600, 2, 5_000  # topk: of all levels
    work = post_processing(images * anchors * CLASSES, size, images * topk)
    name = f"`retinanet_postprocess`, {images} images of 800 x 1344, {CLASSES} classes, bfloat16"
    # The buffers are free again when NMS begins; the rows for it are not (28 bytes).
    kept = megabytes(images * topk * (MEMORY + 28))
    lines.append(row(name, work.launches, megabytes(work.traffic), kept, work.seconds(), ""))
    return "\n".join(lines)


def row(name: str, launches: int, traffic: str, memory: str, seconds: float, mask: str) -> str:
    return f"| {name} | {launches} | {traffic} | {memory} | {seconds * 1e3:.2g} ms | {mask} |"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"
