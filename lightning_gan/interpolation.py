"""Walks between latents of a trained generator: one that has not learnt its images by heart changes little by little."""

import io
from collections.abc import Callable, Iterator
from itertools import islice
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_gan import images, randomness
from lightning_gan.errors import UserError
from lightning_gan.files import written_aside
from lightning_gan.sampling import (
    check_new,
    check_truncation,
    counted,
    cycle_labels,
    find_device,
    generate,
    import_own,
    load_generator,
    progress,
)

MAX_IMAGES = 100_000
"""Images that a picture or film can hold: what is longer could not be looked at, and would fill the memory."""


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation, White 2016, Section 2.1: normal latents lie about a sphere, and a straight line cuts it short.

    The direction turns evenly and the length changes evenly: for equal lengths, the paper's formula. Vectors that are parallel
    or opposite span no arc between them and are interpolated linearly.

    Args:
        a: (N, D), where `t` is 0.
        b: (N, D), where `t` is 1.
        t: (N, 1).
    """
    length_a, length_b = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (a, b))  # (N, 1)
    u, v = a / length_a, b / length_b
    omega = torch.acos((u * v).sum(1, keepdim=True).clamp(-1, 1))
    direction = (torch.sin((1 - t) * omega) * u + torch.sin(t * omega) * v) / torch.sin(omega)
    arc = direction * torch.lerp(length_a, length_b, t)
    arc = torch.where(t == 0, a, torch.where(t == 1, b, arc))  # not a rounding error away
    # float32 knows the cosine to 1e-7 and so a nearly straight angle only roughly; the zero vector has none
    return torch.where(torch.sin(omega) > 1e-2, arc, torch.lerp(a, b, t))


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
        ckpt_path: a checkpoint of a training run, such as RUN/checkpoints/last.ckpt.
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
    if kind not in (".png", *_FILMS):
        raise UserError(f"--output {output} must end in .png, .gif or .mp4.")
    check_new(output, file=True)
    import_own(module)
    if num is None:
        num = 8 if kind in _FILMS else 2
    if num < 2:
        raise UserError(f"--num {num}: a walk needs at least 2 latents.")
    if kind == ".gif" and fps > 50:
        raise UserError(f"--fps {fps}: a .gif shows at most 50 frames in a second, an .mp4 more.")
    if fps > 1000:
        raise UserError(f"--fps {fps}: at most 1000 frames in a second.")
    frames = num * steps if kind in _FILMS else (num - 1) * steps + 1
    if frames * rows > MAX_IMAGES:
        raise UserError(f"{rows} walks of {frames} images are too many: at most {MAX_IMAGES:,} images in all.")
    generator = load_generator(ckpt_path, half_life)
    y = cycle_labels(labels, rows, generator.num_classes)
    check_truncation(generator, truncation)
    generator.to(find_device(device))

    visited = randomness.numbered_latents(generator.latents, seed, 0, num * rows).unflatten(0, (num, rows))
    path = slerp if generator.latent_distribution == "normal" else torch.lerp

    def latents(start: int, stop: int) -> Tensor:
        """Find where the walks are: image i is frame `i // rows` of walk `i % rows`."""
        i = torch.arange(start, stop)
        frame, row = i // rows, i % rows
        leg = frame // steps
        return path(visited[leg, row], visited[(leg + 1) % num, row], (frame % steps / steps).unsqueeze(1))  # (N, latent_dim)

    repeated = None if y is None else y.repeat(frames)
    with progress(frames * rows) as bar:
        batches = counted(generate(generator, latents, repeated, frames * rows, batch_size, truncation), bar)
        walks = _in_groups(batches, rows)  # (rows, C, H, W) for each frame
        if kind in _FILMS:
            columns = next(n for n in range(isqrt(rows - 1) + 1, rows + 1) if rows % n == 0)  # about a square, without a gap
            contents = _FILMS[kind]((images.grid(frame, columns) for frame in walks), fps)
        else:
            contents = _png(images.grid(torch.stack(list(walks), 1).flatten(0, 1), frames))
    _write(output, contents)
    print(f"{rows:,} {'walk' if rows == 1 else 'walks'} of {frames:,} images in {output}")


def _in_groups(batches: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    singles = (image for batch in batches for image in batch)
    while group := list(islice(singles, size)):
        yield torch.stack(group)


def _png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


def _gif(frames: Iterator[NDArray[np.uint8]], fps: int) -> bytes:
    file = io.BytesIO()
    pictures = (Image.fromarray(frame) for frame in frames)
    next(pictures).save(file, "gif", save_all=True, append_images=pictures, duration=10 * round(100 / fps), loop=0)
    return file.getvalue()


def _mp4(frames: Iterator[NDArray[np.uint8]], fps: int) -> bytes:
    try:
        import av
    except ImportError as error:
        raise UserError("An .mp4 needs the package av (pip install av); a .gif does not.") from error

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as film:
        try:
            stream = film.add_stream("libx264", rate=fps, options={"crf": "18"})
        except ValueError as error:
            raise UserError("This build of the package av cannot encode H.264. A .gif does not need it.") from error
        for i, frame in enumerate(frames):
            colours = frame if frame.ndim == 3 else np.stack([frame] * 3, 2)
            height, width, _ = colours.shape
            colours = np.pad(colours, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # H.264 halves the colours' sides
            if i == 0:
                stream.height, stream.width, _ = colours.shape
                stream.pix_fmt = "yuv420p"  # the one that every player knows
            film.mux(stream.encode(av.VideoFrame.from_ndarray(colours, format="rgb24")))
        film.mux(stream.encode())
    return file.getvalue()


_FILMS: dict[str, Callable[[Iterator[NDArray[np.uint8]], int], bytes]] = {".gif": _gif, ".mp4": _mp4}


def _write(path: Path, contents: bytes) -> None:
    """Write a file aside and rename it."""
    try:
        with written_aside(path) as aside:
            aside.write_bytes(contents)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}.") from error
