from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lightning_gan import randomness
from lightning_gan.randomness import batch_order, generator, numbered_latents


def test_derived_seeds_differ_between_keys_and_not_between_processes() -> None:
    # The second number was computed by another process: `hash` would have changed it.
    assert randomness.derive(0, "latents", 1) != randomness.derive(0, "latents", 2)
    assert randomness.derive(0, "order", 0) == 2094333682667709378


def test_a_generator_ignores_the_global_state() -> None:
    torch.manual_seed(1)
    first = torch.rand(3, generator=generator(0, "test"))
    torch.manual_seed(2)
    assert torch.equal(first, torch.rand(3, generator=generator(0, "test")))


def test_reseed_makes_global_draws_a_function_of_the_key() -> None:
    randomness.reseed(0, "step", 5, rank=0)
    first = torch.rand(3)
    randomness.reseed(0, "step", 5, rank=1)
    assert not torch.equal(first, torch.rand(3))
    randomness.reseed(0, "step", 5, rank=0)
    assert torch.equal(first, torch.rand(3))


def test_every_epoch_shows_every_image_once_in_its_own_order() -> None:
    size, batch_size = 10, 4
    line = torch.cat([batch_order(0, step, batch_size, size) for step in range(10)])
    epochs = line.split(size)
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in epochs)
    assert all(not torch.equal(a, b) for a, b in pairwise(epochs))


def test_a_set_smaller_than_the_batch_fills_it() -> None:
    order = batch_order(0, 3, 8, 3)
    assert len(order) == 8
    assert set(order.tolist()) == {0, 1, 2}


def test_batch_order_depends_on_the_seed() -> None:
    assert not torch.equal(batch_order(0, 0, 100, 1000), batch_order(1, 0, 100, 1000))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 300), (255, 257), (256, 512), (700, 1000)])
def test_a_numbered_latent_is_the_same_whatever_is_drawn_with_it(start: int, stop: int) -> None:
    def draw(n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, 3, generator=rng)

    every = numbered_latents(draw, 0, 0, 1000)
    assert every.shape == (1000, 3)
    assert len(every.unique(dim=0)) == 1000
    assert torch.equal(numbered_latents(draw, 0, start, stop), every[start:stop])
