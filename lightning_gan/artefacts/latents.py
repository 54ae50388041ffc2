"""Projected latents as a file."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gan.errors import UserError
from lightning_gan.networks.base import Generator, StyleGenerator
from lightning_gan.projection import Projection


def packed(generator: Generator, found: Sequence[Projection], names: Sequence[str]) -> bytes:
    """Pack what was found as an .npz file: `z` or `w`, `labels` where there are any, `psnr`, `nearest_psnr` and `names`."""
    arrays: dict[str, Any] = {_name(generator): torch.stack([each.latent for each in found]).numpy()}
    if generator.num_classes:
        arrays["labels"] = np.array([each.label for each in found])
    file = io.BytesIO()
    np.savez(
        file,
        psnr=np.array([each.psnr for each in found]),
        nearest_psnr=np.array([each.nearest_psnr for each in found]),
        names=np.array(names),
        **arrays,
    )
    return file.getvalue()


def read_latents(path: Path, generator: Generator) -> tuple[Tensor, Tensor | None]:
    """Read the latents (N, D) and labels (N,) of a file that `packed` made, for `reconstruct`.

    Raises:
        UserError: the file is missing, damaged, no such file or made with another kind of generator.
    """
    name = _name(generator)
    if not path.is_file():
        raise UserError(f"There are no latents {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            stored = [member.compress_type == zipfile.ZIP_STORED for member in archive.infolist()]
            if not all(stored):  # a few bytes could be gigabytes
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as arrays:
            if name not in arrays or ("labels" in arrays) != (generator.num_classes > 0):
                raise UserError(f"{path} holds {', '.join(arrays)}: it was made with another kind of generator.")
            latents = torch.from_numpy(arrays[name])
            labels = torch.from_numpy(arrays["labels"]) if "labels" in arrays else None
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged, or not a file of latents ({error}). Copy or make it again.") from error
    dim = generator.mean_style.shape[0] if isinstance(generator, StyleGenerator) else generator.latent_dim
    if latents.dtype != torch.float32 or latents.ndim != 2 or latents.shape[1] != dim:
        kind = f"{str(latents.dtype).removeprefix('torch.')} {tuple(latents.shape)}"
        raise UserError(f"{path} holds {kind} as {name}, and this generator takes float32 (N, {dim}).")
    if not latents.isfinite().all():
        raise UserError(f"{path} holds latents that are not finite.")
    if labels is not None:
        known = labels.dtype == torch.int64 and all(0 <= c < generator.num_classes for c in labels.flatten())
        if not known or labels.shape != latents.shape[:1]:
            raise UserError(f"{path} holds labels that are not this generator's classes, one for each latent.")
    return latents, labels


def _name(generator: Generator) -> str:
    return "w" if isinstance(generator, StyleGenerator) else "z"
