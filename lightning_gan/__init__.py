"""Train GANs, and believe the numbers."""

__version__ = "0.1.0"
