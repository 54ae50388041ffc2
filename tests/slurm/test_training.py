"""Training in two processes on two nodes, through `slurm/train.sbatch`: what interrupts it does not change it."""

import csv
import shlex
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.slurm.cluster import PROJECT, Pair, until

TWO_NODES = ("--nodes", "2")
OPTIONS = [
    *("--data.image_size", "8", "--data.batch_size", "32", "--max_images", "12800"),  # 400 steps, in epochs of 53
    *("--model.generator.width", "4", "--model.discriminator.width", "4", "--trainer.accelerator", "cpu"),
    *("--evaluation.num_samples", "0", "--samples.every_images", "0", "--checkpoint.every_images", "640", "--wandb", "offline"),
    *("--trainer.log_every_n_steps", "10", "--trainer.enable_progress_bar", "false"),
]
SLOW = ["--trainer.callbacks+", "tests.slurm.slow.Slow"]


ENVIRONMENT = {"PYTHON": sys.executable, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def start(pair: Pair, *options: str, nodes: tuple[str, ...] = TWO_NODES) -> tuple[str, Path]:
    job = pair.submit("--job-name", "train", *nodes, "slurm/train.sbatch", *OPTIONS, *options, **ENVIRONMENT)
    return job, pair.folder / "runs" / "train" / job


def rows(run: Path) -> list[dict[str, str]]:
    if not (run / "metrics.csv").exists():
        return []
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def wait_for_steps(pair: Pair, run: Path) -> None:
    until(lambda: len(rows(run)) >= 17, 240, lambda: f"step 170\n{pair.output()}")


def end(pair: Pair, job: str, run: Path, restarts: int) -> Path:
    ended = pair.wait(job, 240)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", str(restarts)), pair.output()
    assert (run / "DONE").exists()
    assert (run / f"job-{job}.partial").exists()  # `fit` leaves it; without it a restart would take the run for another job's
    return run


def uninterrupted(pair: Pair) -> Path:
    return end(pair, *start(pair), restarts=0)


def requeued(pair: Pair) -> Path:
    """SLURM signals W&B's own processes, too."""
    job, run = start(pair, *SLOW)
    wait_for_steps(pair, run)
    name = (run / "wandb_id").read_text()
    pair.cluster.call("scancel", "--signal", "USR1", job)
    end(pair, job, run, restarts=1)
    assert (run / "wandb_id").read_text() == name
    assert "Traceback" not in pair.output(), pair.output()
    return run


def power_lost(pair: Pair) -> Path:
    job, run = start(pair, *SLOW)
    wait_for_steps(pair, run)
    node = pair.nodes[0]
    pair.cluster.power_off(node)
    until(lambda: "DOWN" in pair.cluster.call("scontrol", "show", "node", node), 90, lambda: f"{node} to be missed")
    pair.cluster.power_on(node)
    return end(pair, job, run, restarts=1)


def given_up(pair: Pair) -> Path:
    """A node that SLURM does not reach any more, and takes for dead, trains on while the run goes on elsewhere."""
    job, run = start(pair, *SLOW, nodes=())
    wait_for_steps(pair, run)
    node = pair.cluster.job(job)["NodeList"]
    pair.cluster.cut_off(node)
    assert pair.cluster.processes(node)
    end(pair, job, run, restarts=1)
    until(lambda: not pair.cluster.processes(node), 30, lambda: f"what {node} runs to end")
    return run


def by_hand(pair: Pair) -> str:
    """Two processes: srun starts one of them; and without it the first starts the other."""
    fit = shlex.join([sys.executable, "-m", "lightning_gan", "fit", *OPTIONS, "--max_images", "320", "--trainer.devices", "2"])
    commands = f"srun --ntasks 1 {fit} --run_dir srun; echo status $?; {fit} --run_dir own; echo status $?"
    pair.wait(pair.submit("--ntasks", "2", "--nodes", "1", "--wrap", commands, **ENVIRONMENT), 240)
    assert not (pair.folder / "srun").exists()
    return pair.output()


def different(one: Any, other: Any, path: str = "") -> list[str]:
    """List where two checkpoints differ in any bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        return [found for key in keys for found in different(one.get(key), other.get(key), f"{path}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            found for index, pair in enumerate(zip(one, other, strict=True)) for found in different(*pair, f"{path}.{index}")
        ]
    equal = torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    return [] if equal else [path]


@pytest.mark.slurm.with_args(uninterrupted, requeued, power_lost)
@pytest.mark.parametrize("interrupted", [requeued, power_lost])
def test_an_interrupted_training_is_the_uninterrupted_one(interrupted: Any, outcomes: Mapping[Any, Future[Path]]) -> None:
    whole, run = outcomes[uninterrupted].result(), outcomes[interrupted].result()
    one, other = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (whole, run))
    assert one["global_step"] == 400
    assert different(one, other) == []
    assert rows(whole) == rows(run)
    assert [int(row["step"]) for row in rows(whole)] == [*range(9, 400, 10)]


@pytest.mark.slurm.with_args(given_up)
def test_a_start_that_was_given_up_ends_and_writes_nothing_more(outcomes: Mapping[Any, Future[Path]]) -> None:
    run = outcomes[given_up].result()
    assert [int(row["step"]) for row in rows(run)] == [*range(9, 400, 10)]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 400


@pytest.mark.slurm.with_args(by_hand)
def test_without_srun_a_process_starts_the_others_and_with_it_the_numbers_must_agree(
    outcomes: Mapping[Any, Future[str]],
) -> None:
    output = outcomes[by_hand].result()
    refused, trained = output.split("status 2")
    takes = "That takes --trainer.devices 1 --trainer.num_nodes 1, not 2 and 1."
    assert f"error: srun has started this many tasks on each node: 1. {takes}" in refused
    assert "Trained on 320 images" in trained
    assert "status 0" in trained
