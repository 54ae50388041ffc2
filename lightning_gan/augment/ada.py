"""ADA, Karras et al. 2020 "Training Generative Adversarial Networks with Limited Data"."""

import math
from functools import reduce

import torch
from torch import Tensor

from lightning_gan.augment.base import Augmentation
from lightning_gan.augment.pixels import bilinear, cutout_mask
from lightning_gan.processes import mean_over_processes
from lightning_gan.randomness import rand, randint, randn
from lightning_gan.schedules import Schedule


class ADA(Augmentation):
    """Many transformations, each of which happens to each image with probability p, Karras et al. 2020, Appendix B.

    While D overfits, the signs of its logits on real images tend to 1; p moves so that their mean stays at `target` (Section
    3). A fixed p should stay below 0.8: from there on G takes the transformations for a part of the images (Section 2.2).

    The paper samples images at twice their resolution, through a wavelet filter, to place pixels between pixels. Here they are
    sampled bilinearly, once, by all geometric transformations together: quicker, and a little more blurred. What moves in at a
    border is the mirrored image. The paper's filters in frequency bands and its noise, which help little there, are left out.

    The arguments named after transformations are factors of p for these; 0 leaves them out. Digits and text, which mean
    something else when mirrored or turned, want `flip` and `rotate90` at 0, and `geometric`, which turns all around, low or 0.

    Args:
        flip: mirror left and right, in half of the images it happens to.
        rotate90: turn by 0, 90, 180 or 270 degrees, each alike likely.
        translate: move by whole pixels, at most an eighth of the size.
        geometric: scale, rotate, stretch, and move by any part of a pixel.
        color: brightness and contrast. With one or three channels also the negative of lightness, in half of the images it
            happens to; with three also hue and saturation.
        cutout: set a rectangle of half the height and width to zero.
        probability: p, or None to adapt it.
        target: mean sign of D's logits on real images.
        speed: images in which p would go from 0 to 1.
        every: steps of D from one move of p to the next.
    """

    signs: Tensor
    steps: Tensor
    moved_at: Tensor

    def __init__(
        self,
        flip: float = 1.0,
        rotate90: float = 1.0,
        translate: float = 1.0,
        geometric: float = 1.0,
        color: float = 1.0,
        cutout: float = 0.0,
        probability: float | Schedule | None = None,
        target: float = 0.6,
        speed: int = 500_000,
        every: int = 4,
    ) -> None:
        super().__init__(0.0 if probability is None else probability)
        factors = {"flip": flip, "rotate90": rotate90, "translate": translate, "geometric": geometric, "color": color}
        for name, factor in (factors | {"cutout": cutout}).items():
            if factor < 0:
                raise ValueError(f"ADA's {name} must not be negative, and is {factor}")
        if not -1 < target < 1:
            raise ValueError(f"ADA's target must lie between -1 and 1, as mean signs do, not at {target}")
        if speed < 1 or every < 1:
            raise ValueError(f"ADA's speed and every must be at least 1, and are {speed} and {every}")
        self.flip = flip
        self.rotate90 = rotate90
        self.translate = translate
        self.geometric = geometric
        self.color = color
        self.cutout = cutout
        self.adaptive = probability is None
        self.target = target
        self.speed = speed
        self.every = every
        self.register_buffer("signs", torch.tensor(0.0))  # sum, over the steps since p moved, of mean signs
        self.register_buffer("steps", torch.tensor(0))  # since p moved
        self.register_buffer("moved_at", torch.tensor(0))  # images seen then

    def forward(self, x: Tensor) -> Tensor:
        augmented = _warp(x, self._draw_geometry(x))
        augmented = self._recolor(augmented)
        cut = _happens(self.p * self.cutout, augmented).view(-1, 1, 1, 1) & cutout_mask(x, 0.5)
        return augmented.masked_fill(cut, 0).to(x.dtype)  # (N, C, H, W)

    @torch.no_grad()
    def update(self, real_logits: Tensor, images_seen: int) -> None:
        if not self.adaptive:
            super().update(real_logits, images_seen)
            return
        # All on the device, whether p moves or not: asking for a value would make the CPU wait for the GPU.
        self.signs += mean_over_processes(real_logits.sign().float().mean())
        self.steps += 1
        due = self.steps >= self.every
        move = (self.signs / self.steps - self.target).sign() * (images_seen - self.moved_at) / self.speed
        self.p.copy_(torch.where(due, self.p + move, self.p).clamp(0, 1))
        self.moved_at.copy_(torch.where(due, images_seen, self.moved_at))
        self.signs *= ~due
        self.steps *= ~due

    def _draw_geometry(self, x: Tensor) -> Tensor:
        """Draw the maps that lead from a place in a transformed image to where it comes from: (N, 3, 3).

        Places are (x, y, 1), in pixels to the right of the centre and below it. The paper multiplies the matrices of its
        transformations; this is the inverse of that product, and so the product of their inverses from first to last.
        """
        n, (height, width) = len(x), x.shape[2:]
        p = (self.p * self.geometric).clamp(max=1)
        p_rotate = 1 - (1 - p).sqrt()  # before stretching and after it: with p at least one of the two happens
        flip = _sometimes(self.p * self.flip, 1.0 - 2 * randint(0, 2, n, device=x.device), 1)
        quarters = _sometimes(self.p * self.rotate90, randint(0, 4, n, device=x.device), 0)
        whole = _sometimes(self.p * self.translate, rand(n, 2, device=x.device).T / 4 - 0.125, 0)  # (2, N)
        scale = _sometimes(p, 2 ** (0.2 * randn(n, device=x.device)), 1)
        before = _sometimes(p_rotate, _angles(x), 0)
        stretch = _sometimes(p, 2 ** (0.2 * randn(n, device=x.device)), 1)
        after = _sometimes(p_rotate, _angles(x), 0)
        part = _sometimes(p, 0.125 * randn(n, 2, device=x.device).T, 0)  # (2, N)
        return _product(
            _scaling(flip, torch.ones_like(flip)),
            _rotation(-math.pi / 2 * quarters),
            _translation(-(whole[0] * width).round(), -(whole[1] * height).round()),
            _scaling(1 / scale, 1 / scale),
            _rotation(-before),
            _scaling(1 / stretch, stretch),
            _rotation(-after),
            _translation(-part[0] * width, -part[1] * height),
        )

    def _recolor(self, x: Tensor) -> Tensor:
        """Transform colors: the paper's product of 4x4 matrices, written out.

        Negating lightness acts along the axis of greys, (1, 1, 1); turning hue and scaling saturation act across it.
        """
        n, p = len(x), self.p * self.color
        brightness = _sometimes(p, 0.2 * randn(n, device=x.device), 0).view(-1, 1, 1, 1)
        contrast = _sometimes(p, 2 ** (0.5 * randn(n, device=x.device)), 1).view(-1, 1, 1, 1)
        flip = _sometimes(p, 1.0 - 2 * randint(0, 2, n, device=x.device), 1).view(-1, 1, 1, 1)
        hue = _sometimes(p, _angles(x), 0).view(-1, 1, 1, 1)
        saturation = _sometimes(p, 2 ** randn(n, device=x.device), 1).view(-1, 1, 1, 1)
        x = contrast * (x + brightness)
        if x.shape[1] not in (1, 3):
            return x
        grey = x.mean(1, keepdim=True)  # (N, 1, H, W)
        chroma = x - grey
        turned = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / math.sqrt(3)  # by 90 degrees about the axis, its cross product
        return flip * grey + saturation * (hue.cos() * chroma + hue.sin() * turned)


