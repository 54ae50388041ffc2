"""Small generators of every family, as if they had been trained, and their checkpoints."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_gan.networks import (
    DCGANGenerator,
    Generator,
    MLPGenerator,
    PixelShuffleGenerator,
    R3GANGenerator,
    ResNetGenerator,
    StyleGAN2Generator,
)

FAMILIES: dict[str, Callable[..., Generator]] = {
    "dcgan": partial(DCGANGenerator, width=4, latent_dim=6),
    "mlp": partial(MLPGenerator, hidden=[8, 6], latent_dim=5, output="sigmoid"),
    "pixel-shuffle": partial(PixelShuffleGenerator, coarse=8, fine=4, latent_dim=6),
    "resnet": partial(ResNetGenerator, width=4, latent_dim=6),
    "r3gan": partial(R3GANGenerator, width=16, group_width=4, latent_dim=6),
    "stylegan2": partial(StyleGAN2Generator, latent_dim=8, style_dim=8, mapping_layers=2, channel_base=256, max_channels=8),
}


def trained(family: str, num_classes: int = 0, shape: tuple[int, int, int] = (3, 16, 16), **arguments: Any) -> Generator:
    """Build a generator whose every tensor has random values, buffers too: many start at zero or one."""
    torch.manual_seed(0)
    generator = FAMILIES[family](shape, num_classes, **arguments)
    for tensor in generator.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor), alpha=0.05)
    return generator.eval().requires_grad_(False)


def save_checkpoint(path: Path, generator: Generator, **record: Any) -> Path:
    """Write what readers need of a training checkpoint."""
    state = {f"average.generator.{name}": tensor for name, tensor in generator.state_dict().items()}
    state |= {f"further_averages.500.generator.{name}": 2 * tensor for name, tensor in generator.state_dict().items()}
    facts = {"generator": generator.record, "discriminator": generator.record, "images_seen": 1000, "format": 1} | record
    lightning = {"optimizer_states": [{}, {}], "global_step": 0, "callbacks": {}, "loops": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"lightning_gan": facts, "state_dict": state} | lightning, path)
    return path
