"""Scores of images that any generator has made."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from torch import Tensor

from lightning_gan import scorecard
from lightning_gan.callbacks.evaluation import real_images, record_of
from lightning_gan.configuration import ConfigFile
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.metrics.extractors import Extractor, choose
from lightning_gan.metrics.reference import BATCH_SIZE
from lightning_gan.metrics.suite import Suite
from lightning_gan.options import ReadableErrors
from lightning_gan.quiet import silence_libraries
from lightning_gan.sample_files import open_samples
from lightning_gan.sampling import counted, find_device, progress


def evaluate(
    samples: Path,
    data: DataModule,
    extractor: Extractor | None = None,
    output: Path | None = None,
    device: str = "auto",
) -> None:
    """Score images that any generator has made: print a table, and write what it takes to get the same numbers again.

    Args:
        samples: .npz or .npy file, uint8 (N, H, W, C), or a folder of pictures.
        data: the images they are compared with.
        extractor: what they are compared by; null = Inception if its weights are at hand and the images have colours, else a
            classifier if they have labels, else a random network.
        output: file for the scores, by default SAMPLES.EXTRACTOR.scores.json; only older scores are replaced.
        device: such as cpu, cuda or cuda:1; auto takes the first GPU if there is one.

    Raises:
        UserError: the samples, the data or the extractor cannot be used.
    """
    started = time.monotonic()
    if output is not None:
        _check_output(output)
    file = open_samples(samples, data.image_shape)
    real = real_images(data)
    chosen, reason = choose(extractor, real)
    output = output or Path(f"{samples}.{chosen.name}.scores.json")
    _check_output(output)
    print(reason, flush=True)
    suite = Suite(chosen, real, find_device(device))
    with progress(len(file)) as bar:
        scores = suite.score(_numbered(counted(file.batches(BATCH_SIZE), bar)), len(file))
    floor = suite.floor(len(file))
    facts = {"source": str(samples), "source_sha256": file.digest}
    record = facts | record_of(suite, data, len(file)) | {"seconds": round(time.monotonic() - started, 1)}
    scorecard.publish(output, scores, floor, record)


def _check_output(path: Path) -> None:
    """Refuse to write scores over anything but older scores.

    Raises:
        UserError: there is something else at the path.
    """
    if not os.path.lexists(path):
        return
    try:
        scores = json.loads(path.read_text()) if path.is_file() else None
        taken = not (isinstance(scores, dict) and "scores" in scores)
    except (OSError, ValueError, RecursionError):
        taken = True
    if taken:
        raise UserError(f"{path} exists already, and does not hold scores. Name another --output, or remove it first.")


def _numbered(batches: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
    first = 0
    for images in batches:
        yield first, images
        first += len(images)


class _Parser(ReadableErrors, ArgumentParser):
    pass


class _DataOf(ConfigFile):
    def wanted(self, content: dict[str, Any]) -> dict[str, Any]:
        """Choose what a run's configuration says of the data and the extractor."""
        of_a_run = content.get("evaluation")
        found = {**(of_a_run if isinstance(of_a_run, dict) else {}), **content}
        return {name: found[name] for name in ("data", "extractor") if name in found}


def run(args: Sequence[str]) -> None:
    """Call `evaluate` with the options of `python -m lightning_gan evaluate`."""
    silence_libraries()
    parser = _Parser(prog="python -m lightning_gan evaluate", description=evaluate.__doc__, allow_abbrev=False)
    parser.add_argument(
        "-c", "--config", action=_DataOf, help="YAML file that names the data: conf/data/NAME.yaml, or a run's config.yaml."
    )
    parser.add_function_arguments(evaluate, as_positional=False)
    options = parser.instantiate_classes(parser.parse_args(list(args)))
    del options["config"]
    evaluate(**options)
