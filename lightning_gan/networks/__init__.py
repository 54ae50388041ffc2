"""Generators and discriminators."""

from lightning_gan.networks.base import Discriminator, Generator
from lightning_gan.networks.dcgan import DCGANDiscriminator, DCGANGenerator

__all__ = ["DCGANDiscriminator", "DCGANGenerator", "Discriminator", "Generator"]
