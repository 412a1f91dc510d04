"""ultralytics (YOLO): non-maximum suppression of all images of a batch in one call.

For whom: who predicts or validates with ultralytics' YOLO models that need NMS (YOLOv8, YOLO11 and
so on; end-to-end models have none). Models, arguments and results stay as they are.

    from ultralytics_nms import accelerate_nms

    with accelerate_nms() as swap:  # or keep what it returns, and undo() it some day
        print(swap)  # what was replaced
        YOLO("yolo11n.pt").val(data="coco8.yaml")

What it saves: a loop over images, each with half a dozen copies of the candidates, and the time of
quadratic suppression, which validation feels, as its confidence threshold of 0.001 leaves
thousands of candidates an image.

What differs: no time limit, after which theirs leaves the remaining images without detections, so
`max_time_img` does nothing. Classes are compared by number instead of being shifted by `max_wh`
pixels each: theirs rounds the boxes of class 79 to 1/16 pixel, and mixes classes if boxes lie
further than `max_wh` apart. All candidates take part, not the best `max_nms`. Equal scores go to
the lower row, and within it to the lower class. Indices are int64, also of images without
detections. Rotated boxes and end-to-end predictions are handed on to theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from swap import Swap, swap
from torch import Tensor
from ultralytics.utils import nms
from ultralytics.utils.ops import xywh2xyxy

from focaldet import ops

_theirs = nms.non_max_suppression


def accelerate_nms() -> Swap:
    """Replaces ultralytics' NMS functions, until `undo` or the end of a `with`."""
    return swap("ultralytics", {_theirs: non_max_suppression})


def non_max_suppression(
    prediction: Any,  # [B, 4 + nc + extra, N], or a sequence that begins with it
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: list[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
    nc: int = 0,
    max_time_img: float = 0.05,
    max_nms: int = 30000,
    max_wh: int = 7680,
    rotated: bool = False,
    end2end: bool = False,
    return_idxs: bool = False,
) -> list[Tensor] | tuple[list[Tensor], list[Tensor]]:
    """As ultralytics.utils.nms.non_max_suppression: by image [n, 6 + extra] in float32, (x1, y1,
    x2, y2, confidence, class, ...), and with `return_idxs` their columns of the prediction."""
    tensor = prediction[0] if isinstance(prediction, list | tuple) else prediction
    if rotated or end2end or tensor.shape[-1] == 6:
        theirs = (classes, agnostic, multi_label, max_det, nc, max_time_img, max_nms, max_wh)
        return _theirs(
            prediction, conf_thres, iou_thres, *theirs, rotated, end2end, return_idxs=return_idxs
        )
    if not 0 <= conf_thres <= 1:
        raise ValueError(f"conf_thres: expected a number in [0, 1], got {conf_thres}")
    nc = nc or tensor.shape[1] - 4
    image, row = (tensor[:, 4 : 4 + nc].amax(dim=1) > conf_thres).nonzero(as_tuple=True)
    found = tensor[image, :, row]  # [M, 4 + nc + extra]: only these rows are copied
    at, label, score = _candidates(found[:, 4 : 4 + nc], conf_thres, classes, multi_label)
    image, row, found = image[at], row[at], found[at]
    boxes = xywh2xyxy(found[:, :4])
    groups = image if agnostic else image * nc + label
    keep = ops.batched_nms(boxes, score, groups, iou_thres)
    keep, counts = _best_by_image(image[keep], keep, len(tensor), max_det)
    parts = boxes[keep], score[keep, None], label[keep, None].float(), found[keep, 4 + nc :]
    output = list(torch.cat(parts, dim=1).float().split(counts))
    return (output, list(row[keep].split(counts))) if return_idxs else output


def _candidates(
    scores: Tensor,  # [M, nc]
    threshold: float,
    classes: list[int] | None,
    multi_label: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, class and score of what exceeds the threshold: all classes of a row, or its best."""
    if multi_label:
        at, label = (scores > threshold).nonzero(as_tuple=True)
        score = scores[at, label]
    else:
        score, label = scores.max(dim=1)
        at = torch.arange(len(scores), device=scores.device)
    if classes is None:
        return at, label, score
    wanted = torch.isin(label, torch.tensor(classes, dtype=label.dtype, device=label.device))
    return at[wanted], label[wanted], score[wanted]


def _best_by_image(
    image: Tensor, keep: Tensor, images: int, max_det: int
) -> tuple[Tensor, list[int]]:
    """The first `max_det` of each image, image by image, and how many each has."""
    order = image.argsort(stable=True)  # keeps the order by score
    counts = image.bincount(minlength=images)
    start = (counts.cumsum(0) - counts)[image[order]]
    first = torch.arange(len(order), device=order.device) - start < max_det
    return keep[order[first]], counts.clamp(max=max_det).tolist()


def main() -> None:
    prediction = torch.zeros(4, 4 + 80, 8400)  # images of 640 x 640 pixels
    prediction[:, :4] = (torch.rand(4, 4, 8400) * 500 + 10).round()
    for scores in prediction[:, 4:]:  # all different: the order of equal ones is anybody's choice
        scores[torch.randint(80, (8400,)), torch.arange(8400)] = torch.randperm(8400) / 8400
    arguments = {"conf_thres": 0.9, "iou_thres": 0.5}
    theirs = nms.non_max_suppression(prediction, **arguments)
    with accelerate_nms() as swap:
        print(swap)
        ours = nms.non_max_suppression(prediction, **arguments)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    print(f"the same {sum(map(len, ours))} detections in {len(ours)} images")


if __name__ == "__main__":
    main()
