"""3x3 convolutions by Winograd's minimal filtering (Lavin and Gray 2015), for the CPU in float32.

A tile of 4x4 outputs needs 6x6 inputs, and 36 multiplications a channel pair instead of 144:
Y = A^T [(G g G^T) * (B^T d B)] A, where * over channels is 36 matrix products. Tiles are taken in
chunks whose transforms stay in the cache. Cost for T tiles, C to K channels: 36 T C K + 1296 T C +
576 T K multiplications. PyTorch's own library for x86, oneDNN, has no such algorithm any more.

With 256 channels the usual interpolation points 0, 1, -1, 2, -2 make errors of 1.9e-6 of the
result's norm; 0 and plus and minus sqrt(1/2) and sqrt(2), balanced around 1, make 0.9e-6. oneDNN's
direct convolutions make 0.6e-6 of channels_last maps, 0.2e-6 of contiguous ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))  # and infinity
OUT, IN = 4, 6  # rows and columns of a tile, of outputs and of inputs
CHUNK = 168  # tiles at once: 6 MB for each transform of 256 channels
LEAST_CHANNELS = 128  # in and out; with fewer the transforms cost what the products save
LEAST_TILES = 100  # of a batch; for fewer, the 36/9 times larger weights cost more than they save
LEAST_TILES_FROZEN = 32  # where they are made in advance


class _Matrices(NamedTuple):
    """The transforms of flattened tiles, Kronecker squares of the one-dimensional ones."""

    inputs: Tensor  # [36, 36]
    weights: Tensor  # [36, 9]
    outputs: Tensor  # [16, 36]


@cache
def _matrices() -> _Matrices:
    """From evaluation at POINTS: a product of polynomials is one of their values (Toom, Cook)."""
    # dtype and device: whatever torch's defaults are.
    points = torch.tensor(POINTS, dtype=torch.float64, device="cpu")[:, None]

    def values(degree: int) -> Tensor:
        """What takes coefficients to values; at infinity that is the last coefficient."""
        at_infinity = torch.eye(degree, dtype=torch.float64, device="cpu")[-1:]
        return torch.cat([points ** torch.arange(degree, device="cpu"), at_infinity])

    inputs = torch.linalg.inv(values(IN)).T
    scale = inputs.abs().amax(dim=1, keepdim=True)  # moved to the weights: entries of at most 1
    parts = inputs / scale, values(3) * scale, values(OUT).T
    return _Matrices(*(torch.kron(part, part).float() for part in parts))


def transform_weight(weight: Tensor) -> Tensor:
    """Weights [K, C, 3, 3] to [36, K, C]."""
    k, c = weight.shape[:2]
    return (_matrices().weights @ weight.permute(2, 3, 0, 1).reshape(9, k * c)).view(-1, k, c)


class _Chunk(NamedTuple):
    """Tiles that are transformed together: of some images, some rows of tiles."""

    images: slice
    top: int  # the first output row
    rows: int  # of tiles


class _Tiling:
    """How maps [B, H, W, channels] are cut into tiles, and buffers that the chunks share."""

    def __init__(self, batch: int, height: int, width: int) -> None:
        self.size = height, width
        self.down, self.across = -(-height // OUT), -(-width // OUT)
        self.images = min(max(1, batch), max(1, CHUNK // (self.down * self.across)))
        self.rows = min(self.down, max(1, CHUNK // self.across))
        self.starts = [
            (image, row)
            for image in range(0, batch, self.images)
            for row in range(0, self.down, self.rows)
        ]
        self.batch = batch
        self.most = self.images * self.rows * self.across  # tiles in a chunk

    def __iter__(self) -> Iterator[_Chunk]:
        for image, row in self.starts:
            images = slice(image, min(image + self.images, self.batch))
            yield _Chunk(images, OUT * row, min(self.rows, self.down - row))

    def buffer(self, x: Tensor, border: int) -> Tensor:
        """Zeros for the pixels of a chunk, and `border` beyond them on every side."""
        height, width = (OUT * n + 2 * border for n in (self.rows, self.across))
        return x.new_zeros(self.images, height, width, x.shape[-1])

    def load(self, x: Tensor, chunk: _Chunk, buffer: Tensor, border: int) -> Tensor:
        """The chunk's tiles [side, side, images, rows, across, C], a view of the buffer; pixels
        outside of the map are zero."""
        height, width = self.size
        part = x[chunk.images]
        buffer = buffer[: len(part), : OUT * chunk.rows + 2 * border]
        first = chunk.top - border  # the map's row in the buffer's first
        begin, end = max(0, first), min(height, first + buffer.shape[1])
        buffer[:, : begin - first] = 0
        buffer[:, end - first :] = 0
        buffer[:, begin - first : end - first, border : border + width] = part[:, begin:end]
        by_image, by_row, by_column, by_channel = buffer.stride()
        side = OUT + 2 * border
        return buffer.as_strided(
            (side, side, len(part), chunk.rows, self.across, x.shape[-1]),
            (by_row, by_column, by_image, OUT * by_row, OUT * by_column, by_channel),
        )

    def store(self, tiles: Tensor, bias: Tensor | None, chunk: _Chunk, out: Tensor) -> None:
        """Writes output tiles [4, 4, images, rows, across, K], and the bias, into the map."""
        height, width = self.size
        tiles = tiles.permute(2, 3, 0, 4, 1, 5)
        target = out[chunk.images, chunk.top : chunk.top + OUT * chunk.rows]
        whole = target.shape[1:3] == (OUT * chunk.rows, OUT * self.across)
        place = target.view(tiles.shape) if whole else tiles.new_empty(tiles.shape)
        place.copy_(tiles) if bias is None else torch.add(tiles, bias, out=place)
        if not whole:
            place = place.view(len(target), OUT * chunk.rows, OUT * self.across, -1)
            target.copy_(place[:, : target.shape[1], :width])


def _front(buffer: Tensor, *shape: int) -> Tensor:
    """The first part of a flat buffer, in that shape: chunks share memory, for fresh memory would
    cost more than the arithmetic."""
    return buffer[: math.prod(shape)].view(shape)


def _times(matrix: Tensor, tiles: Tensor, buffers: Sequence[Tensor]) -> Tensor:
    """The matrix times flattened tiles [side, side, ..., C], in the second buffer: [rows, T, C]."""
    gathered = _front(buffers[0], *tiles.shape).copy_(tiles).view(matrix.shape[1], -1)
    torch.mm(matrix, gathered, out=(result := _front(buffers[1], len(matrix), gathered.shape[1])))
    return result.view(len(matrix), -1, tiles.shape[-1])


@torch.library.custom_op("focaldet_models::winograd_conv2d", mutates_args=(), device_types="cpu")
def winograd_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, transformed: Tensor | None = None
) -> Tensor:
    """`conv2d(x, weight, bias, padding=1)` of [B, C, H, W] with [K, C, 3, 3], float32 on the CPU.

    `transformed`: transform_weight(weight), if it is at hand. The result is channels_last, and x
    best is. A value that is not finite makes NaN of all the 4x4 outputs of its tile.
    """
    if weight.shape[2:] != (3, 3) or any(t.dtype != torch.float32 for t in (x, weight)):
        raise ValueError(
            "winograd_conv2d: expected float32 maps and weights [K, C, 3, 3], got "
            f"{x.dtype} and {weight.dtype} {list(weight.shape)}"
        )
    result = _empty_result(x, weight)
    if result.numel() == 0:
        return result
    if transformed is None:
        transformed = transform_weight(weight)
    k, c = weight.shape[:2]
    matrices, tiling = _matrices(), _Tiling(len(x), *x.shape[2:])
    x, out = x.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1)
    padded = tiling.buffer(x, 1)
    inputs = [x.new_empty(tiling.most * IN**2 * c) for _ in range(2)]
    products, outputs = (x.new_empty(tiling.most * side**2 * k) for side in (IN, OUT))
    for chunk in tiling:
        tiles = tiling.load(x, chunk, padded, 1)
        values = _times(matrices.inputs, tiles, inputs)
        n = values.shape[1]
        product = _front(products, IN**2, n, k)
        torch.bmm(values, transformed.transpose(1, 2), out=product)
        output = _front(outputs, OUT**2, n * k)
        torch.mm(matrices.outputs, product.view(IN**2, n * k), out=output)
        tiling.store(output.view(OUT, OUT, *tiles.shape[2:5], k), bias, chunk, out)
    return result


def _empty_result(x: Tensor, weight: Tensor) -> Tensor:
    """Not a view, which a ReLU in place could not overwrite in training."""
    shape = len(x), len(weight), *x.shape[2:]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.custom_op(
    "focaldet_models::winograd_weight_gradient", mutates_args=(), device_types="cpu"
)
def winograd_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient [K, C, 3, 3] of the weight, from x and the output's: the adjoint of the above,
    with as many multiplications."""
    matrices, tiling = _matrices(), _Tiling(len(x), *x.shape[2:])
    x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    c, k = x.shape[-1], grad.shape[-1]
    padded, plain = tiling.buffer(x, 1), tiling.buffer(grad, 0)
    inputs = [x.new_empty(tiling.most * IN**2 * c) for _ in range(2)]
    grads = [x.new_empty(tiling.most * side**2 * k) for side in (OUT, IN)]
    to_products = matrices.outputs.T.contiguous()
    total = x.new_zeros(IN**2, k, c)
    for chunk in tiling:
        values = _times(matrices.inputs, tiling.load(x, chunk, padded, 1), inputs)
        product_grads = _times(to_products, tiling.load(grad, chunk, plain, 0), grads)
        total.baddbmm_(product_grads.transpose(1, 2), values)
    weight = matrices.weights.T @ total.flatten(1)
    return weight.view(3, 3, k, c).permute(2, 3, 0, 1).contiguous()


