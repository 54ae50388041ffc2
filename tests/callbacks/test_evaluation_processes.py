"""A run of two processes on the CPU, from the command line, and one process that looks at its checkpoints.

Each process acts on the scores it is told: were they not the very same, one would save a checkpoint or stop without the other.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_gan import scorecard
from lightning_gan.__main__ import main
from lightning_gan.callbacks import Evaluation
from lightning_gan.gan import GAN
from lightning_gan.metrics.names import logged_name
from lightning_gan.metrics.suite import Suite

HERE = Path(__file__).resolve()
SAMPLES = 300  # batches of 128, 128 and 44: one process makes the first and the last, the other the one between
ONE_BATCH = 100  # for which the second process has nothing to make
OPTIONS = [
    *("--data.image_size", "8", "--data.batch_size", "64", "--max_images", "5120", "--wandb", "off", "--run_dir", "run"),
    *("--model.generator", "lightning_gan.networks.MLPGenerator", "--model.ema_half_life", "500"),
    *("--model.discriminator", "lightning_gan.networks.MLPDiscriminator"),
    *("--model.generator_optimizer.init_args.lr", "2e-3", "--model.discriminator_optimizer.init_args.lr", "2e-3"),
    *(
        "--evaluation.every_images",
        "2560",
        "--evaluation.num_samples",
        str(SAMPLES),
        "--evaluation.test_samples",
        str(ONE_BATCH),
    ),
    *("--evaluation.extractor", "lightning_gan.metrics.extractors.Classifier", "--evaluation.extractor.images", "5_000"),
    *("--evaluation.extractor.min_accuracy", "0", "--samples.every_images", "0"),
    *("--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "20"),
    *("--trainer.enable_progress_bar", "false", "--health.min_coverage", "0", "--health.max_duplicates", "1"),
    *("--health.min_modes", "0"),
    *("--trainer.callbacks+", f"tests.callbacks.{HERE.stem}.Witness"),
]
ALONE = ["--trainer.devices", "1", "--trainer.callbacks", "null"]


class Witness(Callback):
    """Writes down, in each process, which images it scores and what scores it is told."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = Suite.score
        self.evaluations: list[dict[str, Any]] = []

        def watched(suite: Suite, samples: Iterable[tuple[int, Tensor]], num: int) -> dict[str, float]:
            numbers: list[int] = []

            def watch() -> Iterator[tuple[int, Tensor]]:
                for first, images in samples:
                    numbers.extend(range(first, first + len(images)))
                    yield first, images

            scores = score(suite, watch(), num)
            self.evaluations.append({"numbers": numbers, "scores": scores})
            return scores

        Suite.score = watched  # type: ignore[method-assign,assignment]  # this process is for nothing else

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        (evaluation,) = [c for c in trainer.callbacks if isinstance(c, Evaluation)]  # type: ignore[attr-defined]
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        of_one_batch, _, _ = evaluation._evaluate(trainer, pl_module, pl_module.average, ONE_BATCH, evaluation.seed)
        told = {
            "world_size": trainer.world_size,
            "evaluations": self.evaluations,
            "metrics": {name: value for name, value in metrics.items() if name.endswith("_classifier") or name[:2] == "d_"},
            "best": evaluation.state_dict(),
            "of_one_batch": of_one_batch,
        }
        Path(f"witness{trainer.global_rank}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once for all tests, by a command that starts its second process itself."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[2]), "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("w") as output:  # not a pipe: one that hangs must not keep us waiting for the other
        command = [sys.executable, "-m", "lightning_gan", "fit", *OPTIONS]
        run = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=180)
    assert run.returncode == 0, (folder / "output.txt").read_text()
    return folder


@pytest.fixture
def witnesses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"witness{rank}.json").read_text()) for rank in range(2)]


def evaluation_rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "fid_classifier" in row]


