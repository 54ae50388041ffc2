import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan.networks.layers import (
    Blur,
    Dropout,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStddev,
    Upsample,
    activate,
    normalize,
    on_flat,
)


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_an_equalized_layer_starts_with_the_variance_of_he_and_steps_by_its_multiplier(multiplier: float) -> None:
    torch.manual_seed(0)
    layer = EqualizedLinear(300, 500, bias=2.0, multiplier=multiplier)
    zero, eye = torch.zeros(1, 300), torch.eye(300)
    assert_close(layer(zero), torch.full((1, 500), 2.0))
    effective = (layer(eye) - layer(zero)).detach()  # (300, 500)
    assert_close(effective.std(), torch.tensor(300**-0.5), rtol=0.01, atol=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    assert_close(layer(zero), torch.full((1, 500), 2.0 + multiplier))
    assert_close(layer(eye) - layer(zero) - effective, torch.full((300, 500), multiplier * 300**-0.5), rtol=1e-3, atol=1e-6)


def test_an_equalized_convolution_keeps_the_variance() -> None:
    torch.manual_seed(0)
    y = EqualizedConv2d(64, 256, 3)(torch.randn(4, 64, 16, 16))
    assert y.shape == (4, 256, 16, 16)
    assert_close(y[..., 1:-1, 1:-1].std(), torch.tensor(1.0), rtol=0.02, atol=0)


def test_the_rectifier_and_the_normalization_by_hand() -> None:
    assert_close(activate(torch.tensor([-5.0, 0.0, 1.0])), torch.tensor([-math.sqrt(2), 0.0, math.sqrt(2)]))
    assert_close(normalize(torch.tensor([[3.0, 4.0], [0.0, -2.0]])), torch.tensor([[0.6, 0.8], [0.0, -1.0]]) * math.sqrt(2))


def test_resampling_by_hand() -> None:
    impulse = torch.zeros(1, 2, 5, 5)
    impulse[0, 1, 2, 2] = 64.0
    # By the taps [1, 3, 3, 1] / 8, twice as strong, pixel 2 of a row reaches pixels 3 to 6 of the doubled row. It lies at its
    # pixels 4 and 5, so that the centre stays the centre.
    up = Upsample()(impulse)
    assert up.shape == (1, 2, 10, 10)
    assert_close(up[0, 1, 4], torch.tensor([0, 0, 0, 1.0, 3, 3, 1, 0, 0, 0]) * 12)
    assert_close(up[0, 1, :, 3], torch.tensor([0, 0, 0, 1.0, 3, 3, 1, 0, 0, 0]) * 4)
    assert up[0, 0].count_nonzero() == 0

    impulse = torch.zeros(1, 2, 6, 6)
    impulse[0, 1, 2, 2] = 64.0
    # The halved row's pixel 1 sees pixels 1, 2, 3, 4 by 1, 3, 3, 1, and pixel 0 sees -1, 0, 1, 2.
    down = Blur(padding=1, stride=2)(impulse)
    assert_close(down[0, 1], torch.outer(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 3.0, 0.0])))
    assert down[0, 0].count_nonzero() == 0


@pytest.mark.parametrize("layer", [Upsample(), Blur(padding=1, stride=2), Blur(padding=2)])
def test_resampling_keeps_a_constant_away_from_the_border(layer: nn.Module) -> None:
    y = layer(torch.full((1, 3, 8, 8), 7.0))
    assert_close(y[..., 2:-2, 2:-2], torch.full_like(y[..., 2:-2, 2:-2], 7.0), rtol=0, atol=0)
    assert (y[..., 0] < 7).all()


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("layer", [Upsample(), Blur(padding=1, stride=2), Blur(padding=2, gain=4), Blur(padding=1)])
def test_resampling_is_differentiated_twice(layer: nn.Module, size: int) -> None:
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    x = torch.randn(1, 2, size, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).pow(3), x)


