"""Exporting a detector: the graph and the compiled package find what the model finds."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

import focaldet
from focaldet.checkpoint import Description, save_checkpoint
from focaldet.cli import main
from focaldet.errors import UserError
from focaldet.export import METADATA, export, metadata, package, save
from focaldet.models import RetinaNet, for_inference
from focaldet.models.inference import folded
from focaldet.ops import AnchorGrid

SMALL = {
    "backbone": "resnet18",
    "width": 8,
    "fpn_channels": 16,
    "head_depth": 1,
    "min_size": 320,
    "max_size": 640,
}
# The first has one row and column on P5 to P7; none is the example's.
SHAPES = [(1, 32, 32), (3, 96, 250), (2, 320, 61), (1, 401, 352)]


def detector(**options: object) -> RetinaNet:
    torch.manual_seed(0)
    model = RetinaNet(3, **SMALL | options).eval()
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=1.0)
    torch.nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.3)
    return model


def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The last of several images is smaller than the batch."""
    sizes = torch.tensor([[height, width]] * batch)
    if batch > 1:
        sizes[-1] -= torch.tensor([20, 30])
    return torch.rand(batch, 3, height, width), sizes


def padded(batch: Tensor) -> Tensor:
    height, width = (-(-side // 32) * 32 for side in batch.shape[-2:])
    whole = batch.new_zeros(*batch.shape[:2], height, width)
    whole[..., : batch.shape[2], : batch.shape[3]] = batch
    return whole


def assert_finds_the_same(
    function: Callable[..., tuple[Tensor, ...]], model: RetinaNet, *, bits: bool
) -> None:
    """Bits, or else what rounding leaves alone, that is, not the order of nearly equal scores."""
    total = 0
    for shape in SHAPES:
        batch, sizes = inputs(*shape)
        with torch.no_grad():
            found = function(batch, sizes)
            want = folded(model, "test").detect(padded(batch), sizes)
        total += int(want.counts.sum())
        if bits:
            assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True)), shape
        else:
            torch.testing.assert_close(found[1], want.scores, rtol=0, atol=1e-4)
            same = (found[2] == want.labels) & ((found[0] - want.boxes).abs().amax(-1) < 0.05)
            assert same.float().mean() > 0.95, shape
    assert total > 100


CONFIGS = {
    "v2": {"head_norm": "group", "p6_from": "c5", "norm": "group"},
    "mmdetection": {"anchor_grid": AnchorGrid.mmdetection()},
    "resnet50": {"backbone": "resnet50", "norm": "frozen", "anchor_grid": AnchorGrid.paper()},
}


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_any_batch_and_size(options: dict[str, object]) -> None:
    model = detector(**options)
    assert_finds_the_same(export(model).module(), model, bits=True)


def test_the_layout_of_the_weights_ties_to_no_size(model: RetinaNet) -> None:
    """As `load_model` leaves them."""
    program = export(copy.deepcopy(model).to(memory_format=torch.channels_last))
    assert_finds_the_same(program.module(), model, bits=True)


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    return detector()


@pytest.fixture(scope="module")
def program(model: RetinaNet) -> ExportedProgram:
    return export(model)


def test_norms_are_folded_and_the_model_stays_as_it_is(
    model: RetinaNet, program: ExportedProgram
) -> None:
    assert all(p.requires_grad for p in model.parameters())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert any("conv" in name for name in called) and not any("norm" in name for name in called)


def test_a_saved_program(model: RetinaNet, program: ExportedProgram, tmp_path: Path) -> None:
    save(program, tmp_path / "model.pt2", metadata(model, ["a", "b", "c"]))
    extra = {METADATA: ""}
    again = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert_finds_the_same(again, model, bits=True)
    about = json.loads(extra[METADATA])
    assert about["class_names"] == ["a", "b", "c"] and about["num_classes"] == 3
    assert (about["min_size"], about["max_size"]) == (320, 640)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_half_precision() -> None:
    half = detector().bfloat16()
    batch, sizes = inputs(2, 96, 128)
    found = export(half).module()(batch.bfloat16(), sizes)
    want = folded(half, "test").detect(batch.bfloat16(), sizes)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


