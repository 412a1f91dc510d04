"""Converted models give the scores and boxes that their packages' do; foreign names are listed."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import Tensor

from focaldet import ops
from focaldet.errors import UserError
from focaldet.models import V2, RetinaNet
from focaldet.models.resnet import ResNet
from focaldet.ops import AnchorGrid
from focaldet.weights import Converted, Source, convert
from focaldet.weights.coco import IDS, NAMES, NAMES_91
from focaldet.weights.convert import LAYOUTS

K, SIZE = 3, (64, 96)


def source(model: torch.nn.Module, **about) -> Source:
    return Source("model.pth", model.state_dict(), **about)


def rebuilt(converted: Converted) -> RetinaNet:
    """The model, for images that are taken as they are."""
    config = converted.description.model | {"min_size": SIZE[0], "max_size": SIZE[1]}
    model = RetinaNet.from_config(config)
    model.load_state_dict(converted.weights)
    return model.eval()


@torch.no_grad()
def scores_and_boxes(model: RetinaNet, image: Tensor) -> tuple[Tensor, Tensor]:
    """Of all anchors, from an image of values up to 1."""
    batch, _, scales = model.transform.images([image])
    assert tuple(batch.shape[2:]) == SIZE and (scales == 1).all()
    logits, deltas = model.features(batch)
    anchors = ops.generate_anchors(model.anchors(logits, batch))
    boxes = ops.decode_boxes(zoo.by_anchor(deltas, 4), anchors)
    return zoo.by_anchor(logits, model.num_classes).sigmoid(), boxes


@torch.no_grad()
def check_same(model: RetinaNet, theirs: torch.nn.Module) -> None:
    image = torch.randint(256, (3, *SIZE)).float()
    scores, boxes = scores_and_boxes(model, image / 255)
    want_scores, want_boxes = theirs(image)
    assert want_scores.std() > 0.1, "logits that spread, or there is nothing to compare"
    torch.testing.assert_close(scores, want_scores, rtol=0, atol=1e-4)
    sizes = (want_boxes[:, 2:] - want_boxes[:, :2]).repeat(1, 2)
    assert ((boxes - want_boxes).abs() <= 1e-3 * sizes).all()


def scaled(theirs: torch.nn.Module, logits: torch.nn.Conv2d, deltas: torch.nn.Conv2d):
    """Last layers whose logits spread by 2 and deltas by 0.5, as a trained model's might."""
    image = torch.randint(256, (3, *SIZE)).float()
    with torch.no_grad():
        for layer, wanted in ((logits, 2.0), (deltas, 0.5)):
            found = []
            handle = layer.register_forward_hook(lambda m, x, y, found=found: found.append(y))
            theirs(image)
            handle.remove()
            scale = wanted / torch.cat([y.flatten() for y in found]).std()
            layer.weight *= scale
            layer.bias *= scale
    return theirs


def detectron2(caffe: bool = True, classes: int = K) -> zoo.Detectron2:
    theirs = zoo.randomised(zoo.Detectron2(classes, caffe))
    return scaled(theirs, theirs.head.cls_score, theirs.head.bbox_pred)


def mmdetection(classes: int = K, **options) -> zoo.MMDetection:
    theirs = zoo.randomised(zoo.MMDetection(classes, **options))
    return scaled(theirs, theirs.bbox_head.retina_cls, theirs.bbox_head.retina_reg)


@pytest.mark.parametrize("caffe", [True, False])
def test_detectron2(caffe: bool) -> None:
    theirs = detectron2(caffe)
    converted = convert(source(theirs))
    assert converted.layout == "detectron2"
    check_same(rebuilt(converted), theirs)
    config = converted.description.model
    assert config["stride_in"] == ("1x1" if caffe else "3x3") and config["norm"] == "frozen"
    assert (config["detections_per_img"], config["topk_candidates"]) == (100, 1000)


