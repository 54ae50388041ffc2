"""Layers that more than one family of networks may use."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from lightning_gan.networks.convolution import conv2d


def activate(x: Tensor) -> Tensor:
    """Leaky rectifier of slope 0.2, scaled by sqrt(2) to keep the second moment of its input about as it is."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def normalize(x: Tensor) -> Tensor:
    """Scale each row to unit second moment (Karras et al. 2018, Section 4.2): (N, D) -> (N, D)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off for the device of `x`, if it is on."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


class EqualizedLinear(nn.Module):
    """Dense layer with an equalized learning rate, Karras et al. 2018, Section 4.1.

    The weight is stored with unit variance and scaled at run time by He et al.'s constant, so that an optimizer that divides by
    the size of the gradient changes all layers at the same relative speed.

    Args:
        bias: what the biases start from.
        multiplier: of the learning rate; the function at the start does not depend on it.
    """

    def __init__(self, in_features: int, out_features: int, bias: float = 0.0, multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias / multiplier))
        self.gain = multiplier / math.sqrt(in_features)
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.multiplier)


class EqualizedConv2d(nn.Module):
    """Convolution with an equalized learning rate, Karras et al. 2018, Section 4.1.

    Its padding keeps the size; with stride 2 there is none, for a blur before it to add.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.stride = stride
        self.padding = kernel_size // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


def _binomial() -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(taps, taps)[None, None]  # (1, 1, 4, 4)


class _Filter(torch.autograd.Function):
    """Convolve each channel with one constant kernel, or the transpose of that.

    Each is the other's derivative. Autograd's own second derivative of a depthwise convolution also computes the gradient of
    the kernel, which nobody needs, in as many small convolutions as there are channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, stride: int, padding: int, size: torch.Size | None) -> Tensor:
        """Return the convolution, or if `size` is given its transpose with that size, (H, W)."""
        ctx.save_for_backward(kernel)
        ctx.arguments = stride, padding, x.shape[2:] if size is None else None
        channels = x.shape[1]
        kernels = kernel.to(x.dtype).expand(channels, -1, -1, -1)
        if size is None:
            return F.conv2d(x, kernels, None, stride, padding, groups=channels)
        rest = [full - ((n - 1) * stride + 4 - 2 * padding) for full, n in zip(size, x.shape[2:], strict=True)]
        if x.device.type != "cpu":
            return F.conv_transpose2d(x, kernels, None, stride, padding, rest, channels)
        with full_precision(x):  # in bfloat16 it takes a CPU up to a hundred times as long
            wide = torch.promote_types(x.dtype, torch.float32)
            return F.conv_transpose2d(x.to(wide), kernels.to(wide), None, stride, padding, rest, channels).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Filter.apply(*gradients, *ctx.saved_tensors, *ctx.arguments), None, None, None, None


class Blur(nn.Module):
    """Filter each channel by [1, 3, 3, 1] / 8 in both directions; what lies outside the image is 0.

    `Blur(padding=1, stride=2)` halves the size; without a stride the size changes by 2 * padding - 3.
    """

    kernel: Tensor

    def __init__(self, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.padding = padding
        self.stride = stride
        self.register_buffer("kernel", _binomial() * gain, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _Filter.apply(x, self.kernel, self.stride, self.padding, None)  # type: ignore[no-any-return]  # typed as Any


class Upsample(nn.Module):
    """Double the size: insert zeros between pixels, filter by [1, 3, 3, 1] / 8 in both directions, and scale by 4."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _binomial() * 4, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = torch.Size(2 * n for n in x.shape[2:])
        return _Filter.apply(x, self.kernel, 2, 1, size)  # type: ignore[no-any-return]  # typed as Any


class MinibatchStddev(nn.Module):
    """Append one channel that says how much the samples of a group differ, Karras et al. 2018, Section 3.

    Args:
        group: neighbours in the batch that are compared. If it does not divide the batch, its largest lower number that does.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        group = max(size for size in range(1, self.group + 1) if n % size == 0)
        groups = x.float().unflatten(0, (-1, group))  # (N / group, group, C, H, W)
        variance = (groups - groups.mean(1, keepdim=True)).square().mean(1)  # as by `var`, which takes a CPU ten times as long
        stddev = (variance + 1e-8).sqrt().mean((1, 2, 3)).to(x.dtype)  # (N / group,)
        channel = stddev.repeat_interleave(group).view(n, 1, 1, 1).expand(n, 1, height, width)
        return torch.cat([x, channel], 1)  # (N, C + 1, H, W)


class Dropout(nn.Dropout):
    """`nn.Dropout`, for which a CPU's own way to draw takes five times as long. The probability is rounded to 1 / 2**16."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)  # 4 in each
        draws = draws.as_strided(x.shape, torch.empty_like(x).stride())
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        return x * (draws >= dropped - 2**15).to(x.dtype).div_(1 - dropped / 2**16)


def on_flat(dense: nn.Linear, maps: Tensor) -> Tensor:
    """Compute `dense(maps.flatten(1))`: (N, C, H, W) -> (N, out_features).

    Where the maps are channels last it is the weights that are brought into the same order. Maps are larger, and their
    gradient would come back in the other order, which slows down whatever it passes.
    """
    if maps.is_contiguous():
        return dense(maps.flatten(1))  # type: ignore[no-any-return]  # torch types every module's output as Any
    weight = dense.weight.unflatten(1, maps.shape[1:]).permute(0, 2, 3, 1)
    return F.linear(maps.permute(0, 2, 3, 1).flatten(1), weight.flatten(1), dense.bias)


def normalize_spectra(network: nn.Module) -> None:
    """Divide the weight of each convolution, dense layer and embedding by its largest singular value, Miyato et al. 2018.

    Every forward pass in training mode improves the estimate by one power iteration (their Algorithm 1). The kernel of a
    convolution is taken as a matrix of one row for each output channel. Initialize the network before, not after.
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            spectral_norm(layer)


def count_halvings(size: int, above: int = 4) -> int:
    """Count how often `size` can be halved, as long as it is larger than `above`."""
    count = 0
    while size > above and size % 2 == 0:
        size //= 2
        count += 1
    return count


def coarsest_size(image_shape: tuple[int, int, int], halvings: int) -> int:
    """Height and width, in pixels, of square images after `halvings`.

    Raises:
        ValueError: the images are not square or cannot be halved that often, or there is no halving at all.
    """
    height, width = image_shape[1:]
    if halvings < 1:
        raise ValueError(
            f"the network halves images at least once: it needs more channels or an even size above 4 px, not {height}x{width}"
        )
    multiple = int(2**halvings)
    if height != width or width % multiple:
        raise ValueError(
            f"a network that halves {halvings} times needs square images of a multiple of {multiple} px, not {height}x{width}"
        )
    return width // multiple