def test_both_processes_are_told_the_very_same(witnesses: list[dict[str, Any]]) -> None:
    one, other = witnesses
    assert one["world_size"] == other["world_size"] == 2
    assert [e["scores"] for e in one["evaluations"]] == [e["scores"] for e in other["evaluations"]]
    assert one["metrics"] == other["metrics"]  # these include what D says, which the suite does not know of
    assert {"fid_classifier", "fid_floor_classifier", "d_gap", "d_accuracy"} <= one["metrics"].keys()
    assert one["best"] == other["best"]
    assert one["of_one_batch"] == other["of_one_batch"]


def test_together_they_score_each_image_once(witnesses: list[dict[str, Any]]) -> None:
    shares = [[evaluation["numbers"] for evaluation in witness["evaluations"]] for witness in witnesses]
    sizes = [[len(numbers) for numbers in share] for share in shares]
    assert sizes == [[172, 172, 100], [128, 128, 0]]
    for one, other in zip(*shares, strict=True):
        assert sorted(one + other) == list(range(len(one) + len(other)))


def test_each_row_is_written_once(folder: Path, witnesses: list[dict[str, Any]]) -> None:
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    training = [row for row in rows if row["loss/generator"]]
    scored = [row for row in rows if row["fid_classifier"]]
    assert len(training) + len(scored) == len(rows)
    assert [float(row["images_seen"]) for row in training] == [1280, 2560, 3840, 5120]
    assert [float(row["images_seen"]) for row in scored] == [2560, 5120]
    for row, evaluation in zip(scored, witnesses[0]["evaluations"], strict=False):
        for name, value in evaluation["scores"].items():
            assert float(row[logged_name(name, "classifier")]) == value, name


def test_there_is_one_best_checkpoint_that_of_the_best_row(folder: Path, witnesses: list[dict[str, Any]]) -> None:
    checkpoints = folder / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    best_row = min(evaluation_rows(folder), key=lambda row: row["fid_classifier"])
    best = torch.load(checkpoints / "best.ckpt", weights_only=True)
    assert best["lightning_gan"]["images_seen"] == best_row["images_seen"]
    state = witnesses[0]["best"]
    assert (state["value"], state["images_seen"]) == (best_row["fid_classifier"], best_row["images_seen"])


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_one_process_scores_the_checkpoint_as_two_did(
    checkpoint: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[dict[str, float], dict[str, float], dict[str, Any]]] = []

    def table(*result: Any) -> str:
        told.append(result)
        return ""

    monkeypatch.setattr(scorecard, "table", table)
    monkeypatch.chdir(tmp_path)
    path = folder / "run" / "checkpoints" / f"{checkpoint}.ckpt"
    assert main(["validate", "-c", str(folder / "run" / "config.yaml"), *ALONE, "--ckpt_path", str(path)]) == 0
    ((scores, floor, record),) = told
    (row,) = (row for row in evaluation_rows(folder) if row["images_seen"] == record["images_seen"])
    assert record["samples"] == SAMPLES
    assert {"fid", "kid", "coverage", "copy_rate", "duplicates", "label_kl", "modes", "d_gap", "d_accuracy"} <= scores.keys()
    for name, value in scores.items():
        assert row[logged_name(name, "classifier")] == pytest.approx(value, rel=1e-12), name
    assert row["fid_floor_classifier"] == pytest.approx(floor["fid"], rel=1e-9)
    for name in ("fid", "score", "density", "precision", "coverage", "d_gap"):
        assert scores[name] != 0, name  # or little would have been compared


def test_a_process_without_images_agrees_too(
    folder: Path, witnesses: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = folder / "run" / "checkpoints" / "last.ckpt"
    copy = str(shutil.copy(path, tmp_path))  # beside it, `test` writes
    assert main(["test", "-c", str(folder / "run" / "config.yaml"), *ALONE, "--ckpt_path", copy]) == 0
    record = json.loads((tmp_path / f"last.{ONE_BATCH}-classifier.scores.json").read_text())
    assert record["samples"] == ONE_BATCH
    of_one_batch = {logged_name(name, "classifier"): value for name, value in witnesses[0]["of_one_batch"].items()}
    assert of_one_batch == pytest.approx(record["scores"], rel=1e-9)  # of one batch, whose sums round alike in any process