def test_detectron2_without_its_buffers_is_what_the_zoo_has() -> None:
    """pixel_mean, pixel_std and the anchors are not in every file."""
    theirs = detectron2()
    kept = {
        name: value
        for name, value in theirs.state_dict().items()
        if not name.startswith(("pixel_", "anchor_generator"))
    }
    model = rebuilt(convert(Source("RetinaNet_R_50_FPN_1x.pkl", kept)))
    assert model.anchor_grid == AnchorGrid.detectron2()
    check_same(model, theirs)


def test_anchors_of_other_sizes_come_with_the_file() -> None:
    theirs = detectron2()
    for level in theirs.anchor_generator.cell_anchors.buffers():
        level *= 0.5
    check_same(rebuilt(convert(source(theirs))), theirs)


@pytest.mark.parametrize(
    "options", [{}, {"caffe": True}, {"group": True}], ids=["pytorch", "caffe", "group"]
)
def test_mmdetection(options: dict) -> None:
    theirs = mmdetection(**options)
    about = {"config": "backbone=dict(\n    norm_eval=True,\n    style='caffe')"}
    converted = convert(source(theirs, **(about if options.get("caffe") else {})))
    assert converted.layout == "mmdetection"
    check_same(rebuilt(converted), theirs)
    config = converted.description.model
    assert (config["low_quality"], config["box_loss"]) == ("mmdet", "l1")


def test_where_p6_comes_from_if_shapes_do_not_tell() -> None:
    """With as many channels in C5 as in the pyramid."""
    wide = {"width": 4, "channels": 128, "convs": 1}
    for model in (zoo.Detectron2(K, **wide), zoo.MMDetection(K, **wide)):
        assert convert(source(model)).description.model["p6_from"] == "c5"
    for options in ({}, V2):
        model = RetinaNet(K, width=4, fpn_channels=128, head_depth=1, **options)
        converted = convert(source(model)).description.model
        assert converted["p6_from"] == options.get("p6_from", "p5")


def test_a_style_asked_for_is_taken() -> None:
    theirs = mmdetection(caffe=True)
    check_same(rebuilt(convert(source(theirs), style="caffe")), theirs)


def test_basic_blocks() -> None:
    """They have no 1x1 convolution to put a stride in, whatever the style."""
    body = ResNet("resnet18", "frozen", width=4)
    weights = zoo.MMDetection(K).state_dict()
    weights = {n: t for n, t in weights.items() if not n.startswith("backbone.")}
    weights |= {f"backbone.{name}": value for name, value in body.state_dict().items()}
    channels = dict(zip(("0", "1", "2"), body.out_channels, strict=True))
    for i, count in channels.items():
        weights[f"neck.lateral_convs.{i}.conv.weight"] = torch.ones(16, count, 1, 1)
    weights["neck.fpn_convs.3.conv.weight"] = torch.ones(16, body.out_channels[-1], 3, 3)
    config = convert(Source("r18.pth", weights), style="caffe").description.model
    assert (config["backbone"], config["stride_in"]) == ("resnet18", "3x3")


def torchvision_model(version: str, classes: int) -> RetinaNet:
    """torchvision's names are this package's; tests/models/test_torchvision.py compares values."""
    small = dict(width=4, fpn_channels=16, head_depth=4, norm="frozen")
    return zoo.randomised(RetinaNet(classes, **small, **(V2 if version == "v2" else {})))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_torchvision(version: str) -> None:
    theirs = torchvision_model(version, K)
    converted = convert(source(theirs))
    assert converted.layout == "torchvision"
    for name, value in theirs.state_dict().items():
        assert torch.equal(converted.weights[name], value), f"{name} is not unchanged"
    config = converted.description.model
    assert config["normalizer"] == "image"
    assert config["box_loss"] == {"v1": "l1", "v2": "giou"}[version]
    assert config["image_mean"] == [0.485, 0.456, 0.406]
    rebuilt(converted)


