"""How retinanet_loss makes its gradients: kept, computed anew, or written over the maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from focaldet.ops import AnchorGrid, retinanet_loss

K, CHANNELS = 3, 8
IMAGE, SIZES = (64, 96), [(8, 12), (4, 6)]
ANCHORS = AnchorGrid.torchvision(sizes=(12, 24)).at(SIZES, IMAGE)
BOXES = torch.tensor([[4.0, 6, 30, 28], [40, 10, 90, 60], [50, 20, 62, 34]])
TRUTH = BOXES, torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3])
MODES = ("save_gradient", "recompute", "overwrite")
EPS = torch.finfo(torch.float32).eps


class Head(nn.Module):
    """Convolutions with a map of logits and one of deltas on each level."""

    def __init__(
        self,
        device: torch.device | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)  # every head is the same
        a = ANCHORS.per_position
        self.cls = nn.Conv2d(CHANNELS, a * K, 3, padding=1)
        self.box = nn.Conv2d(CHANNELS, a * 4, 3, padding=1)
        self.features = [torch.randn(2, CHANNELS, *size) for size in SIZES]
        self.to(device, memory_format=layout)
        self.features = [f.to(device, memory_format=layout) for f in self.features]

    def forward(self) -> tuple[list[Tensor], list[Tensor]]:
        return [self.cls(f) for f in self.features], [self.box(f) for f in self.features]


def on(device: torch.device | None) -> tuple[Tensor, ...]:
    return tuple(t.to(device) for t in TRUTH)


def parameter_gradients(
    mode: str,
    factor: float = 1.0,
    device: torch.device | None = None,
    layout: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    head = Head(device, layout)
    losses = retinanet_loss(*head(), ANCHORS, *on(device), mode=mode)
    ((losses[0] + losses[1]) * factor).backward()
    return [p.grad for p in head.parameters()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_the_same_gradient_of_every_parameter(
    factor: float, layout: torch.memory_format, device: torch.device
) -> None:
    want = parameter_gradients("save_gradient", factor, device, layout)
    for mode in ("recompute", "overwrite"):
        got = parameter_gradients(mode, factor, device, layout)
        for ours, theirs in zip(got, want, strict=True):
            if factor == 1 or mode == "overwrite":
                assert torch.equal(ours, theirs)
            else:  # the factor is part of the element's, or times it: a rounding of each element
                bound = 2 * EPS * ours.numel() ** 0.5 * theirs.abs().max()
                torch.testing.assert_close(ours, theirs, rtol=8 * EPS, atol=bound.item())


@pytest.mark.parametrize("mode", MODES)
def test_a_second_backward_gives_the_same_gradient(mode: str, device: torch.device) -> None:
    logits, deltas = Head(device)()
    leaves = [*logits, *deltas]
    losses = retinanet_loss(logits, deltas, ANCHORS, *on(device), mode=mode)
    total = losses[0] + losses[1]
    weights = [
        torch.ones((), device=device),
        torch.tensor(0.5, device=device),
        torch.ones((), device=device),
    ]
    results = [torch.autograd.grad(total, leaves, w, retain_graph=True) for w in weights]
    copies = [[g.clone() for g in gradients] for gradients in results]
    for once, half, again in zip(*copies, strict=True):
        assert torch.equal(once, again)
        torch.testing.assert_close(
            half, once * 0.5, rtol=EPS, atol=0
        )  # a power of two: no rounding
    for gradients, copy in zip(results, copies, strict=True):
        assert all(torch.equal(g, c) for g, c in zip(gradients, copy, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_may_be_changed_before_the_next_backward(mode: str) -> None:
    """apex hands out the gradient it keeps, and is silently wrong the second time."""
    logits, deltas = Head()()
    leaves = [*logits, *deltas]
    losses = retinanet_loss(logits, deltas, ANCHORS, *TRUTH, mode=mode)
    total = losses[0] + losses[1]
    first = torch.autograd.grad(total, leaves, retain_graph=True)[0]
    want = first.clone()
    first.data.mul_(2)
    assert torch.equal(torch.autograd.grad(total, leaves)[0], want)


def test_leaves_accumulate_over_backwards() -> None:
    maps = [[level.detach().requires_grad_() for level in levels] for levels in Head()()]
    losses = retinanet_loss(*maps, ANCHORS, *TRUTH)
    total = losses[0] + losses[1]
    total.backward(retain_graph=True)
    once = [level.grad.clone() for level in (*maps[0], *maps[1])]
    total.backward(retain_graph=True)
    total.backward()
    for level, gradient in zip((*maps[0], *maps[1]), once, strict=True):
        assert torch.equal(level.grad, 2 * gradient + gradient)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype,factor", [(torch.float16, 65536.0), (torch.bfloat16, 0.3)])
def test_half_gradients_are_multiplied_in_float32(
    dtype: torch.dtype, factor: float, mode: str, device: torch.device
) -> None:
    """65536 is no float16, and 0.3 is 0.2 % off as a bfloat16."""
    results = []
    for given, scale in ((mode, 1.0), (mode, factor)):
        maps = [
            [(level.detach().mul(1e-3).to(dtype).requires_grad_() * 1) for level in levels]
            for levels in Head(device)()
        ]
        losses = retinanet_loss(*maps, ANCHORS, *on(device), mode=given)
        total = (losses[0] + losses[1]) * scale * 1e-3
        results.append(torch.autograd.grad(total, [*maps[0], *maps[1]]))
    eps = torch.finfo(dtype).eps
    for unit, scaled in zip(*results, strict=True):
        want = unit.double() * factor
        # The unit gradient is rounded to its type twice, or among its subnormal numbers.
        tiny = 2 * torch.finfo(dtype).smallest_normal * eps * factor
        torch.testing.assert_close(scaled.double(), want, rtol=2 * eps, atol=tiny)


def test_second_derivatives_where_the_logits_are_frozen() -> None:
    logits, deltas = Head()()
    logits = [level.detach() for level in logits]
    losses = retinanet_loss(logits, deltas, ANCHORS, *TRUTH)
    first = torch.autograd.grad(losses[0] + losses[1], deltas, create_graph=True)
    want = torch.autograd.grad(retinanet_loss(logits, deltas, ANCHORS, *TRUTH)[1], deltas)
    for ours, theirs in zip(first, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.grad(sum(g.sum() for g in first), deltas)[0].isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_one_loss_alone(mode: str, device: torch.device) -> None:
    for part in (0, 1):
        head = Head(device)
        retinanet_loss(*head(), ANCHORS, *on(device), mode=mode)[part].backward()
        used, unused = (head.cls, head.box) if part == 0 else (head.box, head.cls)
        assert used.weight.grad.abs().sum() > 0
        assert unused.weight.grad is None or not unused.weight.grad.any()


@pytest.mark.parametrize("mode", ["save_gradient", "overwrite"])
def test_grad_scale(mode: str) -> None:
    want = parameter_gradients(mode)
    scale = torch.tensor(1024.0)
    for factor in (1024.0, 512.0):  # what was promised, and on the CPU anything else, too
        head = Head()
        losses = retinanet_loss(*head(), ANCHORS, *TRUTH, mode=mode, grad_scale=scale)
        ((losses[0] + losses[1]) * factor).backward()
        for p, expected in zip(head.parameters(), want, strict=True):
            assert torch.equal(p.grad, expected * factor)


def test_the_gradient_is_kept_and_returned_as_it_is() -> None:
    """No pass over it: a leaf takes it over, an incoming gradient of 1 does not multiply it."""
    logits = [level.detach().requires_grad_() for level in Head()()[0]]
    deltas = [level.detach().requires_grad_() for level in Head()()[1]]
    losses = retinanet_loss(logits, deltas, ANCHORS, *TRUTH)
    kept = losses[0].grad_fn.saved_tensors[-2 * len(SIZES) :]
    pointers = [gradient.data_ptr() for gradient in kept]
    del kept
    (losses[0] + losses[1]).backward()
    assert [level.grad.data_ptr() for level in (*logits, *deltas)] == pointers


def test_overwriting_takes_the_memory_of_the_maps() -> None:
    logits, deltas = Head()()
    maps = [*logits, *deltas]
    pointers = [level.data_ptr() for level in maps]
    losses = retinanet_loss(logits, deltas, ANCHORS, *TRUTH, mode="overwrite")
    gradients = torch.autograd.grad(losses[0] + losses[1], maps)
    assert [g.data_ptr() for g in gradients] == pointers
    assert all(level.shape == (0,) for level in maps)


def leaf(logits: list[Tensor]) -> list[Tensor]:
    return [level.detach().requires_grad_() for level in logits]


def frozen(logits: list[Tensor]) -> list[Tensor]:
    return [level.detach() for level in logits]


def view(logits: list[Tensor]) -> list[Tensor]:
    return [level.view(level.shape) for level in logits]


def kept_by_their_maker(logits: list[Tensor]) -> list[Tensor]:
    return [level.tanh() for level in logits]


ALIASES: list[Tensor] = []


def looked_at(logits: list[Tensor]) -> list[Tensor]:
    ALIASES[:] = [level.detach() for level in logits]
    return logits


@pytest.mark.parametrize(
    "change,reason",
    [
        (leaf, "a leaf keeps its values"),
        (frozen, "needs no gradient"),
        (view, "another tensor shares their memory"),
        (kept_by_their_maker, "needs its output"),
        (looked_at, "another tensor shares their memory"),
        (lambda logits: [logits[0], logits[0]], "two maps share memory"),
    ],
)
def test_overwriting_refuses_what_somebody_needs(
    change: Callable[[list[Tensor]], list[Tensor]], reason: str
) -> None:
    logits, deltas = Head()()
    anchors = ANCHORS
    if "two maps" in reason:
        anchors = AnchorGrid.torchvision(sizes=(12, 24)).at([SIZES[0]] * 2, IMAGE)
        deltas = [deltas[0], deltas[0] * 1]
    logits = change(logits)
    values = [level.detach().clone() for level in logits]
    with pytest.raises(ValueError, match=f"overwrite.*{reason}"):
        retinanet_loss(logits, deltas, anchors, *TRUTH, mode="overwrite")
    assert all(torch.equal(a, b) for a, b in zip(logits, values, strict=True))
    ALIASES.clear()


def test_a_second_use_of_overwritten_logits_is_found() -> None:
    logits, deltas = Head()()
    regulariser = sum(level.square().mean() for level in logits)  # keeps the logits
    losses = retinanet_loss(logits, deltas, ANCHORS, *TRUTH, mode="overwrite")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (losses[0] + regulariser).backward()
    with pytest.raises((RuntimeError, ValueError), match="shape|dimension"):
        retinanet_loss(logits, deltas, ANCHORS, *TRUTH)
    with pytest.raises(RuntimeError):
        logits[0] + torch.zeros(2, ANCHORS.per_position * K, *SIZES[0])


def test_a_use_before_that_keeps_nothing_adds_its_gradient() -> None:
    results = []
    for mode in ("save_gradient", "overwrite"):
        head = Head()
        logits, deltas = head()
        mean = sum(level.mean() for level in logits)
        losses = retinanet_loss(logits, deltas, ANCHORS, *TRUTH, mode=mode)
        (losses[0] + losses[1] + mean).backward()
        results.append([p.grad for p in head.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_overwritten_logits_allow_no_second_derivative() -> None:
    logits, deltas = Head()()
    losses = retinanet_loss(logits, deltas, ANCHORS, *TRUTH, mode="overwrite")
    with pytest.raises(RuntimeError, match="recompute"):
        torch.autograd.grad(losses[0], logits, create_graph=True)


def test_without_gradients_nothing_is_overwritten(device: torch.device) -> None:
    with torch.no_grad():
        logits, deltas = Head(device)()
        copies = [level.clone() for level in logits]
        loss = retinanet_loss(logits, deltas, ANCHORS, *on(device), mode="overwrite")
    assert not loss[0].requires_grad
    assert all(torch.equal(a, b) for a, b in zip(logits, copies, strict=True))


def test_compiled_code_does_not_overwrite() -> None:
    torch._dynamo.reset()

    @torch.compile(backend="eager")
    def step(x: Tensor) -> Tensor:
        logits = [x * 1, x[..., :4, :6] * 1]
        deltas = [torch.cat([m, m[:, :9]], dim=1) for m in logits]
        return retinanet_loss(logits, deltas, ANCHORS, *TRUTH, mode="overwrite")[0]

    with pytest.raises(Exception, match="compiled code and tensors"):
        step(torch.randn(2, ANCHORS.per_position * K, *SIZES[0], requires_grad=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_overwriting_any_dtype(
    layout: torch.memory_format, dtype: torch.dtype, device: torch.device
) -> None:
    results = []
    for mode in ("save_gradient", "overwrite"):
        maps = [
            [(level.detach().to(dtype).requires_grad_() * 1) for level in levels]
            for levels in Head(device, layout)()
        ]
        losses = retinanet_loss(*maps, ANCHORS, *on(device), mode=mode)
        flat = [*maps[0], *maps[1]]
        results.append([*losses, *torch.autograd.grad(losses[0] + losses[1], flat)])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
