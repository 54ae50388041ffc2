"""The commands that need nothing but a checkpoint, or an export.

What they need is imported where all that can be known without it has been checked.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from jsonargparse import auto_cli
from jsonargparse.typing import NonNegativeInt, PositiveInt

from lightning_gan.errors import UserError
from lightning_gan.first_look import check_there
from lightning_gan.options import CommandParser

FILMS = (".gif", ".mp4")
MAX_IMAGES = 100_000
"""Images that a picture or film of walks can hold: what is longer could not be looked at, and would fill the memory."""


def sample(
    ckpt_path: Path,
    output: Path = Path("samples.npz"),
    num: PositiveInt = 64,
    labels: list[NonNegativeInt] | NonNegativeInt | None = None,
    seed: NonNegativeInt = 0,
    truncation: float | None = None,
    half_life: float | None = None,
    batch_size: PositiveInt = 256,
    device: str = "auto",
    module: str | None = None,
) -> None:
    """Generate images with the averaged generator of a checkpoint.

    Args:
        ckpt_path: a checkpoint of a training run, such as RUN/checkpoints/last.ckpt, or an exported generator.
        output: a new .npz file (`arr_0`: uint8, (N, H, W, C); `labels` where there are any), or a new folder for PNGs.
        num: how many.
        labels: class of a conditional generator, or classes to go through in turn; all of them by default.
        seed: the same seed gives the same images, whatever their number and, up to rounding, the batch size.
        truncation: trade variety for quality. Styles are moved to their mean by this factor (1 changes nothing); normal latents
            of a generator without styles are kept within plus or minus this.
        half_life: of the average to take, in images, if the run kept further ones.
        batch_size: images generated at a time.
        device: such as cpu, cuda or cuda:1; auto takes the first GPU if there is one.
        module: that defines the generator's class, where that is one of your own.
    """
    check_new(output, file=output.suffix.lower() == ".npz")
    check_number(num)
    check_there("--ckpt_path", ckpt_path)
    import_own(module)
    from lightning_gan import randomness
    from lightning_gan.sampling import (
        check_truncation,
        counted,
        cycle_labels,
        find_device,
        generate,
        progress,
        read_generator,
        write_npz,
        write_pngs,
    )

    generator = read_generator(ckpt_path, half_life)
    y = cycle_labels(labels, num, generator.num_classes)
    check_truncation(generator, truncation)
    generator.to(find_device(device))
    latents = partial(randomness.numbered_latents, generator.latents, seed)  # image i depends on (seed, i) and its label alone
    with progress(num) as bar:
        batches = counted(generate(generator, latents, y, num, batch_size, truncation), bar)
        try:
            if output.suffix.lower() == ".npz":
                channels, height, width = generator.image_shape
                write_npz(output, batches, (num, height, width, channels), y)
            elif generator.image_shape[0] not in (1, 3):
                raise UserError(
                    f"A PNG has 1 or 3 channels, and these images {generator.image_shape[0]}: name an .npz instead."
                )
            else:
                write_pngs(output, batches, len(str(num - 1)))
        except OSError as error:
            raise UserError(f"{output} could not be written: {error.strerror}.") from error
    print(f"{num:,} images in {output}")


def interpolate(
    ckpt_path: Path,
    output: Path = Path("walk.png"),
    num: int | None = None,
    steps: PositiveInt = 10,
    rows: PositiveInt = 10,
    labels: list[NonNegativeInt] | NonNegativeInt | None = None,
    seed: NonNegativeInt = 0,
    truncation: float | None = None,
    fps: PositiveInt = 20,
    half_life: float | None = None,
    batch_size: PositiveInt = 256,
    device: str = "auto",
    module: str | None = None,
) -> None:
    """Walk between latents of the averaged generator of a checkpoint.

    They start at the first images of `sample` with the same seed, labels and truncation, and go through the following latents.

    Args:
        ckpt_path: a checkpoint of a training run, such as RUN/checkpoints/last.ckpt, or an exported generator.
        output: a new file. A .png shows each walk as a row; a .gif or .mp4 shows them side by side, and back to their starts.
        num: latents that each walk visits; 2 in a .png by default, 8 in a .gif or .mp4.
        steps: from one of them to the next.
        rows: how many walks.
        labels: class of all walks through a conditional generator, or classes that they take in turn; all of them by default.
        seed: of the latents.
        truncation: trade variety for quality. Styles are moved to their mean by this factor (1 changes nothing); normal latents
            of a generator without styles are kept within plus or minus this.
        fps: frames of a .gif or .mp4 in a second; those of a .gif last whole hundredths of a second.
        half_life: of the average to take, in images, if the run kept further ones.
        batch_size: images generated at a time.
        device: such as cpu, cuda or cuda:1; auto takes the first GPU if there is one.
        module: that defines the generator's class, where that is one of your own.
    """
    kind = output.suffix.lower()
    if kind not in (".png", *FILMS):
        raise UserError(f"--output {output} must end in .png, .gif or .mp4.")
    check_new(output, file=True)
    if num is None:
        num = 8 if kind in FILMS else 2
    if num < 2:
        raise UserError(f"--num {num}: a walk needs at least 2 latents.")
    if kind == ".gif" and fps > 50:
        raise UserError(f"--fps {fps}: a .gif shows at most 50 frames in a second, an .mp4 more.")
    if fps > 1000:
        raise UserError(f"--fps {fps}: at most 1000 frames in a second.")
    frames = num * steps if kind in FILMS else (num - 1) * steps + 1
    if frames * rows > MAX_IMAGES:
        raise UserError(f"{rows} walks of {frames} images are too many: at most {MAX_IMAGES:,} images in all.")
    check_there("--ckpt_path", ckpt_path)
    import_own(module)
    from lightning_gan import interpolation, randomness
    from lightning_gan.sampling import check_truncation, counted, cycle_labels, find_device, generate, progress, read_generator

    generator = read_generator(ckpt_path, half_life)
    y = cycle_labels(labels, rows, generator.num_classes)
    check_truncation(generator, truncation)
    generator.to(find_device(device))
    visited = randomness.numbered_latents(generator.latents, seed, 0, num * rows).unflatten(0, (num, rows))
    latents = interpolation.walks(visited, steps, spherical=generator.latent_distribution == "normal")
    repeated = None if y is None else y.repeat(frames)
    with progress(frames * rows) as bar:
        batches = counted(generate(generator, latents, repeated, frames * rows, batch_size, truncation), bar)
        interpolation.write(output, interpolation.drawn(batches, kind, rows, frames, fps))
    print(f"{rows:,} {'walk' if rows == 1 else 'walks'} of {frames:,} images in {output}")


def check_new(output: Path, file: bool) -> None:
    """Refuse to write over something, but for a folder over an empty one.

    Raises:
        UserError: there is something, or it cannot be known.
    """
    try:
        taken = (output.exists() or output.is_symlink()) and (file or not output.is_dir() or any(output.iterdir()))
    except OSError as error:
        raise UserError(f"{output} cannot be used: {error.strerror}.") from error
    if taken:
        raise UserError(f"{output} exists already. Name another --output, or remove it first.")


def check_number(images: int) -> None:
    """Refuse a number of images that can only be a slip.

    Raises:
        UserError: it is above a billion.
    """
    if images > 10**9:
        raise UserError(f"{images:,} images are too many: at most a billion can be made in one go.")


def import_own(module: str | None) -> None:
    """Import the module that defines the generator's class, where that is one of the user's: a checkpoint cannot ask for it.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        if module is not None:
            importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"--module {module} cannot be imported: {error}.") from error


def run(command: Callable[..., None], args: Sequence[str]) -> None:
    """Call a function with the options of `python -m lightning_gan COMMAND`, where COMMAND is its name."""
    prog = f"python -m lightning_gan {command.__name__}"
    auto_cli(command, args=list(args), prog=prog, as_positional=False, parser_class=CommandParser, allow_abbrev=False)
