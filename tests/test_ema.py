import copy

import torch
from torch.testing import assert_close

from lightning_gan.ema import AveragedGenerator
from lightning_gan.networks import DCGANGenerator


def filled(generator: DCGANGenerator, value: float) -> DCGANGenerator:
    generator = copy.deepcopy(generator)
    with torch.no_grad():
        for tensor in [*generator.parameters(), *generator.buffers()]:
            tensor.fill_(value)
    return generator


GENERATOR = DCGANGenerator((1, 8, 8), width=2, latent_dim=3)


def test_after_one_half_life_the_past_counts_half() -> None:
    average = AveragedGenerator(filled(GENERATOR, 0.0), half_life=100, ramp=1.0)
    average.update(filled(GENERATOR, 8.0), images=100, images_seen=1000)
    for tensor in [*average.generator.parameters(), average.generator.get_buffer("layers.0.running_mean")]:
        assert_close(tensor, torch.full_like(tensor, 4.0))


def test_two_small_updates_are_one_large_one() -> None:
    one, two = (AveragedGenerator(filled(GENERATOR, 0.0), half_life=100, ramp=1.0) for _ in range(2))
    now = filled(GENERATOR, 1.0)
    one.update(now, images=50, images_seen=500)
    two.update(now, images=25, images_seen=475)
    two.update(now, images=25, images_seen=500)
    assert_close(one.state_dict(), two.state_dict())


def test_the_half_life_is_at_most_its_share_of_the_images_seen() -> None:
    average = AveragedGenerator(filled(GENERATOR, 0.0), half_life=1e9, ramp=0.05)
    average.update(filled(GENERATOR, 8.0), images=50, images_seen=1000)
    bias = average.generator.get_parameter("dense.bias")
    assert_close(bias, torch.full_like(bias, 4.0))


def test_a_half_life_of_zero_is_no_average() -> None:
    average = AveragedGenerator(GENERATOR, half_life=0)
    average.update(filled(GENERATOR, 8.0), images=1, images_seen=1)
    assert_close(average.generator.state_dict(), filled(GENERATOR, 8.0).state_dict())


def test_counters_are_copied() -> None:
    average = AveragedGenerator(filled(GENERATOR, 0.0), half_life=100, ramp=1.0)
    average.update(filled(GENERATOR, 8.0), images=100, images_seen=1000)
    assert average.generator.get_buffer("layers.0.num_batches_tracked").item() == 8


def test_the_average_stays_in_evaluation_mode_and_is_not_trained() -> None:
    average = AveragedGenerator(GENERATOR).train()
    assert not any(module.training for module in average.modules())
    assert not any(parameter.requires_grad for parameter in average.parameters())
