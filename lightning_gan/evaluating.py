"""Scores of images that any generator has made, and of a generator."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt
from torch import Tensor

from lightning_gan import scorecard
from lightning_gan.artefacts.trained import read_trained
from lightning_gan.callbacks.evaluation import real_images, record_of
from lightning_gan.commands import check_number, import_own
from lightning_gan.configuration import ConfigFile
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.metrics.extractors import Extractor, choose
from lightning_gan.metrics.reference import BATCH_SIZE
from lightning_gan.metrics.suite import Suite
from lightning_gan.networks.base import Generator
from lightning_gan.options import CommandParser
from lightning_gan.quiet import silence_libraries
from lightning_gan.randomness import batch_order, numbered_latents
from lightning_gan.sample_files import open_samples
from lightning_gan.sampling import counted, find_device, generate, progress


def evaluate(
    data: DataModule,
    samples: Path | None = None,
    ckpt_path: Path | None = None,
    num: PositiveInt = 50_000,
    seed: NonNegativeInt = 0,
    half_life: float | None = None,
    extractor: Extractor | None = None,
    output: Path | None = None,
    device: str = "auto",
    module: str | None = None,
) -> None:
    """Score images that any generator has made, or a generator: print a table, and write what it takes to get it again.

    Args:
        data: the images they are compared with.
        samples: .npz or .npy file, uint8 (N, H, W, C), or a folder of pictures.
        ckpt_path: in their place a checkpoint of a training run, or an exported generator, for the scores that `test` gives.
        num: images that the generator makes.
        seed: of its latents.
        half_life: of its average to take, in images, if its run kept further ones.
        extractor: what they are compared by; null = Inception if its weights are at hand and the images have colours, else a
            classifier if they have labels, else a random network.
        output: file for the scores, by default SAMPLES.EXTRACTOR.scores.json, or CKPT_PATH in the place of SAMPLES; only older
            scores are replaced.
        device: such as cpu, cuda or cuda:1; auto takes the first GPU if there is one.
        module: that defines the generator's class, where that is one of your own.

    Raises:
        UserError: the samples, the generator, the data or the extractor cannot be used.
    """
    started = time.monotonic()
    if (samples is None) == (ckpt_path is None):
        raise UserError("evaluate takes either --samples, made by any generator, or --ckpt_path, for a generator itself.")
    if output is not None:
        _check_output(output)
    chosen_device = find_device(device)
    if samples is not None:
        file = open_samples(samples, data.image_shape)
        num, batches = len(file), file.batches(BATCH_SIZE)
    else:
        assert ckpt_path is not None
        check_number(num)
        import_own(module)
        trained = read_trained(ckpt_path, half_life)
        batches = _generated(trained.generator.to(chosen_device), data, num, seed)
    real = real_images(data)
    chosen, reason = choose(extractor, real)
    source = ckpt_path if samples is None else samples
    if source is not None and not source.name.strip("."):  # . and .. are no names to put something behind
        source = source.resolve()
    output = output or Path(f"{source}.{chosen.name}.scores.json")
    _check_output(output)
    print(reason, flush=True)
    suite = Suite(chosen, real, chosen_device)
    with progress(num) as bar:
        scores = suite.score(_numbered(counted(batches, bar)), num)
    floor = suite.floor(num)
    if samples is not None:
        facts: dict[str, Any] = {"source": str(samples), "source_sha256": file.digest}
    else:
        facts = {"source": str(ckpt_path), "images_seen": trained.images_seen, "half_life": trained.half_life}
        facts["seed"] = seed
    record = facts | record_of(suite, data, num) | {"seconds": round(time.monotonic() - started, 1)}
    scorecard.publish(output, scores, floor, record)


def _generated(generator: Generator, data: DataModule, num: int, seed: int) -> Iterator[Tensor]:
    """Generate the images of `test`: (n, C, H, W) uint8, of a conditional generator with labels of training images.

    Raises:
        UserError: the data is not of the generator's kind.
    """
    if tuple(generator.image_shape) != data.image_shape:
        ours, theirs = ("x".join(map(str, shape)) for shape in (data.image_shape, generator.image_shape))
        raise UserError(f"The generator's images are of {theirs} and the data's of {ours}: name the data it was trained on.")
    if generator.num_classes not in (0, classes := len(data.class_names)):
        raise UserError(
            f"The generator has {generator.num_classes} classes and the data {classes}: name the data it was trained on."
        )
    _, labels = data.images("train")
    y = labels[batch_order(seed, 0, num, len(labels))] if generator.num_classes and labels is not None else None
    return generate(generator, partial(numbered_latents, generator.latents, seed), y, num, BATCH_SIZE)


def _check_output(path: Path) -> None:
    """Refuse to write scores over anything but older scores.

    Raises:
        UserError: there is something else at the path.
    """
    if not os.path.lexists(path):
        return
    try:
        scores = json.loads(path.read_text()) if path.is_file() else None
        taken = not (isinstance(scores, dict) and {"scores", "held_out_real"} <= scores.keys())  # an export has the former
    except (OSError, ValueError, RecursionError):
        taken = True
    if taken:
        raise UserError(f"{path} exists already, and does not hold scores. Name another --output, or remove it first.")


def _numbered(batches: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
    first = 0
    for images in batches:
        yield first, images
        first += len(images)


class _DataOf(ConfigFile):
    def wanted(self, content: dict[str, Any]) -> dict[str, Any]:
        """Choose what a run's configuration says of the data and the extractor."""
        of_a_run = content.get("evaluation")
        found = {**(of_a_run if isinstance(of_a_run, dict) else {}), **content}
        return {name: found[name] for name in ("data", "extractor") if name in found}


def run(args: Sequence[str]) -> None:
    """Call `evaluate` with the options of `python -m lightning_gan evaluate`."""
    silence_libraries()
    about, _, _ = (evaluate.__doc__ or "").partition("\n")
    parser = CommandParser(prog="python -m lightning_gan evaluate", description=about, allow_abbrev=False)
    parser.add_argument(
        "-c", "--config", action=_DataOf, help="YAML file that names the data: conf/data/NAME.yaml, or a run's config.yaml."
    )
    parser.add_function_arguments(evaluate, as_positional=False)
    options = parser.instantiate_classes(parser.parse_args(list(args)))
    del options["config"]
    evaluate(**options)
