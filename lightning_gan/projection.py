"""The latent of a given image, by optimisation: how near a generator comes to an image that need not be its own.

The distance is the mean squared error of the pixels, so that a generator alone is enough. The extractors of the scores are made
from data, or need weights that are elsewhere, and their features, averages over an image, say little of what is where in it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gan import images, randomness
from lightning_gan.networks.base import Generator, StyleGenerator
from lightning_gan.sampling import cycle_labels, finite_uint8, generate

NUM_RANDOM = 1000
"""Random images that each image is compared with: searches start at the nearest, and have to get nearer to mean something."""

NUM_STYLES = 10_000
"""Random styles whose mean and spread say where styles lie, as in the paper."""

LEARNING_RATE = 0.2
"""Adam's, in units of the latents' spread."""

BETAS = 0.9, 0.9
"""Adam's. The usual memory of a thousand steps is longer than a search: it cost 0.5 dB on MNIST."""


@dataclass(frozen=True)
class Projection:
    """What was found for an image.

    Attributes:
        latent: z, (latent_dim,), or of a style generator the style of all its layers, (style_dim,); on the CPU.
        label: the class that goes with it; None = the generator is unconditional.
        image: uint8 (C, H, W), what the generator makes of it.
        psnr: its distance from the given image, in dB: the higher, the nearer.
        nearest: uint8 (C, H, W), the nearest of the random images.
        nearest_psnr: its distance.
    """

    latent: Tensor
    label: int | None
    image: Tensor
    psnr: float
    nearest: Tensor
    nearest_psnr: float


def project(
    generator: Generator,
    targets: Tensor,
    label: int | None = None,
    steps: int = 300,
    starts: int = 4,
    seed: int = 0,
    batch_size: int = 64,
) -> Iterator[Projection]:
    """Look for the latents of images, one image after the other.

    An image is looked for in each class, from several starts side by side, and the nearest that is found counts. That is a
    function of the image and of the arguments: on a CPU bit for bit, whatever images are given beside it. The batch size
    changes roundings, which may grow on the way.

    Args:
        generator: in evaluation mode, its parameters without gradients.
        targets: uint8 (N, C, H, W), on the CPU.
        label: class of a conditional generator; None = each is tried.
        steps: of the optimizer.
        starts: for each class.
        seed: of the random images, which are the first of `sample`.
        batch_size: images generated at a time.

    Raises:
        UserError: the generator has no such class, or gives values that are not finite.
    """
    num = max(NUM_RANDOM, starts * (generator.num_classes if label is None else 1))
    y = cycle_labels(label, num, generator.num_classes)
    z = randomness.numbered_latents(generator.latents, seed, 0, num)  # (num, latent_dim)
    errors = _errors(generate(generator, lambda start, stop: z[start:stop], y, num, batch_size), targets)  # (N, num)
    space = _space(generator, z, y, seed, batch_size)
    group = torch.zeros(num, dtype=torch.int64) if y is None else y
    for target, error in zip(targets, errors, strict=True):
        order = error.argsort(stable=True)
        rows = torch.cat([order[group[order] == c][:starts] for c in group.unique()])  # `starts` of each class, nearest first
        labels = None if y is None else y[rows]
        loss, latents = _search(space, space.starts(z[rows], labels, starts), labels, target, steps, seed, batch_size)
        best, nearest = int(loss.argmin()), int(order[0])
        image = reconstruct(generator, latents[best, None], None if labels is None else labels[best, None])[0]
        random = _sampled(generator, z[nearest, None], None if y is None else y[nearest, None])[0]
        yield Projection(
            latent=latents[best],
            label=None if labels is None else int(labels[best]),
            image=image,
            psnr=psnr(image, target),
            nearest=random,
            nearest_psnr=psnr(random, target),
        )


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 images of one shape, in dB; infinite if they are the same."""
    error = float((a.double() - b.double()).square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def _errors(batches: Iterable[Tensor], targets: Tensor) -> Tensor:
    """Compare images with each of the targets, a batch at a time: mean squared errors, (targets, images)."""
    columns = []
    for batch in batches:
        x = batch.float()
        columns.append(torch.stack([(x - target.float()).square().mean((1, 2, 3)) for target in targets]))
    return torch.cat(columns, 1)


class _Space(ABC):
    """Where latents are looked for.

    Attributes:
        scale: spread of a coordinate of random latents.
        noise: standard deviation of what is added to each coordinate while the search is young.
    """

    scale: float
    noise: float = 0.0

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def starts(self, z: Tensor, y: Tensor | None, starts: int) -> Tensor:
        """Choose where to start, from the nearest random latents, `starts` of each class: (N, latent_dim) -> (N, D)."""
        return z

    def slope(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Take from a gradient, (N, D), what descent along `confine` has no use for."""
        return gradient

    @abstractmethod
    def confine(self, points: Tensor) -> None:
        """Bring points, (N, D), back to where latents may lie, in place."""


