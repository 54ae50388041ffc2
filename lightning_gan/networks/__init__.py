"""Generators and discriminators."""

from lightning_gan.networks.base import Discriminator, Generator, StyleGenerator
from lightning_gan.networks.convnet import PoolingDiscriminator
from lightning_gan.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_gan.networks.mlp import MLPDiscriminator, MLPGenerator
from lightning_gan.networks.pixel_shuffle import PixelShuffleDiscriminator, PixelShuffleGenerator
from lightning_gan.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from lightning_gan.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_gan.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "Generator",
    "MLPDiscriminator",
    "MLPGenerator",
    "PixelShuffleDiscriminator",
    "PixelShuffleGenerator",
    "PoolingDiscriminator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "StyleGenerator",
]