def test_torchvisions_names_of_2020() -> None:
    """The published weights of v1 have them."""
    theirs = torchvision_model("v1", K).state_dict()
    old = {}
    for name, value in theirs.items():
        for i in range(3):
            name = name.replace(f"_blocks.{i}.0.", f"_blocks.{i}.")
        for i in range(4):
            name = name.replace(f"head.conv.{i}.0.", f"head.conv.{2 * i}.")
        old[name] = value
    assert old.keys() != theirs.keys()
    converted = convert(Source("retinanet.pth", old))
    assert converted.weights.keys() == theirs.keys()
    assert all(torch.equal(converted.weights[name], theirs[name]) for name in theirs)


def test_the_epsilon_of_the_norms() -> None:
    """torchvision sets it to 0 for the published weights of v1."""
    theirs = torchvision_model("v1", K)
    model = rebuilt(convert(source(theirs), norm_eps=0.0))
    for module in theirs.modules():
        if hasattr(module, "running_var"):
            module.eps = 0.0
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        for mine, want in zip(model.backbone(x), theirs.backbone(x), strict=True):
            torch.testing.assert_close(mine, want, rtol=1e-5, atol=1e-5)


def test_labels_not_in_use_are_left_out() -> None:
    theirs = torchvision_model("v1", 91)
    converted = convert(source(theirs))
    described = converted.description
    assert described.class_names == list(NAMES) and described.model["num_classes"] == 80
    assert described.category_ids == list(IDS.values())
    image = torch.rand(3, *SIZE)
    theirs.transform.min_size, theirs.transform.max_size = SIZE
    scores, _ = scores_and_boxes(rebuilt(converted), image)
    all_scores, _ = scores_and_boxes(theirs.eval(), image)
    torch.testing.assert_close(scores, all_scores[:, described.category_ids])


def test_class_names() -> None:
    theirs = source(mmdetection(2), class_names=("disc", "square"))
    assert convert(theirs).description.class_names == ["disc", "square"]
    given = convert(theirs, class_names=["__background__", "cell"]).description
    assert (given.class_names, given.category_ids) == (["cell"], [1])
    assert convert(source(mmdetection(2))).description.class_names == ["class 0", "class 1"]
    assert convert(source(mmdetection(80))).description.category_ids[-1] == 90
    for wrong, message in (
        (["a"], "expected 2 class names, in label order, got 1"),
        ([], "expected 2 class names, in label order, got 0"),
        (["a", "a"], "expected class names that differ, got a, a"),
    ):
        with pytest.raises(UserError, match=message):
            convert(theirs, class_names=wrong)


def test_coco() -> None:
    assert len(NAMES) == 80 and IDS["person"] == 1 and IDS["toothbrush"] == 90
    assert (IDS["stop sign"], IDS["wine glass"], IDS["tv"]) == (13, 46, 72)
    models = pytest.importorskip("torchvision").models.detection
    weights = models.RetinaNet_ResNet50_FPN_Weights.COCO_V1
    assert list(NAMES_91) == weights.meta["categories"]


def test_every_layout_knows_its_own_names_best() -> None:
    for name, model in {
        "torchvision": torchvision_model("v2", K),
        "detectron2": zoo.Detectron2(K),
        "mmdetection": zoo.MMDetection(K),
    }.items():
        shares = {other: layout.share(model.state_dict()) for other, layout in LAYOUTS.items()}
        assert shares.pop(name) == 1 and max(shares.values()) < 0.5, (name, shares)