@winograd_conv2d.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, transformed: Tensor | None = None
) -> Tensor:
    return _empty_result(x, weight)


@winograd_weight_gradient.register_fake
def _(x: Tensor, grad: Tensor) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], 3, 3)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    for_x = for_weight = for_bias = None
    if ctx.needs_input_grad[0]:  # the same with the kernel turned round
        for_x = winograd_conv2d(grad, weight.flip(2, 3).transpose(0, 1))
    if ctx.needs_input_grad[1]:
        for_weight = winograd_weight_gradient(x, grad)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        for_bias = grad.sum((0, 2, 3))
    return for_x, for_weight, for_bias, None


winograd_conv2d.register_autograd(_backward, setup_context=_save)


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1, with the parameters of another, that takes Winograd's way
    where that is possible and faster: float32 maps on the CPU, outside of autocast, not tiny."""

    weight: Tensor
    bias: Tensor | None
    transformed: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        bias = conv.bias is not None
        super().__init__(
            conv.in_channels, conv.out_channels, 3, padding=1, bias=bias, device="meta"
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)
        # Not part of the state: what `freeze` keeps.
        self.register_buffer("transformed", None, persistent=False)

    def freeze(self) -> None:
        """Transforms the weight once and for all: from now on it must not change."""
        self.transformed = transform_weight(self.weight.detach())

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        if self.transformed is not None:
            self.freeze()

    def pays(self, x: Tensor) -> bool:
        """Whether x goes Winograd's way."""
        if x.dim() != 4:
            return False
        tiles = len(x) * -(-x.shape[2] // OUT) * -(-x.shape[3] // OUT)
        return (
            tiles >= (LEAST_TILES if self.transformed is None else LEAST_TILES_FROZEN)
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pays(x):
            result: Tensor = winograd_conv2d(x, self.weight, self.bias, self.transformed)
            return result
        return super().forward(x)


def use_winograd(model: nn.Module) -> nn.Module:
    """Replaces the convolutions in a model that Winograd's way pays for. The parameters stay the
    same objects under the same names, so that optimizers and state dicts do not notice. Gradients
    can be taken, but not of gradients."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and suits(child):
                setattr(module, name, WinogradConv2d(child))
    return model


def suits(conv: nn.Conv2d) -> bool:
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups) == (
        (3, 3), (1, 1), (1, 1), (1, 1), 1,
    )  # fmt: skip
    wide = min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
    return plain and wide and conv.padding_mode == "zeros"
