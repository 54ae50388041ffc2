"""Walks between latents of a trained generator: one that has not learnt its images by heart changes little by little."""

import io
from collections.abc import Callable, Iterator
from itertools import islice
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_gan import images
from lightning_gan.errors import UserError
from lightning_gan.files import written_aside


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


def walks(visited: Tensor, steps: int, spherical: bool) -> Callable[[int, int], Tensor]:
    """Walk between latents, and from the last one back to the first.

    Args:
        visited: (num, rows, latent_dim).
        steps: from one of them to the next.
        spherical: by `slerp`, and otherwise in a straight line.

    Returns:
        `latents(start, stop) -> (stop - start, latent_dim)`: image i is frame `i // rows` of walk `i % rows`.
    """
    num, rows = visited.shape[:2]
    path = slerp if spherical else torch.lerp

    def latents(start: int, stop: int) -> Tensor:
        i = torch.arange(start, stop)
        frame, row = i // rows, i % rows
        leg = frame // steps
        return path(visited[leg, row], visited[(leg + 1) % num, row], (frame % steps / steps).unsqueeze(1))  # (N, latent_dim)

    return latents


def drawn(batches: Iterator[Tensor], kind: str, rows: int, frames: int, fps: int) -> bytes:
    """Draw walks as a file of the kind: .png, .gif or .mp4."""
    groups = _in_groups(batches, rows)  # (rows, C, H, W) for each frame
    if kind not in _FILMS:
        return _png(images.grid(torch.stack(list(groups), 1).flatten(0, 1), frames))
    columns = next(n for n in range(isqrt(rows - 1) + 1, rows + 1) if rows % n == 0)  # about a square, without a gap
    return _FILMS[kind]((images.grid(frame, columns) for frame in groups), fps)


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


def write(path: Path, contents: bytes) -> None:
    """Write a file aside and rename it."""
    try:
        with written_aside(path) as aside:
            aside.write_bytes(contents)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}.") from error