def test_resampling_under_autocast() -> None:
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    layers = nn.Sequential(Upsample(), Blur(padding=1, stride=2))
    layers(x).square().sum().backward()
    exact, x.grad = x.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        y = layers(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert_close(x.grad, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("layer", [Upsample(), Blur(padding=1, stride=2), Blur(padding=2)])
def test_resampling_in_bfloat16_rounds_and_no_more(layer: nn.Module) -> None:
    """A part of it is computed in float32, in whatever direction."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    wide = x.detach().float().requires_grad_()
    y, exact = layer(x), layer(wide)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), exact, rtol=2**-8, atol=1e-6)
    g = torch.randn(y.shape, dtype=torch.bfloat16)
    y.backward(g), exact.backward(g.float())
    assert_close(x.grad, wide.grad.to(torch.bfloat16), rtol=2**-8, atol=1e-6)  # type: ignore[union-attr]  # it has one


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("p", [0.3, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.full((25, 7, 41, 39), 2.0).to(memory_format=layout).requires_grad_()  # a number that 4 does not divide
    y = Dropout(p)(x)
    assert y.is_contiguous(memory_format=layout)
    kept = y != 0
    n = x.numel()
    for axis in range(4):  # no row of any direction has less or more than its share
        others = [i for i in range(4) if i != axis]
        deviations = (kept.double().mean(others) - (1 - p)) * math.sqrt(n / x.shape[axis] / (p * (1 - p)))
        assert deviations.abs().max() < 4.5
        neighbours = kept.roll(1, axis)[kept].double().mean().item()
        assert abs(neighbours - (1 - p)) < 4.5 * math.sqrt(p / n)
    assert_close(y[kept], torch.full_like(y[kept], 2 / (1 - p)), rtol=1e-4, atol=0)
    y.sum().backward()
    assert_close(x.grad, y.detach() / 2)
    torch.manual_seed(0)
    assert torch.equal(Dropout(p)(x), y)
    assert not torch.equal(Dropout(p)(x), y)


def test_dropout_of_all_or_nothing_and_in_evaluation() -> None:
    x = torch.randn(3, 5)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert Dropout(0.5)(x.bfloat16()).dtype == torch.bfloat16


def test_a_dense_layer_on_maps_does_not_depend_on_their_layout() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(3 * 4 * 5, 2)
    nn.utils.parametrizations.spectral_norm(dense).double().eval()
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64, requires_grad=True)

    def derivatives(output: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = torch.autograd.grad(output.pow(3).sum(), x, create_graph=True)
        return output, gradient, *torch.autograd.grad(gradient.square().sum(), [x, *dense.parameters()], allow_unused=True)

    plain = derivatives(dense(x.flatten(1)))
    assert_close(derivatives(on_flat(dense, x)), plain)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_close(derivatives(on_flat(dense, last)), plain)
    (gradient,) = torch.autograd.grad(on_flat(dense, last).sum(), last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)  # which is what it is for


def test_minibatch_stddev_by_hand() -> None:
    # Two pixels of one channel. Group 1: standard deviations 1 and 3; group 2: 0 and 2.
    x = torch.tensor([[1.0, 6.0], [3.0, 0.0], [5.0, 1.0], [5.0, 5.0]]).view(4, 1, 1, 2)
    y = MinibatchStddev(2)(x)
    assert_close(y[:, :1], x)
    assert_close(y[:, 1, 0], torch.tensor([[2.0, 2.0], [2.0, 2.0], [1.0, 1.0], [1.0, 1.0]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("n", "used"), [(8, 4), (4, 4), (6, 3), (9, 3), (10, 2), (3, 3), (7, 1), (1, 1)])
def test_minibatch_stddev_takes_the_largest_group_that_fits_and_sees_no_other(n: int, used: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(n, 2, 3, 3)
    first = MinibatchStddev(4)(x)[:, 2, 0, 0]
    x[n - 1] += torch.randn(2, 3, 3)
    changed = MinibatchStddev(4)(x)[:, 2, 0, 0] != first
    assert changed.tolist() == [False] * (n - used) + [used > 1] * used
