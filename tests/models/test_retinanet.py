"""The detector: calling convention, options, config, and the tensor core below it."""

import copy
import json

import pytest
import torch

from focaldet.models import RetinaNet
from focaldet.models.losses import LOSSES
from focaldet.ops import AnchorGrid

SMALL = dict(width=8, fpn_channels=16, head_depth=1, min_size=64, max_size=96)


def small(**options):
    torch.manual_seed(0)
    return RetinaNet(3, "resnet18", **SMALL | options)


def loud(**options):
    """A small model whose untrained scores pass the threshold."""
    model = small(**options).eval()
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=1.0)
    torch.nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.3)
    return model


def samples():
    torch.manual_seed(1)
    images = [torch.rand(3, 64, 80), torch.rand(3, 90, 50), torch.rand(3, 40, 40)]
    boxes = [[[4.0, 6, 40, 50], [30, 30, 70, 60]], [], [[5.0, 5, 30, 35]]]
    labels = [[0, 2], [], [1]]
    targets = [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(k, dtype=torch.int64)}
        for b, k in zip(boxes, labels, strict=True)
    ]
    return images, targets


OPTIONS = [
    *[{"loss": loss} for loss in LOSSES],
    {"norm": "frozen"},
    {"norm": "group", "head_norm": "group"},
    {"p6_from": "c5", "box_loss": "l1", "normalizer": "image", "low_quality": "none"},
    {"anchor_grid": AnchorGrid.paper()},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_parameter_learns(options):
    model = small(**options)
    losses = model(*samples())
    assert list(losses) == ["classification", "bbox_regression"]
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # Mining with a quota may keep no anchor of some level, whose own layers then rest.
        if model.config["loss"] != "ohem_1to3" or name.startswith(("backbone.body", "head")):
            assert parameter.grad.any(), f"{name} gets no gradient"


@pytest.mark.simt
def test_the_cuda_kernels_train_and_detect_as_the_cpu_does(simt_kernels):
    """On the host. Sums are taken in another order there, and post-processing uses torch's exp."""
    images, targets = samples()

    def train_and_detect():
        model = small()
        losses = model(images, targets)
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        with torch.no_grad():
            return losses, gradients, loud()(images)

    losses, gradients, detections = train_and_detect()
    with simt_kernels.in_place_of_cpu():
        on_simt = train_and_detect()
    torch.testing.assert_close(on_simt[0], losses, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        assert (on_simt[1][name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    for found, expected in zip(on_simt[2], detections, strict=True):
        assert torch.equal(found["labels"], expected["labels"]) and len(found["labels"]) > 0
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-5, atol=0)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-2)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_boxes_in_the_batch(loss):
    images, targets = samples()
    losses = small(loss=loss)(images[1:2] * 2, targets[1:2] * 2)
    assert losses["classification"].isfinite() and losses["bbox_regression"] == 0
    sum(losses.values()).backward()


def test_training_reduces_the_loss():
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    history = []
    for _ in range(25):
        loss = sum(model(*samples()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0], history


def test_targets_are_left_alone():
    images, targets = samples()
    before = copy.deepcopy((images, targets))
    small()(images, targets)
    for old, new in zip(before[0], images, strict=True):
        assert torch.equal(old, new)
    for old, new in zip(before[1], targets, strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old) and old.keys() == new.keys()


@torch.no_grad()
def test_detections():
    model = loud(detections_per_img=7)
    images, _ = samples()
    results = model(images)
    assert len(results) == len(images)
    for image, result in zip(images, results, strict=True):
        boxes, scores, labels = result["boxes"], result["scores"], result["labels"]
        n = len(boxes)
        assert 0 < n <= 7 and scores.shape == labels.shape == (n,) and boxes.shape == (n, 4)
        assert boxes.dtype == scores.dtype == torch.float32 and labels.dtype == torch.int64
        height, width = image.shape[1:]
        limit = torch.tensor([width, height, width, height]) * (1 + 1e-6)
        assert (boxes >= 0).all() and (boxes <= limit).all()
        assert (scores > 0.05).all() and (scores.diff() <= 0).all()
        assert (labels >= 0).all() and (labels < 3).all()


@torch.no_grad()
def test_boxes_come_back_in_the_pixels_of_the_image():
    model = loud(min_size=96, max_size=200)
    images = [torch.rand(3, 48, 40), torch.rand(3, 96, 120)]  # enlarged by 2.4, and not at all
    batch, sizes, _ = model.transform.images(images)
    assert sizes.tolist() == [[115, 96], [96, 120]]
    inside = model.detect(batch, sizes)
    scale = torch.tensor([96 / 40, 115 / 48] * 2)
    first, second = model(images)
    assert len(first["boxes"]) == inside.counts[0] > 5
    torch.testing.assert_close(first["boxes"] * scale, inside.boxes[0, : inside.counts[0]])
    assert torch.equal(second["boxes"], inside.boxes[1, : inside.counts[1]])


@torch.no_grad()
def test_channels_last_gives_the_same_detections():
    model = loud(norm="group")
    images, _ = samples()
    want = model(images)
    got = model.to(memory_format=torch.channels_last)(images)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_nothing_above_the_threshold():
    (result,) = small().eval()([torch.rand(3, 64, 64)])
    assert [tuple(result[key].shape) for key in ("boxes", "scores", "labels")] == [
        (0, 4),
        (0,),
        (0,),
    ]


def test_n_foreground_stands_beside_the_losses():
    model = small()
    images, targets = samples()
    batch, _, scales = model.transform.images(images)
    losses = model.loss(batch, *model.transform.targets(targets, scales, 3))
    assert losses.n_foreground.item() >= 3 and losses.n_foreground.dtype == torch.int64
    assert losses.classification.requires_grad and not losses.n_foreground.requires_grad


@pytest.mark.parametrize("name", ["torchvision", "paper", "detectron2", "mmdetection"])
def test_config_round_trip(name):
    model = small(
        norm="group", p6_from="c5", anchor_grid=getattr(AnchorGrid, name)(), alpha=0.5, loss="ohem"
    )
    config = json.loads(json.dumps(model.config))
    assert config == model.config
    again = RetinaNet.from_config(config)
    assert again.config == config and again.anchor_grid == model.anchor_grid
    again.load_state_dict(model.state_dict())
    images, targets = samples()
    want, got = model(images, targets), again(images, targets)
    assert all(torch.equal(want[key], got[key]) for key in want)


def test_config_holds_every_argument():
    config = RetinaNet(2, "resnet18", **SMALL).config
    assert config["num_classes"] == 2 and config["width"] == 8 and config["score_thresh"] == 0.05
    with pytest.raises(TypeError, match="no_such"):
        RetinaNet.from_config(config | {"no_such": 1})


def test_deep_copies_are_apart():
    model = small()
    other = copy.deepcopy(model)  # as a moving average of the weights does
    with torch.no_grad():
        other.head.classification_head.cls_logits.bias.zero_()
    assert model.head.classification_head.cls_logits.bias.all()


def test_core_pads():
    model = loud()
    with torch.no_grad():
        found = model.detect(torch.rand(2, 3, 64, 96), torch.tensor([[64, 96], [50, 70]]))
    m = model.detections_per_img
    assert [tuple(t.shape) for t in found] == [(2, m, 4), (2, m), (2, m), (2,)]
    for i, n in enumerate(found.counts.tolist()):
        assert not found.boxes[i, n:].any() and (found.labels[i, n:] == -1).all()
    assert (found.boxes[1, :, [0, 2]] <= 70).all() and (found.boxes[1, :, [1, 3]] <= 50).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backbone": "vgg16"}, r"backbone: expected one of .*resnet101.*, got 'vgg16'"),
        ({"norm": "layer"}, "norm: expected one of .*'group'.*, got 'layer'"),
        ({"head_norm": "batch"}, "head_norm: expected one of"),
        ({"p6_from": "p4"}, "p6_from: expected one of"),
        ({"loss": "hinge"}, "loss: expected one of .*'ohem'.*, got 'hinge'"),
        ({"num_classes": 0}, "num_classes: expected a positive int, got 0"),
        ({"min_size": (640, 800)}, "min_size: expected a positive int"),
        ({"width": 0}, "width: expected a positive int"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        RetinaNet(**{"num_classes": 3, "backbone": "resnet18"} | options)


def test_grid_of_another_number_of_levels():
    grid = AnchorGrid.torchvision()
    short = AnchorGrid(cell_anchors=grid.cell_anchors[:4], strides=grid.strides, offset=grid.offset)
    with pytest.raises(ValueError, match="anchor_grid: expected the 5 levels P3 to P7, got 4"):
        small(anchor_grid=short)


def test_training_without_targets():
    with pytest.raises(ValueError, match="targets: expected one per image in training"):
        small()(samples()[0])


def test_bad_targets_name_image_and_row():
    images, targets = samples()
    targets[2]["boxes"][0, 2] = float("nan")
    with pytest.raises(ValueError, match=r"targets\[2\]\['boxes'\] row 0"):
        small()(images, targets)
