"""Training checkpoints as files: read with care, and found in a run folder."""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from lightning_gan import __version__
from lightning_gan.errors import UserError
from lightning_gan.first_look import MISSING

FORMAT = 1
"""Of what a checkpoint says of its GAN; a version of this project reads its own and older ones."""
FOLDER = "checkpoints"
FOLDER_BIT = 0x10
"""Of a file's attributes in a zip archive; torch gives memory as it finds it for the content of a folder."""
PREVIOUS = {"last.ckpt": "previous.ckpt"}
"""What a checkpoint is kept as when a newer one takes its place."""


class DamagedCheckpoint(UserError):  # noqa: N818  # says what it is, as its message does
    """The file is not what was written."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint, which can hold nothing but data, and check that it is what was written.

    Raises:
        DamagedCheckpoint: the file was cut short, or bits of it have changed.
        UserError: it is missing, cannot be read, or is not a checkpoint that this version knows.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder and no checkpoint. (sample, interpolate, evaluate and project take exports, too.)")
    if not path.is_file():
        raise UserError(MISSING["--ckpt_path"].format(path))
    try:
        _check_archive(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        record = checkpoint["lightning_gan"] if "state_dict" in checkpoint else None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except pickle.UnpicklingError as error:  # whole, but it asks for more than data
        raise UserError(f"{path} is not a checkpoint of lightning_gan.") from error
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise DamagedCheckpoint(f"{path} is damaged, or not a checkpoint.") from error
    except (AttributeError, TypeError, LookupError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a checkpoint of lightning_gan.")
    if record.get("format", 0) > FORMAT:
        raise UserError(
            f"{path} was written by lightning_gan {record.get('version')}, and this is {__version__}, which does not know its "
            "format. Take that version or a later one."
        )
    if not _complete(checkpoint):
        raise UserError(f"{path} is not a whole checkpoint of lightning_gan: something in it is missing, or of another kind.")
    return checkpoint


def _check_archive(path: Path) -> None:
    """Refuse what torch would not have written, as small files that become large ones, and compare the checksums: it does not.

    Raises:
        zipfile.BadZipFile: it is that, or damaged; other errors too, if it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise zipfile.BadZipFile
            if member.external_attr & FOLDER_BIT:
                raise zipfile.BadZipFile
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise zipfile.BadZipFile
        if archive.testzip() is not None:
            raise zipfile.BadZipFile


def _complete(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint has what all readers of it take for granted."""
    record = checkpoint["lightning_gan"]
    networks = [record.get(name) for name in ("generator", "discriminator")]
    numbers = [checkpoint.get("global_step"), record.get("images_seen")]
    return (
        all(isinstance(network, dict) and set(network) == {"class_path", "init_args"} for network in networks)
        and all(isinstance(n["class_path"], str) and isinstance(n["init_args"], dict) for n in networks if n)
        and all(type(number) is int and number >= 0 for number in numbers)
        and isinstance(checkpoint["state_dict"], dict)
        and all(_is_held(tensor) for tensor in checkpoint["state_dict"].values())
        and isinstance(checkpoint.get("optimizer_states"), list)
        and len(checkpoint["optimizer_states"]) == 2
        and all(isinstance(checkpoint.get(name), dict) for name in ("callbacks", "loops"))
        and isinstance(record.get("changes", {}), dict)
    )


def _is_held(tensor: Any) -> bool:
    """Whether it is a tensor with all its numbers in the file: one number, repeated, could say that it is any size."""
    if not (isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_meta):
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


def newest(folder: Path) -> tuple[Path, dict[str, Any], list[tuple[Path, DamagedCheckpoint]]] | None:
    """Find the checkpoint to go on from: the last one of a run, or the one before it if the last is damaged.

    Args:
        folder: the run folder.

    Returns:
        The file, its content, and those that were passed over; None if there are no checkpoints.

    Raises:
        UserError: there are some, but none of them is whole.
    """
    passed_over: list[tuple[Path, DamagedCheckpoint]] = []
    for path in (folder / FOLDER / name for name in ("last.ckpt", PREVIOUS["last.ckpt"])):
        if path.exists():
            try:
                return path, read_checkpoint(path), passed_over
            except DamagedCheckpoint as error:
                passed_over.append((path, error))
    if passed_over:
        raise UserError(f"{' '.join(str(error) for _, error in passed_over)} There is no other to go on from.")
    return None
