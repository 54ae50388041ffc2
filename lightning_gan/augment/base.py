"""The contract of augmentations of what D sees."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from lightning_gan.schedules import Schedule, at, extremes


class Augmentation(nn.Module):
    """A random change of each image by itself, differentiable twice, so that G and penalties look through it.

    What D sees of real and of generated images is augmented alike, and nothing else is: samples and scores never are. It draws
    by `lightning_gan.randomness`, so that neither a resumption nor the number of processes changes what becomes of an image.

    Args:
        probability: that an image is changed, in whatever way the class defines; a number or a schedule.

    Attributes:
        p: the present probability, a buffer without dimensions, like whatever else an augmentation keeps from step to step.
        adaptive: whether `update` takes a positive logit for "real", which the loss must then teach D to mean.
    """

    p: Tensor
    adaptive = False

    def __init__(self, probability: float | Schedule = 1.0) -> None:
        super().__init__()
        for p in extremes(probability):
            if not 0 <= p <= 1:
                raise ValueError(f"{type(self).__name__}'s probability must lie between 0 and 1, not at {p}")
        self.probability = probability
        self.register_buffer("p", torch.tensor(float(at(probability, 0))))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Change images: (N, C, H, W) -> (N, C, H, W), for any C."""

    def update(self, real_logits: Tensor, images_seen: int) -> None:
        """Set `p` after a step of D.

        Args:
            real_logits: what D said of this process' augmented real images, (N,).
            images_seen: real images that D has seen in all processes, these included.
        """
        self.p.fill_(at(self.probability, images_seen))
