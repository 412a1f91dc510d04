"""A trained detector without its Python: as a graph (torch.export), or compiled (AOTInductor).

What is exported is the tensor core, `RetinaNet.detect`: normalised images [B, 3, H, W], padded to
one size, and their own sizes in; padded boxes, scores, labels and counts out. The batch, H and W
are free: the graph pads to multiples of 32 itself. Resizing and normalising stay with the caller,
and `metadata` says how the model wants them done.

The operators are not inside: whoever runs the result has them registered, by `import focaldet`, or
by `torch.ops.load_library(path)` of the extension module alone, `focaldet._C.__file__`, and
`focaldet._C_cuda.__file__` for models on CUDA, which register operators as they are loaded. They
are Python extensions: a program in C++ that takes them by dlopen takes libpython before, with
RTLD_GLOBAL, but need not start an interpreter.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbols

from .errors import UserError
from .files import replacing
from .models import RetinaNet
from .models.inference import folded
from .models.transform import STRIDE
from .models.winograd import WinogradConv2d

EXAMPLE = (190, 221)  # no dimension is derived from another
METADATA = "focaldet.json"  # the file in an exported program


class DetectionCore(nn.Module):
    """What is exported: `model.detect` of images of any size, with a plain tuple out."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        batch: Tensor,  # [B, 3, H, W], in the model's dtype
        image_sizes: Tensor,  # int64 [B, 2]: (height, width) before padding
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = batch.shape[-2:]
        padded = F.pad(batch, (0, -width % STRIDE, 0, -height % STRIDE))
        boxes, scores, labels, counts = self.model.detect(padded, image_sizes)
        return boxes, scores, labels, counts


def export(model: RetinaNet) -> ExportedProgram:
    """The model's inference core as a graph, for any batch, height and width.

    BatchNorm is folded into the convolutions. The graph stays on the model's device and takes its
    dtype. `program.module()` runs it; `save` writes it, `package` compiles it.

    Raises TypeError for what is no RetinaNet; ValueError for a model in training mode, for one that
    `for_inference` made, if it took Winograd's way, which is Python, and for one whose backbone
    ties it to the size of the example, as timm's ConvNeXts do, saying what to change.
    """
    if not isinstance(model, RetinaNet):
        raise TypeError(f"export: expected a focaldet.models.RetinaNet, got {type(model).__name__}")
    if any(isinstance(module, WinogradConv2d) for module in model.modules()):
        raise ValueError(
            "export: expected a model without Winograd convolutions, which exist in Python alone; "
            "give the model that for_inference or use_winograd was given: export folds its norms"
        )
    if any(type(module).__name__.endswith("Same") for module in model.backbone.modules()):
        raise ValueError(
            f"export: {model.config['backbone']} pads by TensorFlow's rule, with whose sizes "
            "torch.export comes to no end; choose its twin without tf_ in the name"
        )
    # Maps whose layout depends on whether a side is 1 would tie the graph to larger images.
    contiguous = folded(model, "export").to(memory_format=torch.contiguous_format)
    core = DetectionCore(contiguous).eval()
    first = next(model.parameters())
    example = (
        torch.zeros(2, 3, *EXAMPLE, dtype=first.dtype, device=first.device),
        torch.full((2, 2), EXAMPLE[0], device=first.device),
    )
    batch, height, width = (Dim(name, min=1) for name in ("batch", "height", "width"))
    dynamic = {0: batch, 2: height, 3: width}, {0: batch}
    try:
        # A level of one row has a symbol as its height all the same, not the constant 1.
        # (mypy: torch adds `patch` to its config modules when they are imported.)
        patch = symbols.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        # torch 2.10 rounds the size of a pooled map by a condition on its remainder, which it then
        # cannot prove of all sizes; // is what later ones have there, or none of it (create).
        rounds = mock.patch.object(
            torch._meta_registrations, "div_rtn", operator.floordiv, create=True
        )
        with torch.no_grad(), patch, rounds:
            return torch.export.export(core, example, dynamic_shapes=dynamic)
    # Of some conditions on sizes torch fails to tell, by an AssertionError in their printing.
    except (torch._dynamo.exc.UserError, AssertionError) as error:
        raise ValueError(
            f"export: this model ({model.config['backbone']}) takes no batch or image of another "
            "size than it is traced with; choose a backbone whose graph is the same for all of "
            "them, as that of a ResNet or a RegNet is. torch says: "
            f"{next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error


def metadata(model: RetinaNet, class_names: Sequence[str] = ()) -> dict[str, object]:
    """What a caller must know to prepare images and to read labels, as JSON values."""
    config = model.config
    names = ("image_mean", "image_std", "min_size", "max_size", "max_scale", "num_classes")
    first = next(model.parameters())
    return {
        **{name: config[name] for name in names},
        "class_names": list(class_names),
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": first.device.type,
        "inputs": ["batch [B, 3, H, W]", "image_sizes int64 [B, 2]: height, width"],
        "outputs": ["boxes [B, M, 4]", "scores [B, M]", "labels [B, M]", "counts [B]"],
    }


def save(
    program: ExportedProgram | RetinaNet, path: str | Path, about: dict[str, object] | None = None
) -> None:
    """Writes an exported program, for `torch.export.load(path)`, whole or not at all. `about`, such
    as `metadata` gives, goes in as the extra file "focaldet.json"."""
    program = export(program) if isinstance(program, RetinaNet) else program
    with replacing(_pt2(path)) as temporary:
        torch.export.save(program, temporary, extra_files={METADATA: json.dumps(about or {})})


def package(
    program: ExportedProgram | RetinaNet, path: str | Path, about: dict[str, object] | None = None
) -> None:
    """Compiles an exported program, and writes it as an AOTInductor package, whole or not at all.

    `torch._inductor.aoti_load_package(path)` loads it, in C++ `torch::inductor::
    AOTIModelPackageLoader`; called with a batch and its image sizes, it returns the four tensors.
    It holds code for the processor (or the GPU) of this machine, and does not check what it is
    given. `about`, such as `metadata` gives, comes back in `get_metadata()["focaldet"]`, as JSON.

    Raises UserError where no C++ compiler is found.
    """
    path = _pt2(path)
    program = export(program) if isinstance(program, RetinaNet) else program
    options = {"aot_inductor.metadata": {"focaldet": json.dumps(about or {})}}
    try:
        with replacing(path) as temporary:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(temporary), inductor_configs=options
            )
    except torch._inductor.exc.InvalidCxxCompiler as error:
        raise UserError(
            "AOTInductor needs a C++ compiler, such as g++ (CXX names another); "
            "an exported program, focaldet export --program, needs none"
        ) from error


def _pt2(path: str | Path) -> Path:
    """torch wants the suffix of both."""
    path = Path(path)
    if path.suffix != ".pt2":
        raise UserError(f"{path}: expected a file name that ends with .pt2")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first, or name another --out")
    return path