class _Normal(_Space):
    """z, as long as random ones are.

    A normal latent of many dimensions lies near a sphere, and a generator has seen nothing else: within it and outside it,
    images can be had that it would never make. Creswell and Bharath 2018 add the prior's log-likelihood to the loss, with a
    weight to be chosen; Bojanowski et al. 2018 put what has left the unit ball back on its surface. Here the length stays
    between those of the shortest and the longest of the random latents, which leaves nothing to be chosen.

    Zhu et al. 2016 start at what a network predicts that is trained beside the generator. Here is no such network: the nearest
    random latents take its place.
    """

    def __init__(self, generator: Generator, z: Tensor) -> None:
        super().__init__(generator)
        self.scale = 1.0
        lengths = torch.linalg.vector_norm(z, dim=1)
        self.shortest, self.longest = float(lengths.min()), float(lengths.max())

    def slope(self, points: Tensor, gradient: Tensor) -> Tensor:
        """Leave out what would only lengthen the longest or shorten the shortest.

        It would be undone, but not before Adam had scaled it coordinate by coordinate and so turned the rest.
        """
        length = torch.linalg.vector_norm(points, dim=1, keepdim=True)
        radial = (gradient * points).sum(1, keepdim=True)  # descent shortens if it is positive
        slack = 1e-5 * length
        stopped = ((radial < 0) & (length > self.longest - slack)) | ((radial > 0) & (length < self.shortest + slack))
        return torch.where(stopped, gradient - points * radial / length.square(), gradient)

    def confine(self, points: Tensor) -> None:
        length = torch.linalg.vector_norm(points, dim=1, keepdim=True)
        points.mul_(length.clamp(self.shortest, self.longest) / length.clamp_min(torch.finfo(length.dtype).tiny))


class _Uniform(_Space):
    """z, each coordinate in [-1, 1]: there are none beyond."""

    scale = 1 / math.sqrt(3)

    def confine(self, points: Tensor) -> None:
        points.clamp_(-1, 1)


class _Styles(_Space):
    """One style for all layers, as Karras et al. 2020a, Section 5 and Appendix D, look for it.

    The search starts at the mean style (of the class), and noise, which fades, keeps it from settling too early. Other than
    there, further searches start at the styles of the nearest random images, steps are in units of the styles' spread, and the
    generator's noise maps stay as they are: free ones could hold what it cannot make.
    """

    def __init__(self, generator: StyleGenerator, classes: list[int | None], seed: int, batch_size: int) -> None:
        super().__init__(generator)
        z = randomness.numbered_latents(generator.latents, seed, 0, NUM_STYLES)
        device = next(generator.parameters()).device
        means, variances = [], []
        for c in classes:
            parts = [
                generator.styles(part, None if c is None else torch.full((len(part),), c, device=device))[:, 0]
                for part in z.to(device).split(batch_size)
            ]
            w = torch.cat(parts)  # (NUM_STYLES, style_dim)
            means.append(w.mean(0))
            variances.append((w - means[-1]).square().mean())
        self.means = torch.stack(means)  # (classes, style_dim)
        self.scale = float(torch.stack(variances).mean().sqrt())
        self.noise = 0.05 * self.scale * math.sqrt(self.means.shape[1])  # the paper's spread is that of the vector

    def starts(self, z: Tensor, y: Tensor | None, starts: int) -> Tensor:
        assert isinstance(self.generator, StyleGenerator)
        device = self.means.device
        w = self.generator.styles(z.to(device), None if y is None else y.to(device))[:, 0].clone()
        w[::starts] = self.means
        return w

    def confine(self, points: Tensor) -> None:
        pass  # what styles are like has no simple form


