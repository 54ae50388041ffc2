from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_gan.optimizers import OptimizerCallable, fused


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.Adam, betas=(0.5, 0.999)),
        partial(torch.optim.AdamW, lr=1e-3),
        partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
        partial(torch.optim.RMSprop, lr=1e-3),
    ],
    ids=lambda make: make.func.__name__,
)
def test_the_fused_kernel_takes_the_same_steps(make: OptimizerCallable) -> None:
    weights = []
    for quicken in (lambda optimizer: optimizer, fused):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = quicken(make(network.parameters()))
        for _ in range(20):
            optimizer.zero_grad()
            network(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()
        weights.append(list(network.parameters()))
    assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_it_is_taken_where_there_is_one_and_nobody_chose_otherwise() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    chosen = {
        "left open": torch.optim.Adam(parameters),
        "refused": torch.optim.Adam(parameters, fused=False),
        "another": torch.optim.Adam(parameters, foreach=True),
        "not another": torch.optim.Adam(parameters, foreach=False),
        "without one": torch.optim.RMSprop(parameters),
        "set up when it is made": torch.optim.Adagrad(parameters),
    }
    assert {name: fused(optimizer).param_groups[0].get("fused") for name, optimizer in chosen.items()} == {
        "left open": True,
        "refused": False,
        "another": None,
        "not another": None,
        "without one": None,
        "set up when it is made": None,
    }
