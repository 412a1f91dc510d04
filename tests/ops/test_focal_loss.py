"""The values of sigmoid_focal_loss and of its gradient: bounds, target forms, layouts, reductions.

Derivatives as autograd sees them, compilation and autocast are in test_focal_loss_autograd.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from focaldet import reference
from focaldet.ops import sigmoid_focal_loss

GAMMAS = (0, 0.1, 0.5, 1, 1.5, 2, 3.7, 5)
HALF_TYPES = (torch.float16, torch.bfloat16)
CLASSES = (1, 3, 7, 80, 91, 1203)


def forward_and_gradient(x: Tensor, t: Tensor, *args: object, **kwargs: object) -> list[Tensor]:
    x = x.detach().requires_grad_()
    loss = sigmoid_focal_loss(x, t, *args, **kwargs)
    return [loss.detach(), torch.autograd.grad(loss, x, torch.ones_like(loss))[0]]


def expected(x: Tensor, t: Tensor, alpha: object, gamma: float, **kwargs: object) -> list[Tensor]:
    """Loss and gradient in float64 on the CPU."""
    x = x.detach().cpu().double()
    t = t.cpu().double() if t.is_floating_point() else t.cpu()
    if isinstance(alpha, Tensor):
        alpha = alpha.cpu().double()
    kwargs = {k: v.cpu().double() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    one = torch.ones((), dtype=torch.float64)
    return [
        reference.sigmoid_focal_loss(x, t, alpha, gamma, **kwargs),
        reference.sigmoid_focal_loss_backward(one, x, t, alpha, gamma, **kwargs),
    ]


def float32_ulp(exact: Tensor) -> Tensor:
    return torch.exp2(exact.abs().clamp(min=2.0**-126).log2().floor() - 23)


def allowed(gamma: float, minus_log_m: Tensor) -> Tensor:
    """DESIGN section 3: ulps of error where m is the sigmoid that modulates."""
    if gamma == int(gamma):
        return torch.full_like(minus_log_m, 6 + 4 * gamma)
    return 8 + 4 * gamma + gamma * minus_log_m


@pytest.fixture(scope="module")
def wide_logits() -> Tensor:
    """[-1e4, 1e4]: densely where the loss is neither 0 nor linear, by powers beyond."""
    far = torch.logspace(1.5, 4, 2000)
    return torch.cat([torch.linspace(-110, 110, 20001), far, -far])


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_error_bound(
    gamma: float, target: float, wide_logits: Tensor, device: torch.device
) -> None:
    x = wide_logits.to(device)
    t = torch.full_like(x, target)
    minus_log_m = F.softplus((2 * target - 1) * wide_logits.double())
    for alpha in (-1.0, 0.25, 0.3):
        got, want = forward_and_gradient(x, t, alpha, gamma), expected(x, t, alpha, gamma)
        for what, ours, exact in zip(("loss", "gradient"), got, want, strict=True):
            error = (ours.cpu().double() - exact).abs() / float32_ulp(exact)
            ratio = error / allowed(gamma, minus_log_m)
            at = int(ratio.argmax())
            assert ratio[at] <= 1, (
                f"{what}, alpha {alpha}: {error[at]:.1f} ulp at logit {wide_logits[at]:.9g}"
            )


@pytest.mark.parametrize("gamma", GAMMAS)
def test_float64(gamma: float, wide_logits: Tensor, device: torch.device) -> None:
    x = wide_logits[::7].double()
    t = (torch.arange(len(x)) % 2).double()
    minus_log_m = F.softplus((2 * t - 1) * x)
    got = forward_and_gradient(x.to(device), t.to(device), 0.25, gamma)
    for ours, exact in zip(got, expected(x, t, 0.25, gamma), strict=True):
        # The reference is no more exact than the kernel here, so each may err by as much.
        tolerance = 2 * allowed(gamma, minus_log_m) * torch.finfo(torch.float64).eps * exact.abs()
        assert ((ours.cpu() - exact).abs() <= tolerance + 1e-300).all()


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_types_are_the_float32_result_rounded_once(
    dtype: torch.dtype, gamma: float, device: torch.device
) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = every[every.isfinite()].to(device)
    for target in (0.0, 1.0, 0.25):
        t = torch.full_like(x, target)
        narrow = forward_and_gradient(x, t, 0.25, gamma)
        wide = forward_and_gradient(x.float(), t.float(), 0.25, gamma)
        for a, b in zip(narrow, wide, strict=True):
            assert a.dtype == dtype
            assert torch.equal(a, b.to(dtype))


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_infinite_logits_give_the_limit(
    gamma: float, alpha: float, weight: float, device: torch.device
) -> None:
    x = torch.tensor([math.inf, -math.inf, math.inf, -math.inf, math.inf, -math.inf])[:, None]
    t = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5, 0.5])[:, None]
    labels = torch.tensor([-1, -1, 0, 0], device=device)
    weights = torch.tensor([weight], device=device)
    want = expected(x, t, alpha, gamma, class_weight=weights)
    x, t = x.to(device), t.to(device)
    got = forward_and_gradient(x, t, alpha, gamma, class_weight=weights)
    labelled = forward_and_gradient(x[:4], labels, alpha, gamma, class_weight=weights)
    for dense, hard, limit in zip(got, labelled, want, strict=True):
        # A power of one half and a product, so a few roundings: 4 ulp.
        torch.testing.assert_close(dense.cpu().double(), limit, rtol=2**-21, atol=0)
        torch.testing.assert_close(hard.cpu().double(), limit[:4], rtol=2**-21, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF_TYPES])
@pytest.mark.parametrize("classes", CLASSES)
def test_labels_equal_one_hot_targets(
    classes: int, dtype: torch.dtype, device: torch.device
) -> None:
    rows = 5 if classes > 100 else 41
    x = torch.randn(rows, classes, device=device).mul(4).to(dtype)
    labels = torch.randint(-1, classes, (rows,), device=device)
    hot = (labels[:, None] == torch.arange(classes, device=device)).to(dtype)
    balance = torch.rand(classes, device=device)
    for alpha, gamma, smoothing in (
        (0.25, 2, 0.0),
        (-1, 0.5, 0.0),
        (balance, 1, 0.0),
        (0.3, 2, 0.1),
    ):
        options = dict(label_smoothing=smoothing, class_weight=balance + 0.5)
        a = forward_and_gradient(x, labels, alpha, gamma, **options)
        b = forward_and_gradient(x, hot, alpha, gamma, **options)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        assert a[0].shape == x.shape


@pytest.mark.parametrize("form", ["labels", "hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("per_class", [False, True], ids=["alpha", "per-class"])
def test_target_forms_and_weights(
    form: str, smoothing: float, gamma: float, per_class: bool, device: torch.device
) -> None:
    n, k = 100, 7
    x = torch.randn(n, k) * 4
    t = {"labels": torch.randint(-1, k, (n,)), "hard": (torch.rand(n, k) < 0.2).float()}.get(
        form, torch.rand(n, k)
    )
    alpha = torch.linspace(0.1, 0.9, k) if per_class else 0.25
    options = dict(
        label_smoothing=smoothing, class_weight=torch.linspace(0, 3, k) if per_class else None
    )
    want = expected(x, t, alpha, gamma, **options)

    def put(value: object) -> object:
        return value.to(device) if isinstance(value, Tensor) else value

    options = {name: put(value) for name, value in options.items()}
    got = forward_and_gradient(x.to(device), t.to(device), put(alpha), gamma, **options)

    # Between 0 and 1 a target's own rounding counts as well, relative to t and to 1 - t, in the
    # chance of being wrong (to the power gamma) and in the cross entropy; and p - t cancels, so the
    # gradient's error is relative to the sum of its terms' magnitudes.
    soft = reference.dense_targets(x.double(), t if form == "labels" else t.double(), smoothing)
    p, q = torch.sigmoid(x.double()), torch.sigmoid(-x.double())
    m = p * (1 - soft) + q * soft
    edge = torch.minimum(soft, 1 - soft)
    own = torch.where(edge > 0, (gamma + 1) / edge, 0)
    ulps = 8 + 4 * gamma - gamma * m.log() + own
    tolerance = ulps * torch.finfo(torch.float32).eps
    assert ((got[0].cpu() - want[0]).abs() <= tolerance * want[0].abs()).all()
    scale = (
        m**gamma * (p + soft + gamma * F.softplus(x.double().abs())) * 3
    )  # weights are at most 3
    assert ((got[1].cpu() - want[1]).abs() <= tolerance * scale).all()


def test_ignored_rows_have_no_loss_and_no_gradient(device: torch.device) -> None:
    x = torch.randn(6, 4, device=device)
    x[1], x[4] = math.nan, math.inf
    labels = torch.tensor([2, -2, -1, 0, -2, 3], device=device)
    loss, gradient = forward_and_gradient(x, labels)
    assert not loss[[1, 4]].any() and not gradient[[1, 4]].any()
    counted = [0, 2, 3, 5]
    assert (loss[counted] > 0).all() and gradient[counted].ne(0).all()
    mean = sigmoid_focal_loss(x, labels, reduction="mean")
    torch.testing.assert_close(mean, loss[counted].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF_TYPES])
def test_reductions(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(501, 9, device=device).mul(3).to(dtype)
    labels = torch.randint(-2, 9, (501,), device=device)
    wide = torch.promote_types(dtype, torch.float32)
    exact = expected(x, labels, 0.25, 2.0)[0]
    total = sigmoid_focal_loss(x, labels, reduction="sum")
    mean = sigmoid_focal_loss(x, labels, reduction="mean")
    assert total.dtype == mean.dtype == wide and total.shape == mean.shape == ()
    # Every term is within 14 ulp and is added in double; two roundings, of the sum and the mean.
    tolerance = dict(rtol=16 * torch.finfo(wide).eps, atol=0, check_dtype=False)
    torch.testing.assert_close(total.cpu(), exact.sum(), **tolerance)
    count = 9 * int((labels >= -1).sum())
    torch.testing.assert_close(mean.cpu(), exact.sum() / count, **tolerance)
    dense = torch.rand(x.shape, device=device).to(dtype)
    means = [sigmoid_focal_loss(x, dense, reduction=r) for r in ("mean", "sum")]
    torch.testing.assert_close(means[0], means[1] / x.numel())


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,), (2, 0, 4)])
def test_nothing(shape: tuple[int, ...], device: torch.device) -> None:
    x = torch.empty(shape, device=device, requires_grad=True)
    for targets in (
        torch.empty(shape, device=device),
        x.new_full(shape[:-1], -1, dtype=torch.int64),
    ):
        assert sigmoid_focal_loss(x, targets).shape == shape
        for reduction in ("sum", "mean"):
            loss = sigmoid_focal_loss(x, targets, reduction=reduction)
            loss.backward()
            assert loss.item() == 0 and x.grad.shape == shape


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of a [2, 6, 8, 10] tensor
    "permuted": lambda x: x.permute(0, 2, 3, 1),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1),
    "every other row": lambda x: x[:, ::2],
    "every other column": lambda x: x[..., ::2],
    "expanded": lambda x: x[:1, :, :1].expand(4, -1, 3, -1),
    "misaligned": lambda x: x.flatten()[1:].unflatten(0, (7, 137)),
    "flat": lambda x: x.flatten(),
    "0-dim": lambda x: x[0, 0, 0, 0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, dtype: torch.dtype, device: torch.device) -> None:
    x = LAYOUTS[layout](torch.randn(2, 6, 8, 10, device=device).to(dtype))
    t = LAYOUTS[layout](torch.rand(2, 6, 8, 10, device=device).to(dtype))
    for targets in (t, t.round()):
        got = forward_and_gradient(x, targets)
        want = forward_and_gradient(x.contiguous(), targets.contiguous())
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    if x.dim() > 0:
        labels = torch.randint(-2, x.shape[-1], (2 * x[..., 0].numel(),), device=device)[::2]
        labels = labels.view(x.shape[:-1])
        got = forward_and_gradient(x, labels)
        want = forward_and_gradient(x.contiguous(), labels.contiguous())
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_sums(layout: str, reduction: str, device: torch.device) -> None:
    """With a gradient wanted, the CPU has an operator of its own for them."""
    x = LAYOUTS[layout](torch.randn(2, 6, 8, 10, device=device))
    t = LAYOUTS[layout](torch.rand(2, 6, 8, 10, device=device))
    found = []
    for logits, targets in ((x, t), (x.contiguous(), t.contiguous())):
        leaf = logits.detach().requires_grad_()
        total = sigmoid_focal_loss(leaf, targets, reduction=reduction)
        found.append((total.detach(), torch.autograd.grad(total, leaf)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    x, labels = torch.randn(3001, 91), torch.randint(-2, 91, (3001,))
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        total = sigmoid_focal_loss(x, labels, reduction="sum")
        results.append([total, *forward_and_gradient(x, labels, 0.25, 1.5)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("alpha,gamma", [(0.25, 2), (-1, 2), (0.5, 0), (0.25, 1.5)])
def test_torchvision(alpha: float, gamma: float, reduction: str, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision")
    x = torch.rand(200, 12, device=device).mul(16).sub(8)
    for t in (torch.rand(200, 12, device=device).round(), torch.rand(200, 12, device=device)):
        theirs = torchvision.ops.sigmoid_focal_loss(x, t, alpha, gamma, reduction)
        ours = sigmoid_focal_loss(x, t, alpha, gamma, reduction)
        # They take 1 - p_t and the cross entropy as differences, of numbers up to 1 and to |x|.
        # Relative to what is left these errors are up to 1 + e^|x| times as large.
        ulps = 16 + 12 * gamma + (gamma + x.abs()) * (1 + x.abs().exp())
        slack = ulps * torch.finfo(x.dtype).eps * sigmoid_focal_loss(x, t, alpha, gamma)
        slack = {"none": slack, "sum": slack.sum(), "mean": slack.mean()}[reduction]
        assert ((ours - theirs).abs() <= slack).all()


def test_losses_that_vanish_elsewhere(device: torch.device) -> None:
    """torchvision under bf16 autocast: 1 - p_t is 0 for 41 % of logits near -6."""
    x = torch.linspace(-9, -5, 1000, device=device).bfloat16()
    loss, gradient = forward_and_gradient(x, torch.zeros_like(x))
    assert (loss > 0).all() and (gradient > 0).all()


@pytest.mark.parametrize("dtype", [*HALF_TYPES, torch.float32])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 2])
def test_values_that_overflow_elsewhere(
    gamma: float, dtype: torch.dtype, device: torch.device
) -> None:
    """torchvision: NaN gradients for gamma < 1 at large logits; mmcv: NaN for fp16."""
    x = torch.tensor([-6e4, -1e4, -90, -20, 0, 20, 90, 1e4, 6e4], device=device).to(dtype)
    for target in (0.0, 0.5, 1.0):
        loss, gradient = forward_and_gradient(x, torch.full_like(x, target), 0.25, gamma)
        assert loss.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("gamma", [0, 0.5, 1.5, 2, 3.7])
@pytest.mark.parametrize("dtype", [*HALF_TYPES, torch.float32, torch.float64])
def test_nan_stays(dtype: torch.dtype, gamma: float, device: torch.device) -> None:
    """Of the vectorised loops and of what is left behind them."""
    x = torch.full((3, 41), math.nan, device=device, dtype=dtype)
    for target in (0, 1, 0.5):
        loss, gradient = forward_and_gradient(x, torch.full_like(x, target), 0.25, gamma)
        assert loss.isnan().all() and gradient.isnan().all()
    labels = torch.tensor([-1, 3, -2], device=device)
    loss, gradient = forward_and_gradient(x, labels, 0.25, gamma)
    assert loss[:2].isnan().all() and gradient[:2].isnan().all()
    assert not loss[2].any() and not gradient[2].any()


def test_a_sum_of_half_losses_passes_65504(device: torch.device) -> None:
    x = torch.full((3000, 10), 40.0, dtype=torch.float16, device=device)
    total = sigmoid_focal_loss(x, torch.zeros_like(x), -1, reduction="sum")
    assert total.item() == 40 * 30000