def spoilt(change) -> Source:
    weights = zoo.MMDetection(K).state_dict()
    change(weights)
    return Source("model.pth", weights)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda w: [w.pop(n) for n in list(w) if n.startswith("neck.fpn_convs.4")],
            r"2 missing, by torchvision's names \(backbone.fpn.extra_blocks.p7.weight, ",
        ),
        (
            lambda w: w.update({f"mask_head.{i}": torch.ones(1) for i in range(9)}),
            r"9 unexpected \(mask_head.0, mask_head.1, mask_head.2, mask_head.3, ...\)",
        ),
        (
            lambda w: w.update({"bbox_head.retina_reg.weight": torch.ones(8, 16, 3, 3)}),
            r"of another shape \(head.*bbox_reg.weight \(8, 16, 3, 3\) for \(36, 16, 3, 3\)",
        ),
        (
            lambda w: w.update({"backbone.layer2.4.conv1.weight": torch.ones(8, 32, 1, 1)}),
            r"on a resnet50: .*1 unexpected \(backbone.layer2.4.conv1.weight\)",
        ),
    ],
)
def test_what_differs_is_listed(change, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        convert(spoilt(change))
    assert "The nearest known layout is mmdetection" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("neck.fpn_convs.3.conv.weight", torch.ones(16)),
        ("neck.lateral_convs.2.conv.weight", torch.ones(16)),
        ("backbone.conv1.weight", torch.ones(0, 3, 7, 7)),
    ],
)
def test_shapes_that_tell_nothing(name: str, value: Tensor) -> None:
    with pytest.raises(UserError, match="of another shape"):
        convert(spoilt(lambda w: w.update({name: value})))


@pytest.mark.parametrize("anchors", [torch.ones(3, 4), torch.ones(3)])
def test_anchors_that_are_none(anchors: Tensor) -> None:
    weights = zoo.Detectron2(K).state_dict() | {"anchor_generator.cell_anchors.0": anchors}
    with pytest.raises(UserError, match="model.pth: anchor_generator.cell_anchors: expected 5"):
        convert(Source("model.pth", weights))


def test_a_wrong_layout_names_the_right_one() -> None:
    with pytest.raises(UserError, match="The nearest known layout is mmdetection, with 100%"):
        convert(spoilt(lambda w: None), "detectron2")


def test_what_is_no_retinanet() -> None:
    with pytest.raises(UserError, match=r"comes nearest with 0% of the 1 names .*are fc.weight"):
        convert(Source("model.pth", {"fc.weight": torch.ones(2, 2)}))
    with pytest.raises(UserError, match="style caffe: torchvision's RetinaNets have only one"):
        convert(source(torchvision_model("v1", K)), style="caffe")
    for wrong in ({"layout": "yolo"}, {"style": "tensorflow"}):
        with pytest.raises(ValueError, match="expected one of .*, got '(yolo|tensorflow)'"):
            convert(source(torchvision_model("v1", K)), **wrong)


def test_mmdetections_own_statistics_and_anchors() -> None:
    theirs = mmdetection(caffe=True)
    means = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)
    weights = theirs.state_dict() | {
        "data_preprocessor.mean": means,
        "data_preprocessor.std": torch.full((3, 1, 1), 51.0),
    }
    caffe = Source("m.pth", weights, config="style='caffe'")  # BGR, and so are its statistics
    config = convert(caffe).description.model
    assert config["image_mean"] == pytest.approx([30 / 255, 20 / 255, 10 / 255])
    assert config["image_std"] == [0.2] * 3 and config["stride_in"] == "1x1"
    rgb = convert(Source("m.pth", weights)).description.model
    assert rgb["image_mean"] == pytest.approx([10 / 255, 20 / 255, 30 / 255])

    weights["data_preprocessor.std"] = torch.zeros(3, 1, 1)
    with pytest.raises(UserError, match="positive standard deviations, got .* and .0.0, 0.0, 0.0"):
        convert(Source("m.pth", weights))
    usual = "octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=(1, 2, 2, 2)"
    convert(source(theirs, config=f"{usual}, strides=[8, 16, 32, 64, 128]"))
    for own in ("octave_base_scale=2", "ratios=[1.0]", "strides=[4, 8, 16, 32, 64]"):
        with pytest.raises(UserError, match=f"its anchors have {own.partition('=')[0]}="):
            convert(source(theirs, config=f"dict({own})"))
