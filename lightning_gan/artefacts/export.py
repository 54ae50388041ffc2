"""The command `export`: a trained generator as a folder to hand on."""

import importlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import file_digest
from importlib.util import find_spec
from itertools import dropwhile, islice, takewhile
from pathlib import Path
from typing import Any

from lightning_gan import __version__, commands
from lightning_gan.errors import UserError
from lightning_gan.files import sync
from lightning_gan.first_look import check_there
from lightning_gan.run_folder import CONFIG as RUN_CONFIG

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
COLUMNS = 8
ROWS = 8
MAX_CLASS_ROWS = 16


def export(
    ckpt_path: Path,
    output: Path,
    half_life: float | None = None,
    licence: str = "unknown",
    onnx: bool | None = None,
    web: bool = False,
    module: str | None = None,
) -> None:
    """Write the averaged generator of a checkpoint as a folder that others can use and need not trust: it is nothing but data.

    It holds the generator (generator.safetensors, config.json and generator.onnx), a model card with scores (README.md), a
    picture (samples.png), and on demand a web page (index.html).

    Args:
        ckpt_path: a checkpoint of a training run, such as RUN/checkpoints/best.ckpt.
        output: a new folder.
        half_life: of the average to take, in images, if the run kept further ones.
        licence: under which others may use the generator, such as mit or cc-by-4.0.
        onnx: whether to write the generator for other runtimes, too; null = if the packages onnx, onnxscript and onnxruntime
            are installed.
        web: whether to write a page that runs the generator in a browser.
        module: that defines the generator's class, where that is one of your own.

    Raises:
        UserError: the checkpoint cannot be exported, or the folder not be written.
    """
    commands.check_new(output, file=False)
    if not (licence.strip() and licence.isprintable() and len(licence) <= 200):
        raise UserError("--licence takes the name of one on a line, such as mit or cc-by-4.0.")
    check_there("--ckpt_path", ckpt_path)
    if ckpt_path.is_dir() or ckpt_path.suffix == ".safetensors":
        raise UserError(f"{ckpt_path} is an export, or no checkpoint at all: --ckpt_path takes a checkpoint of a training run.")
    if web and onnx is False:
        raise UserError("--web true runs the generator's ONNX file, which --onnx false leaves out.")
    lacking = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if lacking and (onnx or web):
        option = "--onnx true" if onnx else "--web true"
        raise UserError(f"{option} needs the {_packages(lacking)} (pip install {' '.join(lacking)}).")
    if web:
        from lightning_gan.artefacts import web as page

        page.runtime()
    commands.import_own(module)
    try:
        with _folder_aside(output) as aside:
            report = _write(aside, ckpt_path, half_life, licence, onnx is not False and not lacking, web)
    except OSError as error:
        raise UserError(f"{output} could not be written: {error.strerror or error}.") from error
    print("\n".join(report))
    if lacking and onnx is None:
        print(f"generator.onnx was left out: it needs the {_packages(lacking)} (pip install {' '.join(lacking)}).")
    print(f"The generator is in {output}")


