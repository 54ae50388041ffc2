"""Images from a trained generator, with nothing but its checkpoint or export."""

import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lightning_gan import images
from lightning_gan.artefacts.trained import read_trained
from lightning_gan.errors import UserError
from lightning_gan.files import written_aside
from lightning_gan.networks.base import Generator, StyleGenerator


class NotFinite(UserError):  # noqa: N818  # says what is the matter, as its message does
    """A generator's images are not."""

    def __init__(self) -> None:
        super().__init__("The generator gives values that are not finite: its training diverged. Take an earlier checkpoint.")


def read_generator(path: str | Path, half_life: float | None = None) -> Generator:
    """Read the averaged generator of a training checkpoint, or an exported one, in evaluation mode on the CPU.

    Args:
        path: a checkpoint, the folder of an export, or the `generator.safetensors` in it.
        half_life: that of one of the run's further averages, in images; None = the first one, or the one that was exported.

    Raises:
        UserError: it is missing, damaged or not one of this project, or has no such average.
    """
    return read_trained(path, half_life).generator


def check_truncation(generator: Generator, truncation: float | None) -> None:
    """Refuse a truncation that `truncated` could not apply.

    Raises:
        UserError: it is out of range, or the latents are uniform.
    """
    if truncation is None:
        return
    if isinstance(generator, StyleGenerator):
        if not abs(truncation) <= 10:  # negative ones are the opposites, Karras et al. 2019, Figure 8
            raise UserError(f"The truncation of styles must lie between -10 and 10, not at {truncation}.")
        return
    if not 0 < truncation < math.inf:
        raise UserError(f"The truncation must be positive and finite, not {truncation}.")
    if generator.latent_distribution != "normal":
        raise UserError("Truncation needs normal latents or styles, and this generator's latents are uniform.")


def truncated(generator: Generator, z: Tensor, y: Tensor | None, truncation: float | None) -> Tensor:
    """Generate with less variety: styles nearer to their mean, or latents without their tails.

    A style generator's styles are moved to their mean, Karras et al. 2019, Appendix B: 1 leaves them as they are. Any other's
    latents are brought within plus or minus `truncation`, the truncation trick of Brock et al. 2019, Section 3.1.

    Args:
        z: (N, latent_dim), on the generator's device.
        y: int64 (N,), or None.
        truncation: None = off.

    Returns:
        (N, C, H, W) in about [-1, 1].
    """
    if truncation is None:
        return generator(z, y)  # type: ignore[no-any-return]  # torch types every module's output as Any
    if isinstance(generator, StyleGenerator):
        return generator.synthesize(generator.mean_style.lerp(generator.styles(z, y), truncation))
    return generator(truncated_normal(z, truncation), y)  # type: ignore[no-any-return]  # as above


def truncated_normal(z: Tensor, psi: float) -> Tensor:
    """Turn standard normal values into values of the normal distribution truncated to [-psi, psi], of the same shape.

    Each is moved to the same quantile, so that the result is a function of `z` where drawing again until it fits is not.
    """
    size = z.cpu().double().abs()  # MPS has no float64
    tail = torch.erfc(size / math.sqrt(2)) / 2  # the lower one, where float64 is finest; ndtr(-size) is rougher there
    lowest = math.erfc(psi / math.sqrt(2)) / 2
    truncated_size: Tensor = -torch.special.ndtri(lowest + (1 - 2 * lowest) * tail)
    return truncated_size.clamp_(0, psi).to(z).copysign_(z)


@torch.inference_mode()
def generate(
    generator: Generator,
    latents: Callable[[int, int], Tensor],
    labels: Tensor | None,
    num: int,
    batch_size: int,
    truncation: float | None = None,
) -> Iterator[Tensor]:
    """Generate images number 0 to `num - 1`.

    Args:
        latents: `latents(start, stop) -> (stop - start, latent_dim)`, those of images number `start` to `stop - 1`.
        labels: int64 (num,), or None.

    Yields:
        uint8 (n, C, H, W) on the CPU, with n up to `batch_size`.
    """
    device = next(generator.parameters()).device
    for start in range(0, num, batch_size):
        stop = min(start + batch_size, num)
        z = latents(start, stop).to(device)
        y = None if labels is None else labels[start:stop].to(device)
        yield finite_uint8(truncated(generator, z, y, truncation)).cpu()


def finite_uint8(x: Tensor) -> Tensor:
    """Bring generated images, (N, C, H, W) in about [-1, 1], to uint8.

    Raises:
        NotFinite: the generator gives values that are not finite.
    """
    if not x.isfinite().all():
        raise NotFinite
    return images.to_uint8(x)


def cycle_labels(labels: list[int] | int | None, num: int, num_classes: int) -> Tensor | None:
    """Go through the labels, all classes by default, in turn: int64 (num,), or None for an unconditional generator.

    Raises:
        UserError: a label that the generator does not have.
    """
    if num_classes == 0:
        if labels is not None:
            raise UserError("Labels need a conditional generator, and this one is unconditional.")
        return None
    chosen = list(range(num_classes)) if labels is None else [labels] if isinstance(labels, int) else labels
    if not chosen:
        raise UserError("The list of labels is empty.")
    if wrong := [label for label in chosen if not 0 <= label < num_classes]:
        raise UserError(f"There is no class {wrong[0]}: this generator's classes are 0 to {num_classes - 1}.")
    return torch.tensor(chosen)[torch.arange(num) % len(chosen)]


def find_device(name: str) -> torch.device:
    """Find a device by its name; auto is the first GPU if there is one.

    Raises:
        UserError: there is no such device.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device).sum().item()  # some devices hold nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def progress(num: int) -> "tqdm[NoReturn]":
    return tqdm(total=num, unit="img", file=sys.stderr)


def counted(batches: Iterator[Tensor], bar: "tqdm[NoReturn]") -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def write_npz(path: Path, batches: Iterator[Tensor], shape: tuple[int, ...], labels: Tensor | None) -> None:
    """Write what `np.savez(path, images, labels=labels)` would, batch by batch."""
    with written_aside(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for batch in batches:
                file.write(batch.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        if labels is not None:
            with archive.open("labels.npy", "w") as file:
                np.lib.format.write_array(file, labels.numpy())


def write_pngs(folder: Path, batches: Iterator[Tensor], digits: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbered = enumerate(image for batch in batches for image in batch.permute(0, 2, 3, 1).numpy())
    for i, image in numbered:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(folder / f"{i:0{digits}d}.png")
