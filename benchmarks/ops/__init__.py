"""The operators that `python -m benchmarks` times: a file for each family.

Its `cases(setup)` yields a `Case` for each function and workload: named inputs, a provider for each
implementation, and the bytes that any implementation must move.
"""

NAMES = (
    "focal_loss",
    "softmax_focal_loss",
    "anchors",
    "match",
    "nms",
    "boxes",
    "retinanet_loss",
    "postprocess",
    "model",
)
