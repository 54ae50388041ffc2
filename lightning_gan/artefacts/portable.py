"""A trained generator as a plain torch module."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lightning_gan.artefacts.trained import Trained
from lightning_gan.randomness import numbered_latents
from lightning_gan.sampling import check_truncation, cycle_labels, generate


class PortableGenerator(nn.Module):
    """A trained generator by itself, in evaluation mode and without gradients.

    Attributes:
        image_shape: (C, H, W).
        num_classes: 0 = unconditional.
        class_names: as many.
        latent_dim: length of z.
        images_seen: in training.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.generator = trained.generator
        self.image_shape = trained.generator.image_shape
        self.num_classes = trained.generator.num_classes
        self.class_names = trained.class_names
        self.latent_dim = trained.generator.latent_dim
        self.images_seen = trained.images_seen
        self.eval()

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images in about [-1, 1]: (N, latent_dim), int64 (N,) or None -> (N, C, H, W)."""
        return self.generator(z, y)  # type: ignore[no-any-return]  # torch types every module's output as Any

    def sample(
        self,
        n: int,
        seed: int = 0,
        labels: Tensor | Sequence[int] | int | None = None,
        truncation: float | None = None,
        batch_size: int = 256,
    ) -> Tensor:
        """Generate the images that `python -m lightning_gan sample` would with the same options.

        Args:
            n: how many.
            seed: image i depends on (seed, i) and its label alone.
            labels: class of all, or classes to go through in turn; all classes by default.
            truncation: trade variety for quality; None = off.
            batch_size: images generated at a time.

        Returns:
            uint8 (n, C, H, W), on the CPU.

        Raises:
            UserError: the generator has no such class, cannot be truncated so, or gives values that are not finite.
        """
        y = cycle_labels(None if labels is None else torch.as_tensor(labels).tolist(), n, self.num_classes)
        check_truncation(self.generator, truncation)
        latents = partial(numbered_latents, self.generator.latents, seed)
        none = torch.empty(0, *self.image_shape, dtype=torch.uint8)
        return torch.cat([none, *generate(self.generator, latents, y, n, batch_size, truncation)])
