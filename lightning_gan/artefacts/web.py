"""The web page that runs a generator: one file, which a browser opens without a server or a network."""

import gzip
import json
import logging
import os
import re
import shutil
import subprocess
from base64 import b64encode
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lightning_gan.errors import UserError
from lightning_gan.files import written_aside

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_gan.networks.base import Generator

RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""Of the files of onnxruntime-web those that run a model on the CPU, one script and one WebAssembly module."""
LIMIT = 2**28
"""Bytes of an ONNX file; browsers hold no string twice as long, and a page of this size already asks for patience."""
DIRECTIONS = 10
PROBES = 64
"""Enough: of a generator of MNIST they give directions that change images as much as those of 8192 do."""
BATCH = 16

logger = logging.getLogger(__name__)


def write(folder: Path, config: dict[str, Any], onnx: Path) -> Path:
    """Write `index.html` into the folder of an export.

    Args:
        folder: with the exported generator in it.
        config: the content of its `config.json`.
        onnx: the generator as an ONNX file.

    Returns:
        The page.

    Raises:
        UserError: the generator is too large, or onnxruntime-web cannot be had.
        OSError: the page cannot be written.
    """
    if onnx.stat().st_size > LIMIT:
        raise UserError(f"{onnx.name} is larger than the {LIMIT // 2**20} MiB that a web page can hold: leave out --web.")
    script, wasm = runtime()
    from lightning_gan.sampling import read_generator

    generator = read_generator(folder)
    sources = files(__package__) / "web"
    parts = {
        "title": escape(_title(config, generator)),
        "style": (sources / "style.css").read_text(encoding="utf-8"),
        "facts": _json(_facts(config, generator)),
        "runtime": _packed(script),
        "wasm": _packed(wasm),
        "model": _packed(onnx),
        "latents": (sources / "latents.js").read_text(encoding="utf-8"),
        "page": (sources / "page.js").read_text(encoding="utf-8"),
    }
    template = (sources / "index.html").read_text(encoding="utf-8")
    path = folder / "index.html"
    with written_aside(path) as aside:
        aside.write_text(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template), encoding="utf-8")
    return path


def _title(config: dict[str, Any], generator: "Generator") -> str:
    family = type(generator).__name__.removesuffix("Generator")
    data, _, _ = config["data"].get("description", "").partition(":")
    return f"{family} trained on {data}" if data else family


def _facts(config: dict[str, Any], generator: "Generator") -> dict[str, Any]:
    """Say what the page needs to know."""
    from lightning_gan.networks.base import StyleGenerator

    return {
        "image_shape": list(generator.image_shape),
        "latent_dim": generator.latent_dim,
        "latent_distribution": generator.latent_distribution,
        "styles": isinstance(generator, StyleGenerator),
        "class_names": config["class_names"],
        "directions": [[round(x, 6) for x in row] for row in directions(generator).tolist()],
        "images_seen": config["images_seen"],
        "data": config["data"].get("description", "unknown"),
        "licence": config["licence"],
        "lightning_gan": config["lightning_gan"],
        "onnxruntime_web": version(),
    }


def directions(generator: "Generator", count: int = DIRECTIONS, probes: int = PROBES) -> "Tensor":
    """Find the directions of z that change images most, on average over latents and classes.

    They are the eigenvectors of the mean of J'J with the largest eigenvalues, where J is the derivative of all pixels by z: the
    active subspace of Constantine et al. 2014. For u of standard normal values E[uu'] = 1, so that E[(J'u)(J'u)'] = E[J'J].

    Args:
        count: how many; there are no more than numbers in z.
        probes: how many z and u to average over.

    Returns:
        Orthonormal rows, (count, latent_dim).
    """
    import torch

    rng = torch.Generator().manual_seed(0)
    rows: list[torch.Tensor] = []
    for start in range(0, probes, BATCH):
        z = generator.latents(BATCH, rng).requires_grad_()
        y = torch.arange(start, start + BATCH) % generator.num_classes if generator.num_classes else None
        images = generator(z, y)
        rows += torch.autograd.grad(images, z, torch.randn(images.shape, generator=rng))  # J'u: (BATCH, latent_dim)
    basis: torch.Tensor = torch.linalg.svd(torch.cat(rows), full_matrices=False).Vh[:count]
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return basis * largest.sign()  # an eigenvector may as well be its opposite


def _packed(path: Path) -> str:
    """Give a file as text: compressed, as Base64."""
    return b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()


def _json(facts: dict[str, Any]) -> str:
    """Write JSON that cannot end the element of HTML that it stands in."""
    return json.dumps(facts).replace("<", r"\u003c")


def version() -> str:
    """Say which version of onnxruntime-web the page is written for."""
    package = json.loads((files(__package__) / "web" / "package.json").read_text(encoding="utf-8"))
    return str(package["dependencies"]["onnxruntime-web"])


def runtime() -> tuple[Path, Path]:
    """Give the script and the WebAssembly module of onnxruntime-web, which npm installs into the cache if they are not there.

    Raises:
        UserError: they are not, and npm cannot install them or the cache cannot be written to.
    """
    from lightning_gan.data.cache import default_folder

    folder = default_folder() / f"onnxruntime-web-{version()}"
    script, wasm = (folder / name for name in RUNTIME)
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                if not folder.exists():
                    _install(folder)
    except OSError as error:
        raise UserError(
            f"The web page's runtime cannot be kept in {folder.parent}: {error.strerror}. "
            "Choose a folder that can be written to with the environment variable LIGHTNING_GAN_CACHE."
        ) from error
    for path in (script, wasm):
        if not path.is_file():
            raise UserError(f"The web page's runtime is not whole, as {path} is missing: remove the folder {folder}.")
    return script, wasm


def _install(target: Path) -> None:
    """Let npm fetch the package, and keep of its 148 MB what is needed."""
    npm = shutil.which("npm")
    way_out = f"or copy {target} from a machine where --web true has worked"
    if npm is None:
        raise UserError(f"--web true fetches onnxruntime-web with npm, which is not there: install Node.js, {way_out}.")
    logger.warning("Fetching onnxruntime-web %s with npm, once.", version())
    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)  # left by one that was killed; the lock is held
    try:
        folder.mkdir()
        shutil.copyfile(str(files(__package__) / "web" / "package.json"), folder / "package.json")
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--no-update-notifier"]
        environment = {"npm_config_fetch_retries": "1"} | os.environ  # it would try for more than a minute
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
        kept, package = folder / "kept", folder / "node_modules" / "onnxruntime-web"
        kept.mkdir()
        try:
            if done.returncode:
                raise FileNotFoundError
            for name in RUNTIME:
                (package / "dist" / name).rename(kept / name)
        except FileNotFoundError:
            reason = re.search(r"npm (?:ERR!|error) (.+)", done.stderr)
            said = reason[1] if reason else f"status {done.returncode}"
            raise UserError(
                f"npm could not install onnxruntime-web {version()} ({said}): see that it reaches its registry, {way_out}."
            ) from None
        kept.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
