"""accelerate and restore: what changes of a model, what does not, and which models are refused."""

import copy
import io
import pickle

import pytest
import torch

pytest.importorskip("torchvision")
import detectors  # noqa: E402
from detectors import pictures, some_targets  # noqa: E402
from torch import nn  # noqa: E402
from torchvision.models import detection  # noqa: E402
from torchvision.models.detection import _utils, fcos, retinanet  # noqa: E402

from focaldet.integrations.torchvision import accelerate, restore  # noqa: E402

MAKERS = {
    "RetinaNet": detectors.tiny_retinanet,
    "FCOS": detectors.tiny_fcos,
    "SSD": detectors.tiny_ssd,
    "FasterRCNN": detectors.tiny_faster_rcnn,
}


def state(model):
    """All that a model is made of: classes and attributes of its modules and their parts."""
    found = {}
    for name, module in model.named_modules():
        parts = {key: (id(part), type(part)) for key, part in vars(module).items()}
        inner = {
            key: dict(vars(part))
            for key, part in vars(module).items()
            if isinstance(part, _utils.Matcher)
        }
        children = dict(module._modules), dict(module._parameters), dict(module._buffers)
        found[name] = (type(module), dict(vars(module)), parts, inner, children)
    return found


def losses_of(model):
    torch.manual_seed(1)
    images = pictures(3, count=2)
    return {k: v.item() for k, v in model(images, some_targets(images, first_class=1)).items()}


# What changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_restore_leaves_nothing_behind(name, convolutions):
    model = MAKERS[name]()
    before, keys = state(model), list(model.state_dict())
    report = accelerate(model, convolutions=convolutions)
    assert state(model) != before and list(model.state_dict()) == keys
    assert isinstance(model, before[""][0])
    losses_of(model)  # leaves nothing either, but for the settings that torchvision computes anew
    assert restore(model) == report.new > 0
    after = state(model)
    for path, (kind, *_) in before.items():
        assert after[path][0] is kind, path
        assert after[path][1].keys() == before[path][1].keys(), path
        assert after[path][3:] == before[path][3:], path
    assert restore(model) == 0


def test_restore_after_no_call_is_exact():
    for make in MAKERS.values():
        model = make()
        before = state(model)
        accelerate(model)
        restore(model)
        assert state(model) == before


def test_restore_takes_modules_only():
    with pytest.raises(TypeError, match="restore: expected a torch.nn.Module, got dict"):
        restore({})
    assert restore(nn.Linear(2, 2)) == 0


@pytest.mark.parametrize(
    "name, training, detecting",
    [
        ("RetinaNet", {"retinanet_loss_and_gradient"}, {"retinanet_postprocess"}),
        ("FCOS", {"sigmoid_focal_loss_sum_and_gradient"}, {"batched_nms"}),
        ("SSD", {"match_anchors"}, {"batched_nms"}),
        ("FasterRCNN", {"match_anchors", "batched_nms"}, {"batched_nms"}),
    ],
)
def test_which_operators_are_called(name, training, detecting):
    """Else the tests that compare results would compare torchvision with itself."""
    model = MAKERS[name]()
    accelerate(model)
    for expected in (training, detecting):
        with detectors.Called() as called:
            losses_of(model) if model.training else model(pictures(3, count=1))
        assert called.ours() == expected and "torchvision.nms" not in called.names
        model.eval()


@pytest.mark.parametrize("name", MAKERS)
def test_other_models_stay_as_they_are(name):
    model, other = MAKERS[name](), MAKERS[name]()
    before = state(other)
    functions = vars(type(other)).copy()
    accelerate(model)
    assert state(other) == before and vars(type(other)) == functions
    assert type(other) is not type(model) or name == "FasterRCNN"  # whose parts changed


def test_the_second_time_there_is_nothing_to_do():
    model = detectors.tiny_retinanet()
    first, again = accelerate(model), accelerate(model)
    assert first.new == 4 and again.new == 0
    assert again.replaced == first.replaced
    assert str(again).startswith("RetinaNet: nothing more to do\n")
    assert any(row.where == "convolutions" for row in again.left)
    more = accelerate(model, convolutions=True)
    assert more.new > 0 and not any(row.where == "convolutions" for row in more.left)
    assert accelerate(model).replaced == more.replaced