def _happens(p: Tensor, x: Tensor) -> Tensor:
    return rand(len(x), device=x.device) < p  # (N,)


def _sometimes(p: Tensor, drawn: Tensor, otherwise: float) -> Tensor:
    """Keep what was drawn, (..., N), for each image with probability p. How many numbers are drawn does not depend on p."""
    return torch.where(rand(drawn.shape[-1], device=drawn.device) < p, drawn, otherwise)


def _angles(x: Tensor) -> Tensor:
    return (2 * rand(len(x), device=x.device) - 1) * math.pi


def _warp(x: Tensor, origin: Tensor) -> Tensor:
    """Draw images anew, each pixel from where its matrix says that it comes from."""
    height, width = x.shape[2:]
    down = torch.arange(height, device=x.device).view(-1, 1) - (height - 1) / 2  # (H, 1)
    right = torch.arange(width, device=x.device) - (width - 1) / 2  # (W,)
    a = origin.view(-1, 9, 1, 1)
    columns = a[:, 0] * right + a[:, 1] * down + a[:, 2] + (width - 1) / 2  # (N, H, W)
    rows = a[:, 3] * right + a[:, 4] * down + a[:, 5] + (height - 1) / 2
    return bilinear(x, rows, columns)


def _product(*matrices: Tensor) -> Tensor:
    # Not by @, which rounds to a few bits under autocast and where TF32 is on.
    return reduce(lambda a, b: (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2), matrices)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _affine(x, zero, zero, zero, y, zero)


def _rotation(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return _affine(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _affine(one, zero, x, zero, one, y)


def _affine(*upper: Tensor) -> Tensor:
    """Make (N, 3, 3) of its first six entries, each (N,)."""
    zero, one = torch.zeros_like(upper[0]), torch.ones_like(upper[0])
    return torch.stack([*upper, zero, zero, one], -1).view(-1, 3, 3)
