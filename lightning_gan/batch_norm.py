"""Batch normalization, Ioffe and Szegedy 2015, over the images of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gan.networks.layers import full_precision
from lightning_gan.processes import several


class SyncBatchNorm(_BatchNorm):
    """Batch normalization with the mean and variance of all processes' images together, on any device.

    It can be differentiated twice, as penalties need, and sends one message of about 2C numbers in each direction. In
    evaluation mode and in a single process it is the layer that it was made from.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions, be it that of images or of features."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not several():
            return super().forward(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = x.new_ones(x.shape[1], dtype=wide) if self.weight is None else self.weight
        bias = x.new_zeros(x.shape[1], dtype=wide) if self.bias is None else self.bias
        y, mean, variance, count = _Normalize.apply(x, weight, bias, self.eps)
        self._follow(mean, variance * count / (count - 1))
        return y  # type: ignore[no-any-return]  # torch types what a function of autograd returns as Any

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        step = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        for running, current in ((self.running_mean, mean), (self.running_var, variance)):
            running += step * (current.to(running.dtype) - running)


class _Normalize(torch.autograd.Function):
    """`_normalized`, in a fraction of its time, by torch's own kernels where it is not differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        _, centre, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)  # this process' statistics
        c, variance, n = centre.double(), inverse.double().pow(-2) - eps, x.numel() // x.shape[1]
        mean, variance, count = _over_processes(n * c, n * (variance + c.square()), n)
        moments = mean.to(weight.dtype), variance.to(weight.dtype)
        ctx.save_for_backward(x, weight, bias, *moments, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, *moments, weight, bias, training=False, eps=eps), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        x, weight, bias, mean, variance, count = ctx.saved_tensors
        if torch.is_grad_enabled():
            needed = [tensor for tensor in (x, weight, bias) if tensor.requires_grad]
            y = _normalized(x, weight, bias, ctx.eps)
            found = iter(torch.autograd.grad(y, needed, gradient, create_graph=True))
            return *(next(found) if tensor.requires_grad else None for tensor in (x, weight, bias)), None
        fixed = mean, variance, None, None, False, ctx.eps, (True, True, True)
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(gradient, x, weight, *fixed)
        # The moments are functions of all images: what comes of that is once more a normalized batch.
        slope, offset = _SumOverProcesses.apply(torch.stack([of_weight, of_bias]).double()) / count
        scale = weight * (variance + ctx.eps).rsqrt()
        slope, offset = (scale * slope).to(weight.dtype), (scale * offset).to(weight.dtype)
        of_moments = F.batch_norm(x, mean, variance, slope, offset, training=False, eps=ctx.eps)
        return of_x - of_moments, of_weight, of_bias, None


def _normalized(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize by operations that can be differentiated any number of times."""
    axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    with full_precision(x):
        # Squares are summed about this process' mean, as large ones would lose the digits that the variance is made of, and are
        # moved to the mean of all in float64.
        centre = x.detach().to(weight.dtype).mean(axes)  # (C,)
        deviation = x - centre.view(shape)  # (N, C, ...)
        n, c = x.numel() // x.shape[1], centre.double()
        total, squares = deviation.sum(axes).double(), deviation.square().sum(axes).double()
        mean, variance, _ = _over_processes(total + n * c, squares + 2 * c * total + n * c.square(), n)
        scale = (variance + eps).rsqrt().to(weight.dtype) * weight
        shift = (c - mean).to(weight.dtype) * scale + bias
        return (deviation * scale.view(shape) + shift.view(shape)).to(x.dtype)


def _over_processes(total: Tensor, squares: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """From a process' sums over its `n` values, (C,) in float64, to mean and variance, (C,), and number of all processes'."""
    sums: Tensor = _SumOverProcesses.apply(torch.cat([total, squares, total.new_full((1,), n)]))  # (2C + 1,)
    count = sums[-1].detach()
    mean, mean_square = (sums[:-1] / count).chunk(2)
    return mean, (mean_square - mean.square()).clamp(min=0), count


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
