"""The contract of augmentations of what D sees."""

from abc import abstractmethod

from torch import Tensor, nn


class Augmentation(nn.Module):
    """A random change of each image by itself, differentiable twice, so that G and penalties look through it.

    What D sees of real and of generated images is augmented alike, and nothing else is: samples and scores never are. It draws
    from torch's global generators, which are seeded anew for each training step. Its state, if any, lies in buffers.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Change images: (N, C, H, W) -> (N, C, H, W), for any C."""

    def update(self, real_logits: Tensor, images_seen: int) -> None:
        """Adapt after a step of D.

        Args:
            real_logits: what D said of this process' augmented real images, (N,).
            images_seen: real images that D has seen in all processes, these included.
        """