def _space(generator: Generator, z: Tensor, y: Tensor | None, seed: int, batch_size: int) -> _Space:
    if isinstance(generator, StyleGenerator):
        return _Styles(generator, [None] if y is None else y.unique().tolist(), seed, batch_size)
    return _Normal(generator, z) if generator.latent_distribution == "normal" else _Uniform(generator)


def _search(
    space: _Space, points: Tensor, labels: Tensor | None, target: Tensor, steps: int, seed: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Descend from each of some points, (N, D), independently of the others: the least losses (N,) and where they were (N, D).

    The schedules of the learning rate and the noise are those of Karras et al. 2020a, Appendix D.
    """
    device = next(space.generator.parameters()).device
    goal = images.to_float(target.to(device))
    low, high = goal.masked_fill(target.to(device) == 0, -math.inf), goal.masked_fill(target.to(device) == 255, math.inf)
    found = []
    for rows in torch.arange(len(points)).split(batch_size):
        y = None if labels is None else labels[rows].to(device)
        w = points[rows].to(device).requires_grad_()
        optimizer = torch.optim.Adam([w], betas=BETAS)
        rng = randomness.generator(seed, "projection")
        least, best = torch.full((len(w),), math.inf, device=device), w.detach().clone()
        for step in range(steps):
            t = step / steps
            ramp = min(1.0, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25)))
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * space.scale * ramp
            noise = space.noise * max(0.0, 1 - t / 0.75) ** 2 if step else 0.0  # the start itself counts, too
            tried = w + noise * torch.randn(w.shape[1], generator=rng).to(device)  # the same for all
            x = _made(space.generator, tried, y)
            difference = x - x.clamp(low, high)  # what is beyond white is white, but from there the way back must be seen
            (gradient,) = torch.autograd.grad(difference.square().mean((1, 2, 3)).sum(), w)
            with torch.no_grad():
                loss = (x.clamp(-1, 1) - goal).square().mean((1, 2, 3))
                best = torch.where((loss < least).unsqueeze(1), tried, best)
                least = torch.where(loss < least, loss, least)
                w.grad = space.slope(w, gradient)
                optimizer.step()
                space.confine(w)
        found.append((least.cpu(), best.cpu()))
    losses, latents = zip(*found, strict=True)
    return torch.cat(losses), torch.cat(latents)


def _made(generator: Generator, latents: Tensor, y: Tensor | None) -> Tensor:
    """Generate from z, or from the style of all layers: (N, D) -> (N, C, H, W) in about [-1, 1]."""
    if not isinstance(generator, StyleGenerator):
        return generator(latents, y)  # type: ignore[no-any-return]  # torch types every module's output as Any
    z = latents.new_zeros(1, generator.latent_dim)
    layers = generator.styles(z, None if y is None else y[:1]).shape[1]
    return generator.synthesize(latents.unsqueeze(1).expand(-1, layers, -1))


@torch.inference_mode()
def reconstruct(generator: Generator, latents: Tensor, labels: Tensor | None) -> Tensor:
    """Generate the images of projected latents: exactly what `project` found, whatever others are beside them.

    Args:
        latents: (N, latent_dim), or of a style generator (N, style_dim).
        labels: int64 (N,), or None.

    Returns:
        uint8 (N, C, H, W), on the CPU.

    Raises:
        NotFinite: the generator gives values that are not finite.
    """
    device = next(generator.parameters()).device
    rows = torch.arange(len(latents)).split(1)  # one by one: roundings depend on the batch
    y = [None if labels is None else labels[i].to(device) for i in rows]
    return torch.cat([finite_uint8(_made(generator, latents[i].to(device), c)).cpu() for i, c in zip(rows, y, strict=True)])


@torch.inference_mode()
def _sampled(generator: Generator, z: Tensor, y: Tensor | None) -> Tensor:
    """Generate from random latents: (N, latent_dim), int64 (N,) or None -> uint8 (N, C, H, W) on the CPU."""
    device = next(generator.parameters()).device
    return finite_uint8(generator(z.to(device), None if y is None else y.to(device))).cpu()
