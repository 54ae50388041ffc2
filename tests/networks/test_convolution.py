from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_gan.networks.convolution import Conv2d, conv2d, differentiable_twice, gradient_of_inputs
from lightning_gan.penalties import GradientPenalty, critique

SETTINGS = [(1, 1, 1, 3), (2, 1, 1, 4), (1, 1, 2, 3), (1, 0, 1, 1), (2, 0, 2, 3)]  # stride, padding, groups, kernel
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def ours(*arguments: Any) -> Tensor:
    with differentiable_twice():
        return conv2d(*arguments)


def tensors(groups: int, kernel: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 6, 6), (6, 4 // groups, kernel, kernel), (6,)]
    return [torch.randn(shape, dtype=torch.float64, generator=rng).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("stride", "padding", "groups", "kernel"), SETTINGS)
def test_a_penalty_on_the_gradient_has_the_gradients_it_has_by_torch(
    stride: int, padding: int, groups: int, kernel: int, layout: torch.memory_format
) -> None:
    x, weight, bias = tensors(groups, kernel)
    x = x.detach().to(memory_format=layout).requires_grad_()

    def derivatives(first: Tensor, quick: bool) -> tuple[Tensor, ...]:
        logits = first.pow(3).sum()
        if quick:
            with gradient_of_inputs():
                (gradient,) = torch.autograd.grad(logits, x, create_graph=True)
        else:
            (gradient,) = torch.autograd.grad(logits, x, create_graph=True)
        return first, gradient, *torch.autograd.grad(logits + gradient.square().sum(), (x, weight, bias))

    plain = derivatives(F.conv2d(x, weight, bias, stride, padding, 1, groups), quick=False)
    for quick in (False, True):
        assert_close(derivatives(ours(x, weight, bias, stride, padding, groups), quick), plain)


@pytest.mark.parametrize(("stride", "padding", "groups", "kernel"), SETTINGS)
def test_it_is_differentiated_as_often_as_one_likes(stride: int, padding: int, groups: int, kernel: int) -> None:
    inputs = tensors(groups, kernel)

    def penalty(output: Tensor) -> Tensor:
        """Of the gradients by all three."""
        gradients = torch.autograd.grad(output.pow(3).sum(), inputs, create_graph=True)
        return sum((gradient.square().sum() for gradient in gradients), torch.zeros(()))

    def derivatives(output: Tensor) -> tuple[Tensor, ...]:
        second = torch.autograd.grad(penalty(output), inputs, create_graph=True)
        loss = sum((gradient.square().sum() for gradient in second), torch.zeros(()))
        return *second, *torch.autograd.grad(loss, inputs)

    x, weight, bias = inputs
    plain = derivatives(F.conv2d(x, weight, bias, stride, padding, 1, groups))
    assert_close(derivatives(ours(x, weight, bias, stride, padding, groups)), plain)


def test_gradients_of_inputs_alone_leave_out_the_weights_and_only_there() -> None:
    x, weight, bias = tensors(1, 3)
    with gradient_of_inputs():
        ours(x, weight, bias).sum().backward()
    assert x.grad is not None
    assert weight.grad is bias.grad is None
    with pytest.raises(RuntimeError, match="stop"), gradient_of_inputs():
        raise RuntimeError("stop")
    ours(x, weight, bias).sum().backward()
    assert_close(bias.grad, torch.full_like(bias, 2 * 4 * 4))
    assert weight.grad is not None


def test_weights_that_need_no_gradient_get_none() -> None:
    x, weight, bias = (tensor.detach() for tensor in tensors(1, 3))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x, weight, bias).pow(3).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad is not None
    assert weight.grad is bias.grad is None


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_torchs(bias: bool) -> None:
    layer, theirs = (cls(4, 6, 3, stride=2, padding=1, groups=2, bias=bias) for cls in (Conv2d, nn.Conv2d))
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    assert torch.equal(layer(x), theirs(x))
    with differentiable_twice():
        assert torch.equal(layer(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), theirs(x))


def test_it_is_used_where_a_second_derivative_will_be_asked_for_and_nowhere_else() -> None:
    x, weight, bias = tensors(1, 3)
    with patch("lightning_gan.networks.convolution._Convolution") as convolution:
        conv2d(x, weight, bias)
        with differentiable_twice(), torch.autocast("cpu", torch.bfloat16):
            conv2d(x.float(), weight.float(), bias.float())
        convolution.apply.assert_not_called()
        ours(x, weight, bias)
        convolution.apply.assert_called_once()


def test_penalties_ask_for_it() -> None:
    critic = nn.Sequential(Conv2d(1, 2, 3), nn.Flatten(0))
    real, fake = torch.randn(2, 1, 1, 5, 5)
    with patch("lightning_gan.networks.convolution._Convolution") as convolution:
        convolution.apply.side_effect = lambda x, weight, bias, *_: F.conv2d(x, weight, bias)
        p = critique(critic, real.requires_grad_(), fake)
        convolution.apply.assert_called_once()
        GradientPenalty()(p._replace(real=real.detach()))
        assert convolution.apply.call_count == 2