def _write(folder: Path, ckpt_path: Path, half_life: float | None, licence: str, onnx: bool, web: bool) -> list[str]:
    """Write the files of an export, and say what they are."""
    import torch
    from safetensors.torch import save

    from lightning_gan.artefacts.card import card
    from lightning_gan.artefacts.trained import CONFIG, FORMAT, WEIGHTS, read_trained
    from lightning_gan.sampling import NotFinite

    trained = read_trained(ckpt_path, half_life)
    generator = trained.generator
    state = {name: x.contiguous().clone() for name, x in generator.state_dict().items()}  # tied ones one by one
    if not all(x.isfinite().all() for x in state.values() if x.is_floating_point()):
        raise NotFinite
    (folder / WEIGHTS).write_bytes(save(state, {"format": "pt"}))
    _draw(folder / "samples.png", trained)
    report = [f"{WEIGHTS}: {type(generator).__name__} after {trained.images_seen:,} images, {_size(folder / WEIGHTS)}"]
    checked = None
    if onnx:
        from lightning_gan.artefacts import onnx_file

        checked = onnx_file.write(folder / "generator.onnx", generator)
        batches = ", ".join(map(str, checked["batch_sizes"]))
        report.append(
            f"generator.onnx: opset {checked['opset']}, {_size(folder / 'generator.onnx')}, differs from PyTorch by at most "
            f"{checked['largest_difference']:.2g} (batches of {batches}; black to white is 2)"
        )
    scored = _scores_of(ckpt_path, trained)
    config = {
        "format": FORMAT,
        "lightning_gan": __version__,
        "generator": generator.record,
        "discriminator": trained.discriminator,
        "sha256": _digest(folder / WEIGHTS),
        "images_seen": trained.images_seen,
        "half_life": trained.half_life,
        "class_names": trained.class_names,
        "data": trained.data,
        "scores": scored[0] if scored else None,
        "licence": licence,
        "onnx": checked,
        "versions": {name: importlib.import_module(name).__version__ for name in ("torch", *ONNX_PACKAGES * onnx)},
    }
    try:
        content = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UserError(f"{type(generator).__name__} was built from what JSON cannot hold ({error}).") from error
    (folder / CONFIG).write_text(content, encoding="utf-8")
    config = json.loads(content)  # as others will read it
    (folder / "README.md").write_text(card(config, generator, scored, _recipe(ckpt_path), web), encoding="utf-8")
    if web:
        from lightning_gan.artefacts import web as page

        written = page.write(folder, config, folder / "generator.onnx")
        report.append(f"{written.name}: {_size(written)}, for a browser")
    scores = f"scores of {scored[0]['samples']:,} images" if scored else "no scores"
    report.append(f"README.md: {scores}, licence {licence}")
    back = read_trained(folder).generator
    assert all(torch.equal(x, state[name]) for name, x in back.state_dict().items())
    return report


def _draw(path: Path, trained: Any) -> None:
    """Draw a grid of images; each row of a conditional generator is one class."""
    from functools import partial

    import torch
    from PIL import Image

    from lightning_gan.images import grid
    from lightning_gan.randomness import numbered_latents
    from lightning_gan.sampling import generate

    generator = trained.generator
    rows = min(generator.num_classes, MAX_CLASS_ROWS) or ROWS
    y = torch.arange(rows).repeat_interleave(COLUMNS) if generator.num_classes else None
    latents = partial(numbered_latents, generator.latents, 0)
    images = torch.cat(list(generate(generator, latents, y, rows * COLUMNS, batch_size=64)))
    Image.fromarray(grid(images, COLUMNS)).save(path)


def _scores_of(ckpt_path: Path, trained: Any) -> list[dict[str, Any]]:
    """Find scores of this very generator in its run: of each extractor those of most images, and those of most images first."""
    from lightning_gan.artefacts.card import table_of
    from lightning_gan.checkpoints import FOLDER

    files = sorted(ckpt_path.parent.glob("*.scores.json"))
    if ckpt_path.parent.name == FOLDER:
        files.append(ckpt_path.parent.parent / "scores.json")
    found = []
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            del record["source"]  # a path on this machine
            table_of(record)
            scored = record["images_seen"], record["half_life"], record["real"]["fingerprint"]
            if scored == (trained.images_seen, trained.half_life, trained.data.get("fingerprint", scored[2])):
                found.append(record)
        except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
            continue  # another kind of file
    found.sort(key=lambda record: record["samples"])
    best = {record["extractor"]["digest"]: record for record in found}
    return sorted(best.values(), key=lambda record: -record["samples"])


def _recipe(ckpt_path: Path) -> str:
    """Cut the section `model` out of the run's configuration; the others hold paths on this machine."""
    from lightning_gan.checkpoints import FOLDER

    if ckpt_path.parent.name != FOLDER:  # it is no longer in its run, and what is above it may be anybody's
        return ""
    try:
        lines = (ckpt_path.parent.parent / RUN_CONFIG).read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, ValueError):
        return ""
    sections = dropwhile(lambda line: line != "model:\n", lines)
    return "".join([*islice(sections, 1), *takewhile(lambda line: line.startswith(" "), sections)])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _packages(names: list[str]) -> str:
    return f"package{'s' * (len(names) > 1)} {' and '.join(', '.join(names).rsplit(', ', 1))}"


@contextmanager
def _folder_aside(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` to fill, which takes its place if all goes well, and is gone if not."""
    folder = Path(os.path.realpath(folder))
    aside = folder.with_name(f".{folder.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
        yield aside
        for file in aside.iterdir():
            sync(file)
        with suppress(OSError):  # some file systems do not do that for folders
            sync(aside)
        aside.rename(folder)  # over an empty one
        with suppress(OSError):
            sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def run(options: Sequence[str]) -> None:
    """Call `export` with the options of `python -m lightning_gan export`."""
    commands.run(export, options)