def test_the_report_names_each_part():
    report = accelerate(detectors.tiny_faster_rcnn())
    assert [(row.where, row.by) for row in report.replaced] == [
        ("rpn.assign_targets_to_anchors", "match_anchors"),
        ("rpn.filter_proposals", "batched_nms"),
        ("roi_heads.assign_targets_to_proposals", "match_anchors"),
        ("roi_heads.postprocess_detections", "batched_nms"),
    ]
    text = str(report)
    assert text.startswith("FasterRCNN: accelerated\nreplaced ")
    assert "\nrpn.filter_proposals                   batched_nms    comparing" in text
    assert "\ntransform     resizing and normalising stay torchvision's" in text


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_accelerated_too(name, how):
    model = MAKERS[name]()
    accelerate(model)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert [type(part) for part in twin.modules()] == [type(part) for part in model.modules()]
    assert losses_of(twin) == losses_of(model)
    assert restore(twin) > 0 and type(twin) is type(MAKERS[name]())


def test_hooks_fire_and_see_raw_maps():
    model = detectors.tiny_retinanet()
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    accelerate(model)
    losses_of(model)
    assert [list(level.shape[:2]) for level in seen["head"]["cls_logits"]] == [[2, 9 * 5]] * 3
    assert len(seen["anchor_generator"]) == sum(9 * m[0, 0].numel() for m in seen["head"][
        "bbox_regression"
    ])  # fmt: skip
    unseen = set(dict(model.named_modules())) - seen.keys()
    assert {name for name in unseen if name.count(".") < 1} <= {"transform"}


def test_models_in_other_states():
    """Trained on, switched to evaluation, cast, moved to another layout."""
    model = detectors.tiny_retinanet()
    accelerate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = losses_of(model)
    images = pictures(3, count=2)
    for _ in range(3):
        optimizer.zero_grad()
        sum(model(images, some_targets(images)).values()).backward()
        optimizer.step()
    assert sum(losses_of(model).values()) < sum(before.values())
    assert len(model.eval()(images)) == 2
    model.double()([image.double() for image in images])
    assert len(model.half()([image.half() for image in images])) == 2


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "RetinaNet")) for n in MAKERS]
)
def test_under_torch_compile(name):
    model = MAKERS[name]()
    accelerate(model)
    expected = losses_of(model)
    torch._dynamo.reset()
    assert losses_of(torch.compile(model, backend="eager")) == pytest.approx(expected, rel=1e-5)


def test_in_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = detectors.tiny_retinanet()
        accelerate(model)
        expected = losses_of(copy.deepcopy(model))
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert losses_of(wrapped) == expected
        with pytest.raises(TypeError, match=r"DistributedDataParallel, whose \.module is one"):
            accelerate(wrapped)
    finally:
        torch.distributed.destroy_process_group()


def own_subclass(module):
    """As parametrizations and fully_shard make one."""
    module.__class__ = type(f"Derived{type(module).__name__}", (type(module),), {})


def test_restore_takes_no_class_of_others_away():
    model = detectors.tiny_retinanet()
    accelerate(model)
    own_subclass(model.head.regression_head)
    before = state(model)
    with pytest.raises(ValueError, match="DerivedAcceleratedRetinaNetRegressionHead was made of"):
        restore(model)
    assert state(model) == before
    twin = copy.deepcopy(model)
    assert type(twin.head.regression_head) is type(model.head.regression_head)
    assert losses_of(twin) == losses_of(model)


def test_restore_waits_until_a_parametrization_is_removed():
    model = detectors.tiny_retinanet()
    accelerate(model, convolutions=True)
    layer = model.backbone.stem
    nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(ValueError, match="undo that first. Nothing was changed"):
        restore(model)
    losses_of(model)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    restore(model)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("part", ["anchor_generator", "head.classification_head"])
def test_parts_that_were_exchanged_are_named(part):
    model, other = detectors.tiny_retinanet(), detectors.tiny_retinanet()
    accelerate(model)
    expected = losses_of(model)
    model.set_submodule(part, other.get_submodule(part))
    for training in (True, False):
        with pytest.raises(ValueError, match=f"^{part}: expected as when the model was acc"):
            model.train(training)(pictures(3, count=2), some_targets(pictures(3, count=2)))
    accelerate(model.train())
    assert losses_of(model) == pytest.approx(expected)


def test_a_matcher_that_was_exchanged_is_named():
    model = detectors.tiny_faster_rcnn()
    accelerate(model)
    model.roi_heads.proposal_matcher = _utils.Matcher(0.5, 0.5)
    with pytest.raises(AttributeError, match="a matcher that is not accelerated .*`accelerate`"):
        losses_of(model)
    accelerate(model)
    losses_of(model)


# Which models ------------------------------------------------------------------------------------


