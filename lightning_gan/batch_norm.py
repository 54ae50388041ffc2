"""Batch normalization, Ioffe and Szegedy 2015, over the images of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gan.networks.layers import full_precision
from lightning_gan.processes import several


class SyncBatchNorm(_BatchNorm):
    """Batch normalization with the mean and variance of all processes' images together, on any device.

    It can be differentiated twice, as penalties need, and sends one message of 2C + 1 numbers in each direction. In evaluation
    mode and in a single process it is the layer that it was made from.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions, be it that of images or of features."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not several():
            return super().forward(x)
        with full_precision(x):
            return self._normalize(x).to(x.dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        wide = torch.promote_types(x.dtype, torch.float32)
        # Squares are summed about this process' mean, as large ones would lose the digits that the variance is made of, and are
        # moved to the mean of all in float64.
        centre = x.detach().to(wide).mean(axes)  # (C,)
        deviation = x.to(wide) - centre.view(shape)  # (N, C, ...)
        n = x.numel() // x.shape[1]
        total, squares = deviation.sum(axes).double(), deviation.square().sum(axes).double()
        c = centre.double()
        own = torch.cat([total + n * c, squares + 2 * c * total + n * c.square(), c.new_full((1,), n)])
        sums: Tensor = _SumOverProcesses.apply(own)  # (2C + 1,)
        count = sums[-1].detach()
        mean, mean_square = (sums[:-1] / count).chunk(2)
        variance = (mean_square - mean.square()).clamp(min=0)
        self._follow(mean.detach(), variance.detach() * count / (count - 1))

        scale = (variance + self.eps).rsqrt().to(wide)
        shift = (c - mean).to(wide) * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return deviation * scale.view(shape) + shift.view(shape)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        step = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        for running, current in ((self.running_mean, mean), (self.running_var, variance)):
            running += step * (current.to(running.dtype) - running)


class _SumOverProcesses(torch.autograd.Function):
    """Sum over the processes, each of which goes on with it: so its derivative is the sum over the processes again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _SumOverProcesses.apply(*gradients)


def synchronize(network: nn.Module) -> nn.Module:
    """Replace batch normalization in a network, in place, by layers with the very same parameters and buffers.

    Returns:
        The network, or what takes its place if it is such a layer itself.
    """
    if isinstance(network, _BatchNorm) and not isinstance(network, SyncBatchNorm):
        layer = SyncBatchNorm(
            network.num_features, network.eps, network.momentum, network.affine, network.track_running_stats, device="meta"
        )
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            setattr(layer, name, tensor)
        return layer.train(network.training)
    for name, child in network.named_children():
        setattr(network, name, synchronize(child))
    return network
