"""softmax_focal_loss: values and gradients, ignored rows, reductions, layouts, derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from focaldet import reference
from focaldet.ops import softmax_focal_loss

HALF_TYPES = (torch.float16, torch.bfloat16)
CLASSES = (1, 2, 3, 80, 91, 1203)
GAMMAS = (0, 0.5, 1, 2, 3.7)


def forward_and_gradient(x: Tensor, labels: Tensor, *args: object) -> list[Tensor]:
    x = x.detach().requires_grad_()
    loss = softmax_focal_loss(x, labels, *args)
    return [loss.detach(), torch.autograd.grad(loss, x, torch.ones_like(loss))[0]]


def expected(x: Tensor, labels: Tensor, alpha: float | Tensor, gamma: float) -> list[Tensor]:
    """Loss and gradient in float64 on the CPU."""
    x, labels = x.detach().cpu().double(), labels.cpu()
    rest = (x, labels, alpha.cpu().double() if isinstance(alpha, Tensor) else alpha, gamma)
    one = torch.ones((), dtype=torch.float64)
    return [
        reference.softmax_focal_loss(*rest),
        reference.softmax_focal_loss_backward(one, *rest),
    ]


def check(
    x: Tensor, labels: Tensor, alpha: float | Tensor, gamma: float, device: torch.device
) -> None:
    """Against the twin in float64, within what the arithmetic may lose."""
    on_device = alpha.to(device) if isinstance(alpha, Tensor) else alpha
    got = forward_and_gradient(x.to(device), labels.to(device), on_device, gamma)
    want = expected(x, labels, alpha, gamma)
    assert got[0].dtype == got[1].dtype == x.dtype and got[0].shape == labels.shape
    # Of z = (x_t - top) - ln(sum) the difference and the result round, and the logarithm errs by as
    # much as the sum does relatively: K exponentials of 1 ulp, added up in at least 16 lanes.
    classes = x.shape[-1]
    below = x.amax(dim=-1, keepdim=True).sub(x).double()
    spread = below.amax(dim=-1) + math.log(classes)  # at least |z| and the softplus of z
    total = classes / 16 + 8
    z_error = 2 * spread + total
    # DESIGN section 3 has the error of the loss of a given z. The loss moves relatively by at most
    # gamma + 1 times as much as z, its derivative by twice that. Then come an exponential, the sum.
    given = 8 + 4 * gamma + gamma * spread
    of_loss = given + (gamma + 1) * z_error
    of_gradient = (given + 2 * (gamma + 1) * z_error)[..., None] + 2 * below + total
    limits = torch.finfo(x.dtype)
    own = 2 if x.dtype == torch.float64 else 1  # the twin is no more exact than the kernel then
    for ours, exact, ulps in zip(got, want, (of_loss, of_gradient), strict=True):
        error = (ours.cpu().double() - exact).abs()
        assert (error <= own * ulps * limits.eps * exact.abs().clamp(min=limits.tiny)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("classes", CLASSES)
def test_values(classes: int, gamma: float, dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(67, classes, dtype=dtype) * 4
    labels = torch.randint(-2, classes, (67,))
    for alpha in (0.25, -1, torch.linspace(-0.1, 1, classes)):
        check(x, labels, alpha, gamma, device)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_large_logits(gamma: float, device: torch.device) -> None:
    x = torch.randn(200, 7) * torch.logspace(0, 4, 200)[:, None]
    check(x, torch.randint(7, (200,)), -1, gamma, device)
    # A shift of the whole row changes nothing, as long as the logits do not round.
    x, labels = torch.randn(50, 7).mul(64).round().div(64), torch.randint(7, (50,))
    near = forward_and_gradient(x.to(device), labels.to(device), 0.25, gamma)
    far = forward_and_gradient(x.to(device) + 65536, labels.to(device), 0.25, gamma)
    assert torch.equal(near[0], far[0]) and torch.equal(near[1], far[1])


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_types_are_the_float32_result_rounded_once(
    dtype: torch.dtype, gamma: float, device: torch.device
) -> None:
    x = torch.randn(200, 19, device=device).mul(6).to(dtype)
    labels = torch.randint(-2, 19, (200,), device=device)
    narrow = forward_and_gradient(x, labels, 0.25, gamma)
    wide = forward_and_gradient(x.float(), labels, 0.25, gamma)
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == dtype and torch.equal(a, b.to(dtype))
    total = softmax_focal_loss(x, labels, 0.25, gamma, "sum")
    assert total.dtype == torch.float32
    assert torch.equal(total, softmax_focal_loss(x.float(), labels, 0.25, gamma, "sum"))


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_infinite_logits_give_the_limit(gamma: float, device: torch.device) -> None:
    inf = math.inf
    x = torch.tensor(
        [[inf, 0, 0], [0, -inf, -inf], [-inf, 2, 2], [0, inf, 1], [1, 0, -inf]], device=device
    )
    loss, gradient = forward_and_gradient(x, torch.zeros(5, dtype=torch.int64, device=device), 0.5)
    two = forward_and_gradient(x[4:, :2], torch.zeros(1, dtype=torch.int64, device=device), 0.5)
    assert loss.tolist() == [0, 0, inf, inf, two[0].item()]
    halves = [[0, 0, 0], [0, 0, 0], [-0.5, 0.25, 0.25], [-0.5, 0.5, 0]]
    assert gradient.tolist() == [*halves, [*two[1][0].tolist(), 0]]


def test_one_class_is_certain(device: torch.device) -> None:
    x = torch.tensor([[3.0], [-math.inf], [math.inf]], device=device)
    for each in forward_and_gradient(x, torch.zeros(3, dtype=torch.int64, device=device)):
        assert not each.any()


def test_ignored_rows_have_no_loss_and_no_gradient(device: torch.device) -> None:
    x = torch.randn(5, 4, device=device)
    x[1], x[3] = math.nan, math.inf
    labels = torch.tensor([2, -1, 0, -2, 3], device=device)
    loss, gradient = forward_and_gradient(x, labels)
    assert not loss[[1, 3]].any() and not gradient[[1, 3]].any()
    counted = [0, 2, 4]
    assert (loss[counted] > 0).all() and gradient[counted].ne(0).all()
    mean = softmax_focal_loss(x, labels, reduction="mean")
    torch.testing.assert_close(mean, loss[counted].mean())
    nothing = torch.full_like(labels, -1)
    assert softmax_focal_loss(x, nothing, reduction="mean") == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF_TYPES])
def test_reductions(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(2501, 9).to(dtype)
    labels = torch.randint(-2, 9, (2501,))
    exact = expected(x, labels, 0.25, 2.0)[0].sum()
    for reduction, count in (("sum", 1), ("mean", int((labels >= 0).sum()))):
        got = softmax_focal_loss(x.to(device), labels.to(device), reduction=reduction)
        assert got.dtype == torch.promote_types(dtype, torch.float32) and got.shape == ()
        # Every loss is within 100 ulp (see check; |z| is below 10), and is added to at most 2501.
        close = dict(rtol=(100 + 2501) * torch.finfo(got.dtype).eps, atol=0, check_dtype=False)
        torch.testing.assert_close(got.cpu(), exact / count, **close)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,), (2, 0, 4)])
def test_nothing(shape: tuple[int, ...], device: torch.device) -> None:
    x = torch.empty(shape, device=device, requires_grad=True)
    labels = x.new_full(shape[:-1], -1, dtype=torch.int64)
    assert softmax_focal_loss(x, labels).shape == shape[:-1]
    for reduction in ("sum", "mean"):
        loss = softmax_focal_loss(x, labels, reduction=reduction)
        loss.backward()
        assert loss.item() == 0 and x.grad.shape == shape


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of a [2, 6, 8, 10] tensor
    "permuted": lambda x: x.permute(0, 2, 3, 1),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1),
    "every other row": lambda x: x[:, ::2],
    "every other column": lambda x: x[..., ::2],
    "expanded": lambda x: x[:1, :, :1].expand(4, -1, 3, -1),
    "misaligned": lambda x: x.flatten()[1:].unflatten(0, (7, 137)),
    "one row": lambda x: x.flatten(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, dtype: torch.dtype, device: torch.device) -> None:
    x = LAYOUTS[layout](torch.randn(2, 6, 8, 10, device=device).to(dtype))
    labels = torch.randint(-2, x.shape[-1], (2 * x[..., 0].numel(),), device=device)[::2]
    labels = labels.view(x.shape[:-1])
    got = forward_and_gradient(x, labels)
    want = forward_and_gradient(x.contiguous(), labels.contiguous())
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    x, labels = torch.randn(40001, 5), torch.randint(-2, 5, (40001,))
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        total = softmax_focal_loss(x, labels, reduction="sum")
        results.append([total, *forward_and_gradient(x, labels, 0.25, 1.5)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_equivalent_to(device: torch.device) -> None:
    """The lines of the docstring."""
    x = torch.randn(50, 6, device=device, dtype=torch.float64)
    labels = torch.randint(6, (50,), device=device)
    ce = F.cross_entropy(x, labels, reduction="none")
    torch.testing.assert_close(
        softmax_focal_loss(x, labels, 0.3, 1.5), 0.3 * (1 - torch.exp(-ce)) ** 1.5 * ce
    )


# Derivatives ------------------------------------------------------------------------------------


def case(device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits [2, 3, 4], with gradient, and labels with ignored rows."""
    x = torch.randn(2, 3, 4, device=device, dtype=dtype).mul(2).requires_grad_()
    return x, torch.tensor([[3, -1, 0], [-2, 1, 1]], device=device)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_first_and_second_derivatives(gamma: float, reduction: str, device: torch.device) -> None:
    x, labels = case(device)
    rising = torch.linspace(0.1, 0.9, 4, device=device, dtype=torch.float64)
    for alpha in (0.25, -1, rising):

        def loss(x: Tensor, alpha: float | Tensor = alpha) -> Tensor:
            return softmax_focal_loss(x, labels, alpha, gamma, reduction)

        assert torch.autograd.gradcheck(loss, (x,))
        assert torch.autograd.gradgradcheck(loss, (x,), fast_mode=True)


