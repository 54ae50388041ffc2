"""Trained generators as files: in a training checkpoint, or exported to a folder. Either may come from a stranger."""

import json
import sys
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_gan import __version__
from lightning_gan.checkpoints import FOLDER, read_checkpoint
from lightning_gan.ema import in_words
from lightning_gan.errors import UserError
from lightning_gan.networks.base import Generator, build

WEIGHTS = "generator.safetensors"
CONFIG = "config.json"
FORMAT = 1
"""Of an export's `config.json`; a version of this project reads its own and older ones."""
MAX_CONFIG = 2**24
"""Bytes; that of a thousand classes has some ten thousand."""


@dataclass(frozen=True)
class Trained:
    """A generator and what is known of it.

    Attributes:
        generator: averaged, in evaluation mode, without gradients, on the CPU.
        half_life: of the average, in images, where it is one of the run's further ones; None for the first.
        class_names: as many as the generator is told apart.
        data: `description` and `fingerprint` of the training data, as far as they are known.
        discriminator: record of the network that it was trained against.
    """

    generator: Generator
    images_seen: int
    half_life: float | None
    class_names: list[str]
    data: dict[str, str]
    discriminator: dict[str, Any]


def read_trained(path: str | Path, half_life: float | None = None) -> Trained:
    """Read the averaged generator of a training checkpoint, or an exported one.

    Args:
        path: a checkpoint, the folder of an export, or the `generator.safetensors` in it.
        half_life: that of one of the run's further averages, in images; None = the first one, or the one that was exported.

    Raises:
        UserError: there is no such thing, it is damaged, of something else or a newer version's, or has no such average.
    """
    path = Path(path)
    if path.is_dir():
        return _of_export(path / WEIGHTS, half_life)
    return _of_export(path, half_life) if path.suffix == ".safetensors" else _of_checkpoint(path, half_life)


def _of_checkpoint(path: Path, half_life: float | None) -> Trained:
    checkpoint = read_checkpoint(path)
    prefix = "average.generator." if half_life is None else f"further_averages.{in_words(half_life)}.generator."
    state = {name.removeprefix(prefix): x for name, x in checkpoint["state_dict"].items() if name.startswith(prefix)}
    if half_life is not None and not state:
        further = {name.split(".")[1] for name in checkpoint["state_dict"] if name.startswith("further_averages.")}
        known = f"those of {', '.join(sorted(further))} images" if further else "none"
        raise UserError(f"There is no average with a half-life of {half_life:g} images: of further ones {path} holds {known}.")
    record = checkpoint["lightning_gan"]
    generator = _rebuilt(record["generator"], state, path, exactly=False)
    names = record.get("class_names")
    if not (_are_names(names) and len(names) == generator.num_classes):  # unconditional, or an older version's
        names = [str(number) for number in range(generator.num_classes)]
    identity = record.get("data")
    known_data = {"description": record.get("description")}
    known_data |= {"fingerprint": identity.get("fingerprint") if isinstance(identity, dict) else None}
    data = {name: value for name, value in known_data.items() if isinstance(value, str)}
    return Trained(generator, record["images_seen"], half_life, names, data, record["discriminator"])


def _of_export(path: Path, half_life: float | None) -> Trained:
    config = read_config(path.parent)
    if half_life is not None and half_life != config["half_life"]:
        holds = "the run's first average" if config["half_life"] is None else f"that of {config['half_life']:g} images"
        raise UserError(f"There is no average with a half-life of {half_life:g} images: {path.parent} holds {holds}.")
    state = _read_weights(path)
    record = config["generator"]
    if isinstance(shape := record["init_args"].get("image_shape"), list):  # JSON has no tuples
        record = record | {"init_args": record["init_args"] | {"image_shape": tuple(shape)}}
    generator = _rebuilt(record, state, path, exactly=True)
    with path.open("rb") as file:
        if file_digest(file, "sha256").hexdigest() != config["sha256"]:
            raise UserError(f"{path} is damaged, or not the one that its {CONFIG} was written for.")
    if wrong := [name for name, x in state.items() if x.is_floating_point() and not x.isfinite().all()]:
        raise UserError(f"{path} holds values that are not finite, in {wrong[0]}.")
    if len(config["class_names"]) != generator.num_classes:
        raise UserError(f"{path.parent / CONFIG} names {len(config['class_names'])} classes for {generator.num_classes}.")
    names = ("images_seen", "half_life", "class_names", "data", "discriminator")
    return Trained(generator, **{name: config[name] for name in names})