WITHOUT_THE_PACKAGE = """
import sys, torch, torch._inductor.codecache  # torch 2.10 takes it for imported
library, package, tensors = sys.argv[1:]
torch.ops.load_library(library)
found = torch._inductor.aoti_load_package(package)(*torch.load(tensors))
assert not any(name.partition(".")[0] == "focaldet" for name in sys.modules)
torch.save(list(found), tensors)
"""


@pytest.mark.slow
def test_a_package(
    model: RetinaNet, program: ExportedProgram, compiled: None, tmp_path: Path
) -> None:
    """Also in a process that has the extension, and no Python of this package."""
    file, tensors = tmp_path / "model.pt2", tmp_path / "tensors"
    package(program, file, metadata(model, ["a", "b", "c"]))
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    loaded = torch._inductor.aoti_load_package(str(file))
    assert json.loads(loaded.get_metadata()["focaldet"])["class_names"] == ["a", "b", "c"]
    assert_finds_the_same(loaded, model, bits=False)

    given = inputs(2, 96, 128)
    torch.save(given, tensors)
    words = [sys.executable, "-c", WITHOUT_THE_PACKAGE, focaldet._C.__file__, file, tensors]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for a, b in zip(torch.load(tensors), loaded(*given), strict=True):
        assert torch.equal(a, b)


def test_a_failed_write_leaves_the_file_before_it(
    program: ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.pt2"
    file.write_bytes(b"before")

    def fail(*_: object, package_path: str, **__: object) -> None:
        Path(package_path).write_bytes(b"half")
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*--program, needs none"):
        package(program, file)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    assert file.read_bytes() == b"before"


def test_what_cannot_be_exported(model: RetinaNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export: expected a model in eval mode, call model.eval"):
        export(detector().train())
    with pytest.raises(TypeError, match="expected a focaldet.models.RetinaNet, got Linear"):
        export(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="give the model that for_inference"):
        export(for_inference(detector(fpn_channels=128)))
    for name, message in (("model.so", r"expected a file name that ends with .pt2"),
                          ("none/model.pt2", "none: no such folder")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            package(model, tmp_path / name)


def test_a_model_that_is_tied_to_one_size() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[-2] == 192
            return images

    model = detector()
    model.backbone.body = torch.nn.Sequential(Fixed(), model.backbone.body)
    with pytest.raises(
        ValueError, match="export: this model .resnet18. takes no batch or image of"
    ):
        export(model)


@pytest.mark.slow
def test_a_body_whose_layout_depends_on_the_size() -> None:
    """Its maps are channels-last, which torch asks of each side of 1 anew."""
    pytest.importorskip("timm")
    model = detector(backbone="timm/convnext_atto", width=64)
    with pytest.raises(ValueError, match="export: this model .timm/convnext_atto. takes no batch"):
        export(model)


def test_the_command(
    model: RetinaNet, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, out = tmp_path / "best.safetensors", tmp_path / "model.pt2"
    names = ["a", "b", "c"]
    save_checkpoint(weights, model.state_dict(), Description(model.config, names, [1, 2, 3]))
    words = ["export", "--weights", str(weights), "--device", "cpu", "--out"]
    assert main([*words, str(out), "--program"]) == 0
    assert capsys.readouterr().out == f"{out}: exported program\n"
    extra = {METADATA: ""}
    assert_finds_the_same(torch.export.load(out, extra_files=extra).module(), model, bits=True)
    assert json.loads(extra[METADATA])["class_names"] == names
    assert main([*words, str(out)]) == 2
    assert "exists already; name another file" in capsys.readouterr().err
    out.unlink()

    assert main([*words, str(tmp_path / "model.onnx")]) == 2
    assert "expected a file name that ends with .pt2" in capsys.readouterr().err
    packed = []
    monkeypatch.setattr("focaldet.cli.export.package", lambda *given: packed.append(given))
    assert main([*words, str(out)]) == 0
    assert packed[0][1:] == (str(out), metadata(model, names))
