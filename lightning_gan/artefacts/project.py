"""The command `project`: latents of a user's images, and a picture of how near they come."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from jsonargparse.typing import NonNegativeInt, PositiveInt

from lightning_gan.commands import check_new, import_own
from lightning_gan.errors import UserError
from lightning_gan.first_look import check_there
from lightning_gan.options import CommandParser

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_gan.projection import Projection

COLUMNS = 10
"""Images side by side in the picture."""

MAX_IMAGES = 1000
"""More would take very long, and the picture is drawn at the end."""


def project(
    images: list[Path],
    ckpt_path: Path,
    output: Path = Path("projected"),
    steps: PositiveInt = 300,
    starts: PositiveInt = 4,
    label: NonNegativeInt | None = None,
    seed: NonNegativeInt = 0,
    half_life: float | None = None,
    batch_size: PositiveInt = 64,
    device: str = "auto",
    module: str | None = None,
) -> None:
    """Find the latents from which the averaged generator of a checkpoint comes nearest to given images.

    Whether it makes images of its training set much better than held-out ones tells how far it has learnt them by heart. A
    distance is a peak signal-to-noise ratio in dB (the higher, the nearer; 6 dB more is half the difference), beside that of
    the nearest of 1,000 random images: a search that gets no further has found nothing.

    Args:
        images: files, or folders of them. They are made upright, cut to their central square and resized.
        ckpt_path: a checkpoint of a training run, such as RUN/checkpoints/last.ckpt, or an exported generator.
        output: a new folder. projected.png shows the images, below each what was found, and below that the nearest random
            image; latents.npz holds `z`, or `w` of a StyleGAN2, `labels` where there are any, `psnr`, `nearest_psnr`, `names`.
        steps: of the search.
        starts: from which an image is looked for, in each class.
        label: class of a conditional generator; by default each is tried, and the nearest image counts.
        seed: of the random images, which are those of `sample`. What is found depends on it, not on the other images.
        half_life: of the average to take, in images, if the run kept further ones.
        batch_size: images generated at a time; less needs less memory.
        device: such as cpu, cuda or cuda:1; auto takes the first GPU if there is one.
        module: that defines the generator's class, where that is one of your own.
    """
    for path in images:
        if not os.path.lexists(path):
            raise UserError(f"There is no image {path}.")
    check_new(output, file=False)
    check_there("--ckpt_path", ckpt_path)
    import_own(module)
    from lightning_gan import projection
    from lightning_gan.artefacts.latents import packed
    from lightning_gan.interpolation import write
    from lightning_gan.sampling import find_device, progress, read_generator

    generator = read_generator(ckpt_path, half_life)
    names, targets = _read(images, generator.image_shape)
    generator.to(find_device(device))
    found = []
    with progress(len(names)) as bar:
        for each in projection.project(generator, targets, label, steps, starts, seed, batch_size):
            found.append(each)
            write(output / "latents.npz", packed(generator, found, names[: len(found)]))  # kept if the rest is not waited for
            bar.update()
    write(output / "projected.png", _picture(targets, found))
    print(_table(names, found))
    print(f"\n{output / 'projected.png'}\n{output / 'latents.npz'}")


def _read(given: Sequence[Path], image_shape: tuple[int, int, int]) -> tuple[list[str], "Tensor"]:
    """Read images as a generator makes them: their names, and uint8 (N, C, H, W).

    Raises:
        UserError: there are none or too many, one of them cannot be read, or no picture has that shape.
    """
    import numpy as np
    import torch
    from PIL import Image

    from lightning_gan.data.decode import Preprocessing
    from lightning_gan.data.pictures import SUFFIXES, list_images

    channels, height, width = image_shape
    if channels not in (1, 3) or height != width:
        made = "x".join(map(str, image_shape))
        raise UserError(f"Pictures are square and have 1 or 3 channels, and this generator's images are {made}.")
    preprocessing = Preprocessing(height, 3 if channels == 3 else 1)
    files = []
    for path in given:
        below = [path / name for name in list_images(path)] if path.is_dir() else [path]
        if not below:
            raise UserError(f"{path} holds no images: nothing below it ends in .{', .'.join(sorted(SUFFIXES))}.")
        files += below
    if len(files) > MAX_IMAGES:
        raise UserError(f"{len(files):,} images are too many: at most {MAX_IMAGES:,} are looked for in one go.")
    pixels = []
    for path in files:
        try:
            if not path.is_file():
                raise ValueError("it is no regular file")
            with Image.open(path) as image:
                pixels.append(preprocessing(image))
        except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
            raise UserError(f"{path} cannot be read as an image: {error}. Repair it, or leave it out.") from error
    return [str(path) for path in files], torch.from_numpy(np.stack(pixels))


def _picture(targets: "Tensor", found: Sequence["Projection"]) -> bytes:
    """Draw what was looked for, what was found and the nearest random images, one below the other, as a .png."""
    import io

    import torch
    from PIL import Image

    from lightning_gan.images import grid

    rows = torch.stack([targets, torch.stack([each.image for each in found]), torch.stack([each.nearest for each in found])])
    columns = min(COLUMNS, len(found))
    empty = rows.new_full((3, -len(found) % columns, *rows.shape[2:]), 255)  # at the end of the last rows
    bands = torch.cat([rows, empty], 1).unflatten(1, (-1, columns)).transpose(0, 1)  # (bands, 3, columns, C, H, W)
    file = io.BytesIO()
    Image.fromarray(grid(bands.flatten(0, 2), columns)).save(file, "png")
    return file.getvalue()


def _table(names: Sequence[str], found: Sequence["Projection"]) -> str:
    """Lay out for people how near each image came."""
    from lightning_gan.artefacts.trained import shown

    rows: list[tuple[str, ...]] = [("", "class", "found", "nearest random")]
    for name, each in zip(names, found, strict=True):
        rows.append(
            (shown(name), "" if each.label is None else str(each.label), f"{each.psnr:.2f} dB", f"{each.nearest_psnr:.2f} dB")
        )
    if len(found) > 1:
        middle = median(each.psnr for each in found), median(each.nearest_psnr for each in found)
        rows.append(("median", "", *(f"{value:.2f} dB" for value in middle)))
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]  # no classes without labels
    widths = [max(map(len, column)) for column in kept]
    lines = zip(*kept, strict=True)
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines)


def run(options: Sequence[str]) -> None:
    """Call `project` with the options of `python -m lightning_gan project`."""
    summary, _, _ = str(project.__doc__).partition("Args:")
    parser = CommandParser(prog="python -m lightning_gan project", description=summary, allow_abbrev=False)
    parser.add_argument("images", nargs="+", type=Path, help="Files, or folders of them.")
    parser.add_function_arguments(project, as_positional=False, skip={"images"})
    try:
        chosen = parser.parse_args(list(options))
    except UserError as error:
        raise UserError(str(error).replace("--images", "IMAGE")) from error
    project(**chosen)
