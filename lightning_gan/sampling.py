"""Images from a trained generator, with nothing but its checkpoint."""

import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jsonargparse import ArgumentParser, auto_cli
from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lightning_gan import images, randomness
from lightning_gan.errors import UserError
from lightning_gan.networks.base import Generator, build
from lightning_gan.options import ReadableErrors

_PREFIX = "average.generator."
"""Where the averaged generator lies in the training module's state."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint, which can hold nothing but data.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint of this project.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        known = {"lightning_gan", "state_dict"} <= checkpoint.keys()
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged, or not a checkpoint.") from error
    except (AttributeError, TypeError):
        known = False
    if not known:
        raise UserError(f"{path} is not a checkpoint of lightning_gan.")
    return checkpoint


def load_generator(ckpt_path: str | Path) -> Generator:
    """Rebuild the averaged generator of a training checkpoint, in evaluation mode on the CPU.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint of this project.
    """
    path = Path(ckpt_path)
    checkpoint = read_checkpoint(path)
    state = checkpoint["state_dict"]
    try:
        generator = build(checkpoint["lightning_gan"]["generator"])
        generator.load_state_dict(
            {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
        )
        if not isinstance(generator, Generator):
            raise ValueError(f"{type(generator).__name__} is not a generator")
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The generator in {path} does not fit this version of its code: {error}") from error
    return generator.eval().requires_grad_(False)


@torch.inference_mode()
def generate(generator: Generator, labels: Tensor | None, num: int, seed: int, batch_size: int) -> Iterator[Tensor]:
    """Generate images number 0 to `num - 1`; image i depends on (seed, i) and its label alone.

    Yields:
        uint8 (n, C, H, W) on the CPU, with n up to `batch_size`.
    """
    device = next(generator.parameters()).device
    for start in range(0, num, batch_size):
        stop = min(start + batch_size, num)
        z = randomness.numbered_latents(generator.latents, seed, start, stop).to(device)
        y = None if labels is None else labels[start:stop].to(device)
        yield images.to_uint8(generator(z, y)).cpu()


def sample(
    ckpt_path: Path,
    output: Path = Path("samples.npz"),
    num: PositiveInt = 64,
    labels: list[NonNegativeInt] | NonNegativeInt | None = None,
    seed: NonNegativeInt = 0,
    batch_size: PositiveInt = 256,
    device: str = "auto",
) -> None:
    """Generate images with the averaged generator of a checkpoint.

    Args:
        ckpt_path: a checkpoint of a training run, such as RUN/checkpoints/last.ckpt.
        output: a new .npz file (`arr_0`: uint8, (N, H, W, C); `labels` where there are any), or a new folder for PNGs.
        num: how many.
        labels: class of a conditional generator, or classes to go through in turn; all of them by default.
        seed: the same seed gives the same images, whatever their number and the batch size.
        batch_size: images generated at a time.
        device: such as cpu, cuda or cuda:1; auto takes the first GPU if there is one.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} exists already. Name another --output, or remove it first.")
    generator = load_generator(ckpt_path)
    y = _cycle(labels, num, generator.num_classes)
    try:
        generator.to(_device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    with tqdm(total=num, unit="img", file=sys.stderr) as bar:
        batches = _counted(generate(generator, y, num, seed, batch_size), bar)
        try:
            if output.suffix == ".npz":
                channels, height, width = generator.image_shape
                _write_npz(output, batches, (num, height, width, channels), y)
            else:
                _write_pngs(output, batches, len(str(num - 1)))
        except OSError as error:
            raise UserError(f"{output} could not be written: {error.strerror}.") from error
    print(f"{num:,} images in {output}")


def _cycle(labels: list[int] | int | None, num: int, num_classes: int) -> Tensor | None:
    if num_classes == 0:
        if labels is not None:
            raise UserError("--labels needs a conditional generator, and this one is unconditional.")
        return None
    chosen = list(range(num_classes)) if labels is None else [labels] if isinstance(labels, int) else labels
    if not chosen:
        raise UserError("--labels is an empty list.")
    if wrong := [label for label in chosen if label >= num_classes]:
        raise UserError(f"--labels {wrong[0]}: this generator's classes are 0 to {num_classes - 1}.")
    return torch.tensor(chosen)[torch.arange(num) % len(chosen)]


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _counted(batches: Iterator[Tensor], bar: "tqdm[NoReturn]") -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _write_npz(path: Path, batches: Iterator[Tensor], shape: tuple[int, ...], labels: Tensor | None) -> None:
    """Write what `np.savez(path, images, labels=labels)` would, batch by batch, aside and then renamed."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for batch in batches:
                    file.write(batch.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
            if labels is not None:
                with archive.open("labels.npy", "w") as file:
                    np.lib.format.write_array(file, labels.numpy())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _write_pngs(folder: Path, batches: Iterator[Tensor], digits: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbered = enumerate(image for batch in batches for image in batch.permute(0, 2, 3, 1).numpy())
    for i, image in numbered:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(folder / f"{i:0{digits}d}.png")


class _Parser(ReadableErrors, ArgumentParser):
    pass


def main(args: list[str]) -> None:
    """`python -m lightning_gan sample`."""
    auto_cli(sample, args=args, prog="python -m lightning_gan sample", as_positional=False, parser_class=_Parser)