def read_config(folder: Path) -> dict[str, Any]:
    """Read what an export says of itself, and check that it has what all readers of it take for granted.

    Raises:
        UserError: it is missing, damaged, of something else or a newer version's.
    """
    path = folder / CONFIG
    try:
        if not path.is_file():
            last = folder / FOLDER / "last.ckpt"
            hint = f" For the run in it, name a checkpoint such as {last}." if last.exists() else ""
            raise UserError(f"{folder} is not an exported generator: there is no {CONFIG} in it.{hint}")
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, or not that of an exported generator.") from error
    if not (isinstance(config, dict) and type(config.get("format")) is int and "lightning_gan" in config):
        raise UserError(f"{path} is not that of a generator exported by lightning_gan.")
    if config["format"] > FORMAT:
        version = shown(config["lightning_gan"], 20)
        raise UserError(
            f"{path} was written by lightning_gan {version}, and this is {__version__}, which does not know its format. Take "
            "that version or a later one."
        )
    if not _complete(config):
        raise UserError(f"{path} is not whole: something in it is missing, or of another kind.")
    return config


def _complete(config: dict[str, Any]) -> bool:
    half_life, data = config.get("half_life"), config.get("data")
    return (
        _is_record(config.get("generator"))
        and _is_record(config.get("discriminator"))
        and type(config.get("images_seen")) is int
        and config["images_seen"] >= 0
        and (half_life is None or (type(half_life) in (int, float) and 0 <= half_life <= sys.float_info.max))
        and _are_names(config.get("class_names"))
        and isinstance(data, dict)
        and _are_names([*data.values()])
        and isinstance(config.get("sha256"), str)
    )


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and set(record) == {"class_path", "init_args"}
        and isinstance(record["class_path"], str)
        and isinstance(record["init_args"], dict)
    )


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors, which take no memory before they are looked at: the file is mapped, and says nothing that it has not."""
    from safetensors import SafetensorError, safe_open  # a checkpoint does not need it

    if not path.is_file():  # to open a pipe is to wait for somebody to write to it
        raise UserError(f"There is no {path}.")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged, or not a file of safetensors.") from error


def _rebuilt(record: dict[str, Any], state: dict[str, Tensor], path: Path, exactly: bool) -> Generator:
    """Build a generator from its record and give it its values.

    Args:
        exactly: refuse values of other types than its own.

    Raises:
        UserError: the two do not belong together, or not to this version of the code.
    """
    try:
        if record["class_path"].startswith("lightning_gan."):  # others may need their values to be built
            with torch.device("meta"), _Valueless():  # what does not fit takes no memory, whatever size it says it is
                _fill(build(record), {name: x.to("meta") for name, x in state.items()}, exactly)
        generator = build(record)
        _fill(generator, state, exactly)
        if not isinstance(generator, Generator):
            raise ValueError(f"{type(generator).__name__} is not a generator")
        sizes = [*generator.image_shape, generator.num_classes + 1]
        if len(sizes) != 4 or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"no images are of shape {generator.image_shape}, with {generator.num_classes} classes")
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise UserError(f"The generator in {path} does not fit this version of its code: {_shortened(error)}") from error
    return generator.eval().requires_grad_(False)


def _fill(network: torch.nn.Module, state: dict[str, Tensor], exactly: bool) -> None:
    if exactly:
        known = network.state_dict()
        for name, x in state.items():
            if name in known and x.dtype != known[name].dtype:
                raise ValueError(f"{name} is of {x.dtype} and must be of {known[name].dtype}")
    network.load_state_dict(state)


class _Valueless(TorchFunctionMode):
    """Leaves tensors as they are where networks would draw their first values.

    On the meta device there are none to draw, and for the look of it torch would import its compiler: a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return torch.empty(*args, **kwargs) if func is torch.randn else func(*args, **kwargs)


def _shortened(error: Exception) -> str:
    """Give the head and the first of the many lines that torch has to say."""
    return shown(" ".join(" ".join(str(error).splitlines()[:2]).split()))


def shown(text: Any, length: int = 300) -> str:
    """Write what may come from a stranger so that a terminal does nothing but show it."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:length]) + "..." * (len(str(text)) > length)
