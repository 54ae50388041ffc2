"""Convolution that is quickly differentiated twice, as penalties on D's gradient need.

torch computes the second derivative by the weights as a convolution with kernels as large as the images, one for each group,
which takes about twice as long as the derivative by the weights that it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_twice = False
_of_inputs_alone = False


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Announce that second derivatives will be asked for of what is computed inside."""
    global _twice
    before, _twice = _twice, True
    try:
        yield
    finally:
        _twice = before


@contextmanager
def gradient_of_inputs() -> Iterator[None]:
    """Promise that inside nobody asks for a gradient by weights, which is then not computed."""
    global _of_inputs_alone
    before, _of_inputs_alone = _of_inputs_alone, True
    try:
        yield
    finally:
        _of_inputs_alone = before


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """Equal `F.conv2d`, and do better where it is to be `differentiable_twice`.

    What `gradient_of_inputs` is used to differentiate by must not enter `weight` or `bias`.
    """
    if not _twice or x.is_meta or torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)
    return _Convolution.apply(x, weight, bias, stride, padding, groups)  # type: ignore[no-any-return]  # typed as Any


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` by `conv2d`, with what that can do."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], int(self.padding[0]), self.groups)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *config: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.config = config
        stride, padding, groups = config
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        of_x, *of_others = ctx.needs_input_grad[:3]
        mask = (of_x, *(needed and not _of_inputs_alone for needed in of_others))
        return *_Gradients.apply(*gradients, *ctx.saved_tensors, mask, *ctx.config), None, None, None


class _Gradients(torch.autograd.Function):
    """Gradients of a convolution by its input, its weight and its bias, as far as `mask` asks for them.

    With g that of its output, the first is bilinear in g and the weight, the second in g and the input, and the third linear
    in g: so their own gradients are convolutions and gradients of convolutions again.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool], *config: int) -> Any:
        ctx.save_for_backward(g, x, weight)
        ctx.set_materialize_grads(False)
        ctx.config = config
        stride, padding, groups = ([config[0]] * 2, [config[1]] * 2, config[2])
        return torch.ops.aten.convolution_backward(
            g, x, weight, [len(weight)], stride, padding, [1, 1], False, [0, 0], groups, mask
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        (u, v, b), (g, x, weight) = gradients, ctx.saved_tensors  # u, v and b are of the shapes of input, weight and bias
        by_g, by_x, by_weight, *_ = ctx.needs_input_grad
        terms = []
        if by_g and u is not None:
            terms.append(_Convolution.apply(u, weight, None, *ctx.config))
        if by_g and v is not None:
            terms.append(_Convolution.apply(x, v, None, *ctx.config))
        if by_g and b is not None:
            terms.append(b.view(-1, 1, 1).expand_as(g))
        of_x = of_weight = None
        if by_x and v is not None:
            of_x = _Gradients.apply(g, x, v, (True, False, False), *ctx.config)[0]
        if by_weight and u is not None:
            of_weight = _Gradients.apply(g, u, weight, (False, True, False), *ctx.config)[1]
        return sum(terms[1:], terms[0]) if terms else None, of_x, of_weight, None, None, None, None