def test_torchvisions_own_models_are_known():
    options = {"weights": None, "weights_backbone": None, "num_classes": 3}
    for make in (
        detection.retinanet_resnet50_fpn_v2,
        detection.ssdlite320_mobilenet_v3_large,
        detection.maskrcnn_resnet50_fpn_v2,
        detection.keypointrcnn_resnet50_fpn,
    ):
        with torch.random.fork_rng():
            model = make(**options)
        assert accelerate(model).new >= 2


@pytest.mark.parametrize("other", [nn.Linear(2, 2), torch.zeros(3), None])
def test_other_models_are_refused(other):
    with pytest.raises(TypeError) as error:
        accelerate(other)
    text = str(error.value)
    assert "expected a detector of torchvision (RetinaNet, FCOS, SSD, " in text
    assert type(other).__name__ in text and text.endswith("Nothing was changed.")


class OwnLoss(detection.RetinaNet):
    def compute_loss(self, *arguments):
        return super().compute_loss(*arguments)


class OwnHead(retinanet.RetinaNetHead):
    def forward(self, x):
        return super().forward(x)


class OwnMatcher(_utils.Matcher):
    def __call__(self, quality):
        return super().__call__(quality)


def own_class(model):
    model.__class__ = OwnLoss


def own_head(model):
    model.head.__class__ = OwnHead


def own_method(model):
    model.postprocess_detections = lambda *_: []


def own_matcher(model):
    model.proposal_matcher.__class__ = OwnMatcher


def own_weights(model):
    model.box_coder.weights = (10.0, 10.0, 5.0, 5.0)


def own_loss_type(model):
    model.head.regression_head._loss_type = "huber"


def own_anchors(model):
    model.anchor_generator = nn.Identity()


def other_numbers(model):
    model.anchor_generator.cell_anchors[0] = torch.zeros(2, 4)


@pytest.mark.parametrize(
    "change, reason",
    [
        (own_class, "OwnLoss has its own compute_loss"),
        (own_head, "head has its own forward"),
        (own_method, "RetinaNet has its own postprocess_detections"),
        (own_matcher, "proposal_matcher has its own __call__"),
        (own_weights, "box_coder has weights (10.0, 10.0, 5.0, 5.0)"),
        (own_loss_type, "head.regression_head has the loss type 'huber'"),
        (own_anchors, "anchor_generator is a Identity, not torchvision's AnchorGenerator"),
        (other_numbers, "anchor_generator has [2, 9] anchors a position"),
    ],
)
def test_a_retinanet_with_parts_of_its_own_is_refused(change, reason):
    model = detectors.tiny_retinanet()
    change(model)
    before = state(model)
    with pytest.raises(ValueError) as error:
        accelerate(model, convolutions=True)
    assert reason in str(error.value) and "Nothing was changed." in str(error.value)
    assert state(model) == before


class Inherited(detection.RetinaNet):
    def describe(self):
        return "still here"


def test_subclasses_keep_what_they_add():
    model = detectors.tiny_retinanet()
    model.__class__ = Inherited
    report = accelerate(model)
    assert report.model == "Inherited" and model.describe() == "still here"
    assert isinstance(pickle.loads(pickle.dumps(model)), Inherited)
    restore(model)
    assert type(model) is Inherited


class OwnFCOS(detection.FCOS):
    def postprocess_detections(self, *arguments):
        return super().postprocess_detections(*arguments)


class OwnFCOSHead(fcos.FCOSHead):
    def compute_loss(self, *arguments):
        return super().compute_loss(*arguments)


def test_what_others_override_is_left():
    model = detectors.tiny_fcos()
    model.__class__ = OwnFCOS
    report = accelerate(model)
    assert [row.where for row in report.replaced] == ["head.compute_loss"]
    assert ("postprocess_detections", "overridden: not torchvision's code") in report.left
    restore(model)
    model.head.__class__ = OwnFCOSHead
    with pytest.raises(ValueError, match="nothing can be replaced.*head.compute_loss: overridden"):
        accelerate(model)


def test_matchers_and_similarities_of_others_are_left():
    model = detectors.tiny_faster_rcnn()
    model.roi_heads.proposal_matcher.__class__ = OwnMatcher
    model.rpn.box_similarity = lambda a, b: torch.zeros(len(a), len(b))
    report = accelerate(model)
    assert [row.by for row in report.replaced] == ["batched_nms", "batched_nms"]
    why = dict(report.left)
    assert "OwnMatcher" in why["roi_heads.assign_targets_to_proposals"]
    assert "box_similarity" in why["rpn.assign_targets_to_anchors"]
    losses_of(model)