@pytest.mark.parametrize("dtype", [*HALF_TYPES, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_second_backward_gives_the_same_gradient(
    reduction: str, dtype: torch.dtype, device: torch.device
) -> None:
    x, labels = case(device, dtype)
    loss = softmax_focal_loss(x, labels, reduction=reduction)
    upstream = torch.rand(loss.shape, device=device).to(loss.dtype) + 0.5
    first = torch.autograd.grad(loss, x, upstream, retain_graph=True)[0]
    copy = first.clone()
    second = torch.autograd.grad(loss, x, upstream)[0]
    assert first.dtype == dtype
    assert torch.equal(second, copy) and torch.equal(first, copy)


def test_every_form_of_the_incoming_gradient(device: torch.device) -> None:
    x, labels = case(device, torch.float32)
    loss = softmax_focal_loss(x, labels)
    unit = torch.autograd.grad(loss, x, torch.ones_like(loss), retain_graph=True)[0]
    half = torch.full_like(loss, 0.5)  # a power of two: every product is exact
    for upstream in (half, half[:1, :1].expand(2, 3), half.t().contiguous().t()):
        got = torch.autograd.grad(loss, x, upstream, retain_graph=True)[0]
        assert torch.equal(got, unit * 0.5)
    backward = torch.ops.focaldet.softmax_focal_loss_backward
    one = torch.ones((), device=device)
    assert torch.equal(backward(one, x.detach(), labels, 0.25, 2.0, None), unit)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compile(reduction: str, device: torch.device) -> None:
    def step(x: Tensor, labels: Tensor) -> Tensor:
        return softmax_focal_loss(x * 2, labels, 0.25, 1.5, reduction)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x, labels = case(device, torch.float32)
    results = []
    for function in (step, compiled):
        loss = function(x, labels)
        results.append((loss, torch.autograd.grad(loss.sum(), x)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_compile_with_dynamic_shapes(device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(softmax_focal_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, classes in ((3, 4), (7, 5), (2, 91)):
        x = torch.randn(rows, classes, device=device)
        labels = torch.randint(-2, classes, (rows,), device=device)
        for rest in ((), (0.25, 2.0, "sum")):
            assert torch.equal(compiled(x, labels, *rest), softmax_focal_loss(x, labels, *rest))


@pytest.mark.parametrize("dtype", [*HALF_TYPES, torch.float32])
def test_autocast_leaves_the_dtype_alone(dtype: torch.dtype, device: torch.device) -> None:
    x, labels = case(device, dtype)
    with torch.autocast(device.type, torch.bfloat16):
        inside = softmax_focal_loss(x, labels)
    assert inside.dtype == dtype and torch.equal(inside, softmax_focal_loss(x, labels))


# Bad arguments ----------------------------------------------------------------------------------

LOGITS, LABELS, NAN = torch.zeros(2, 5, 3), torch.zeros(2, 5).long(), math.nan
BAD: list[tuple[dict[str, object], type[Exception], str]] = [
    (dict(inputs=[1.0]), TypeError, "inputs: expected a tensor, got list"),
    (dict(inputs=LOGITS.int()), TypeError, "inputs: expected float16, bfloat16, float32"),
    (dict(inputs=LOGITS[0, 0, 0]), ValueError, "labels: expected shape [] for logits []"),
    (dict(labels=LABELS.int()), TypeError, "labels: expected int64"),
    (dict(labels=LABELS[:1]), ValueError, "labels: expected shape [2, 5] for logits [2, 5, 3]"),
    (dict(labels=LABELS + 3), IndexError, "labels: expected labels in [-2, 3), got 3"),
    (dict(labels=LABELS - 3), IndexError, "labels: expected labels in [-2, 3), got -3"),
    (dict(labels=LABELS.to("meta")), ValueError, "expected inputs and labels on one device"),
    (dict(alpha="a"), TypeError, "alpha: expected a number, got str 'a'"),
    (dict(alpha=1.5), ValueError, "alpha: expected a number"),
    (dict(alpha=torch.zeros(4)), ValueError, "alpha: expected shape [3], got"),
    (dict(alpha=torch.tensor(0.5)), ValueError, "alpha: expected a number or a tensor [K]"),
    (dict(alpha=torch.zeros(3, requires_grad=True)), ValueError, "alpha gets no gradient"),
    (dict(gamma=-1), ValueError, "gamma: expected a number of at least 0, got -1"),
    (dict(gamma=NAN), ValueError, "gamma: expected a number"),
    (dict(reduction="average"), ValueError, "reduction: expected one of none, sum, mean"),
]


@pytest.mark.parametrize("changed,kind,text", BAD, ids=[f"{i}-{b[2]}" for i, b in enumerate(BAD)])
def test_bad_arguments(changed: dict[str, object], kind: type[Exception], text: str) -> None:
    softmax_focal_loss(LOGITS, LABELS)  # so that each call is bad in the one way it is meant to be
    with pytest.raises(kind) as caught:
        softmax_focal_loss(**{"inputs": LOGITS, "labels": LABELS, **changed})
    assert type(caught.value) is kind and text in str(caught.value)


MALFORMED: dict[str, dict[str, object]] = {  # for the operators themselves
    "integer logits": dict(inputs=LOGITS.int()),
    "dense targets": dict(labels=LOGITS),
    "int32 labels": dict(labels=LABELS.int()),
    "too few labels": dict(labels=LABELS[:1]),
    "labels of a scalar": dict(inputs=LOGITS[0, 0, 0], labels=LABELS[0, 0]),
    "too few alphas": dict(class_alpha=torch.ones(2)),
    "too small a gradient": dict(grad=torch.ones(3)),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_operators_refuse_what_they_would_read_beyond(what: str, device: torch.device) -> None:
    rest = {"alpha": 0.25, "gamma": 2.0, "class_alpha": None}
    arguments = {"inputs": LOGITS, "labels": LABELS, **rest, **MALFORMED[what]}
    ops = torch.ops.focaldet
    function = ops.softmax_focal_loss_backward if "grad" in arguments else ops.softmax_focal_loss
    on_device = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in arguments.items()}
    with pytest.raises(RuntimeError):
        function(**on_device)
