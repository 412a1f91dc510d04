"""accelerate of a model that was accelerated before and changed since, and all or nothing."""

import pytest
import torch

pytest.importorskip("torchvision")
import detectors  # noqa: E402
from detectors import pictures, some_targets  # noqa: E402
from torchvision.models.detection import _utils  # noqa: E402
from torchvision.models.detection.retinanet import RetinaNetClassificationHead  # noqa: E402
from torchvision.models.detection.roi_heads import RoIHeads  # noqa: E402

from focaldet.integrations.torchvision import accelerate, restore  # noqa: E402
from focaldet.integrations.torchvision._swap import swapped  # noqa: E402


def losses_of(model):
    torch.manual_seed(1)
    images = pictures(3, count=2)
    return {k: v.item() for k, v in model(images, some_targets(images, first_class=1)).items()}


def classes(model):
    """Of the parts, and of their matchers."""
    found = [(name, type(module)) for name, module in model.named_modules()]
    return found + [(name, type(part)) for name, part in matchers(model).items()]


def matchers(model):
    return {
        f"{path}.{name}": part
        for path, module in model.named_modules()
        for name, part in vars(module).items()
        if isinstance(part, _utils.Matcher)
    }


class OwnMatcher(_utils.Matcher):
    def __call__(self, quality):
        return super().__call__(quality)


# Again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["rpn", "roi_heads"])
def test_what_calls_a_matcher_of_anothers_class_is_put_back(where):
    model, other = detectors.tiny_faster_rcnn(), detectors.tiny_faster_rcnn()
    accelerate(model)
    for each in (model, other):
        part = each.get_submodule(where)
        own = OwnMatcher(0.5, 0.5)
        vars(own).update(vars(part.proposal_matcher))
        part.proposal_matcher = own
    again, first = accelerate(model), accelerate(other)
    assert again.new == 1 and again.replaced == first.replaced and again.left == first.left
    assert classes(model) == classes(other)
    assert losses_of(model) == losses_of(other)
    assert accelerate(model).new == 0
    assert restore(model) == restore(other)
    assert classes(model) == classes(other)


def test_a_matcher_of_torchvisions_is_accelerated():
    model = detectors.tiny_faster_rcnn()
    accelerate(model)
    expected = losses_of(model)
    old = model.roi_heads.proposal_matcher
    model.roi_heads.proposal_matcher = _utils.Matcher(0.5, 0.5)
    assert accelerate(model).new == 1
    assert type(model.roi_heads.proposal_matcher) is type(old)
    assert losses_of(model) == expected


def test_a_part_without_any_step_is_put_back():
    """Both methods of the RoI heads are now overridden, and their matcher is used by none of
    ours."""
    model = detectors.tiny_faster_rcnn()
    accelerate(model)
    heads = model.roi_heads
    for name in ("assign_targets_to_proposals", "postprocess_detections"):
        setattr(heads, name, getattr(RoIHeads, name).__get__(heads))
    report = accelerate(model)
    assert report.new == 2 and type(heads) is RoIHeads
    assert type(heads.proposal_matcher) is _utils.Matcher
    assert {row.where.partition(".")[0] for row in report.replaced} == {"rpn"}
    losses_of(model)


def test_other_anchors_are_read():
    model, other = detectors.tiny_retinanet(), detectors.tiny_retinanet()
    accelerate(model)
    for each in (model, other):
        cells = each.anchor_generator.cell_anchors
        each.anchor_generator.cell_anchors = [cell * 1.25 for cell in cells]
    stale = losses_of(model)
    assert accelerate(model).new == 1
    accelerate(other)
    assert losses_of(model) == losses_of(other) != stale


def test_new_parts_of_a_retinanet_are_accelerated():
    model, other = detectors.tiny_retinanet(), detectors.tiny_retinanet()
    accelerate(model, convolutions=True)
    expected, names = losses_of(model), classes(model)
    model.head, model.anchor_generator = other.head, other.anchor_generator
    assert accelerate(model).new > 3
    assert classes(model) == names and losses_of(model) == expected


# All or nothing ----------------------------------------------------------------------------------


class Sealed(RetinaNetClassificationHead):
    def __init_subclass__(cls, **options):
        raise RuntimeError("sealed")


@pytest.mark.parametrize("convolutions", [False, True])
def test_a_class_that_cannot_be_derived_from(convolutions):
    model = detectors.tiny_retinanet()
    model.head.classification_head.__class__ = Sealed
    before, attributes = classes(model), dict(vars(model.anchor_generator))
    expected = {"classification", "bbox_regression"}
    with pytest.raises(ValueError) as error:
        accelerate(model, convolutions=convolutions)
    text = str(error.value)
    assert "Sealed does not let others derive from it (RuntimeError: sealed)" in text
    assert "Nothing was changed." in text
    assert classes(model) == before and not swapped(model)
    assert dict(vars(model.anchor_generator)) == attributes
    assert losses_of(model).keys() == expected


def test_a_step_that_fails_the_second_time_changes_nothing():
    model = detectors.tiny_faster_rcnn()
    accelerate(model)
    derived = type("Derived", (type(model.roi_heads),), {})
    model.roi_heads.__class__ = derived
    model.roi_heads.proposal_matcher = OwnMatcher(0.5, 0.5)
    model.rpn.proposal_matcher = _utils.Matcher(0.7, 0.3, allow_low_quality_matches=True)
    before = classes(model)
    with pytest.raises(ValueError, match="accelerate: the class Derived was made of an accelerat"):
        accelerate(model)
    assert classes(model) == before
