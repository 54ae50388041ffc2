"""What the scripts of `slurm/` make of a SLURM's moods, with a program that counts instead of training."""

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Pair, until

PYTHON = f"{sys.executable} {Path(__file__).with_name('stand_in.py')}"
TWO_NODES = ("--nodes", "2")


def scenario(play: Callable[[Pair], None]) -> Callable[[Mapping[Any, Future[None]]], None]:
    def test(outcomes: Mapping[Any, Future[None]]) -> None:
        outcomes[play].result()

    marked: Callable[[Mapping[Any, Future[None]]], None] = pytest.mark.slurm.with_args(play)(test)
    return marked


def start(pair: Pair, *arguments: str, script: str = "slurm/train.sbatch", **environment: str) -> tuple[str, Path]:
    """Submit a job that counts, and return its id and its run folder."""
    options = ("-c", "a file.yaml")
    job = pair.submit("--job-name", "count", *arguments, script, *options, PYTHON=PYTHON, **environment)
    return job, pair.folder / "runs" / "count" / job


def steps(run: Path) -> list[int]:
    return [int(line) for line in lines(run / "steps")]


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def wait_for_steps(pair: Pair, run: Path, number: int = 15) -> None:
    until(lambda: len(steps(run)) >= number, 60, lambda: f"step {number} of {run}\n{pair.output()}")


def ask_to_stop(pair: Pair, job: str) -> None:
    pair.cluster.call("scancel", "--signal", "USR1", job)


def check_went_on(run: Path) -> None:
    """Check that it counted to the end, and went back once, to what had been saved, unless that was the last step."""
    counted = steps(run)
    assert sorted(set(counted)) == [*range(1, 61)]
    back = [(before, after) for before, after in pairwise(counted) if after != before + 1]
    assert len(back) <= 1
    assert all(after <= before and after % 10 == 1 for before, after in back)


@scenario
def test_a_job_on_two_nodes_runs_to_its_end(pair: Pair) -> None:
    job, run = start(pair, *TWO_NODES)
    assert pair.wait(job)["JobState"] == "COMPLETED", pair.output()
    assert steps(run) == [*range(1, 61)]
    assert (run / "DONE").exists()
    trainer = "--trainer.devices 1 --trainer.num_nodes 2"
    assert lines(run / "starts") == [f"{pair.nodes[0]} -c a file.yaml --run_dir runs/count/{job} {trainer}"]


@scenario
def test_a_job_that_is_asked_to_stop_goes_on_where_it_was(pair: Pair) -> None:
    job, run = start(pair, *TWO_NODES)
    wait_for_steps(pair, run)
    ask_to_stop(pair, job)
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), pair.output()
    assert steps(run) == [*range(1, 61)]
    assert lines(run / "starts")[1].endswith(f"--resume runs/count/{job} --trainer.devices 1 --trainer.num_nodes 2")
    assert not (run / "REQUEUE").exists()


@scenario
def test_a_job_is_asked_to_stop_before_its_time_limit(pair: Pair) -> None:
    job, run = start(pair, "--time", "1", "--signal", "USR1@45", STEPS="700")  # 35 s, and the signal comes up to a minute early
    ended = pair.wait(job, 120)
    assert ended["JobState"] == "COMPLETED", pair.output()
    assert int(ended["Restarts"]) >= 1
    assert steps(run) == [*range(1, 701)]


@scenario
def test_a_job_that_must_stop_before_it_has_begun_is_started_again(pair: Pair) -> None:
    job, run = start(pair, STARTING="2")
    until(lambda: lines(run / "starts"), 30, lambda: "the start")
    ask_to_stop(pair, job)
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), pair.output()
    assert steps(run) == [*range(1, 61)]


@scenario
def test_a_run_that_was_done_gets_its_new_options_though_the_job_must_stop_before_it_has_begun(pair: Pair) -> None:
    job, run = start(pair, STEPS="20")
    assert pair.wait(job)["JobState"] == "COMPLETED", pair.output()

    job, _ = start(pair, STEPS="80", STARTING="2", RUN_DIR=str(run))
    until(lambda: len(lines(run / "starts")) == 2, 30, lambda: f"the start\n{pair.output()}")
    ask_to_stop(pair, job)
    wait_for_steps(pair, run, 35)
    ask_to_stop(pair, job)
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), pair.output()
    assert steps(run) == [*range(1, 81)]
    assert [f"--resume {run} -c a file.yaml" in line for line in lines(run / "starts")] == [False, True, True, False]


@scenario
def test_a_job_makes_way_for_a_more_important_one(pair: Pair) -> None:
    whole = (*TWO_NODES, "--cpus-per-task", "4")
    job, run = start(pair, *whole)
    wait_for_steps(pair, run)
    other = pair.submit("--partition", "high", *whole, "--wrap", "sleep 3")
    assert pair.wait(other)["JobState"] == "COMPLETED"
    assert not (run / "DONE").exists()
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), pair.output()
    assert steps(run) == [*range(1, 61)]


@scenario
def test_a_cancelled_job_stays_cancelled_and_can_be_gone_on_with(pair: Pair) -> None:
    job, run = start(pair, *TWO_NODES)
    wait_for_steps(pair, run)
    pair.cluster.call("scancel", job)
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), pair.output()
    counted = steps(run)
    assert len(counted) < 60

    job, _ = start(pair, *TWO_NODES, RUN_DIR=str(run))
    assert pair.wait(job)["JobState"] == "COMPLETED", pair.output()
    assert steps(run) == [*range(1, 61)]
    assert lines(run / "starts")[1].split(maxsplit=1)[1].startswith(f"--resume {run} -c a file.yaml")


@scenario
def test_a_job_moves_from_a_node_that_is_set_down(pair: Pair) -> None:
    job, run = start(pair)
    wait_for_steps(pair, run)
    node = pair.cluster.job(job)["NodeList"]
    pair.cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), pair.output()
    assert {node, ended["NodeList"]} == set(pair.nodes)
    assert [line.split()[0] for line in lines(run / "starts")] == [node, ended["NodeList"]]
    check_went_on(run)


@scenario
def test_a_job_survives_a_power_loss(pair: Pair) -> None:
    job, run = start(pair, *TWO_NODES)
    wait_for_steps(pair, run)
    node = pair.nodes[0]  # where the script and the first process run
    pair.cluster.power_off(node)
    until(lambda: "DOWN" in pair.cluster.call("scontrol", "show", "node", node), 90, lambda: f"{node} to be missed")
    pair.cluster.power_on(node)
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), pair.output()
    check_went_on(run)


@scenario
def test_one_task_of_an_array_is_requeued_alone(pair: Pair) -> None:
    job, runs = start(pair, "--array", "0-2", script="slurm/array.sbatch")
    wait_for_steps(pair, runs / "2")
    ask_to_stop(pair, f"{job}_2")
    ended = [pair.wait(f"{job}_{task}") for task in range(3)]
    assert [task["JobState"] for task in ended] == ["COMPLETED"] * 3, pair.output()
    assert [task["Restarts"] for task in ended] == ["0", "0", "1"]
    assert all(steps(runs / f"{task}") == [*range(1, 61)] for task in range(3))
    assert "-c a file.yaml --seed_everything 1 " in lines(runs / "1" / "starts")[0]


@scenario
def test_an_array_takes_its_options_from_the_lines_of_a_file(pair: Pair) -> None:
    options = pair.folder / "options"
    options.write_text("--max_images 1\n--name 'two words' --max_images 2\n\n# a comment\n--max_images 5 --name 'one\n")
    job, runs = start(pair, "--array", "1-5", script="slurm/array.sbatch", OPTIONS_FILE="options", STEPS="300")
    assert [pair.wait(f"{job}_{task}")["ExitCode"] for task in (3, 4, 5)] == ["2:0"] * 3, pair.output()
    wait_for_steps(pair, runs / "2")
    options.unlink()
    ask_to_stop(pair, f"{job}_2")
    assert [pair.wait(f"{job}_{task}")["ExitCode"] for task in (1, 2)] == ["0:0"] * 2, pair.output()
    assert all(steps(runs / f"{task}") == [*range(1, 301)] for task in (1, 2))
    assert "-c a file.yaml --max_images 1 " in lines(runs / "1" / "starts")[0]
    assert "-c a file.yaml --name two words --max_images 2 " in lines(runs / "2" / "starts")[0]
    assert all(f"options has no options in line {task}, or a quote" in pair.output() for task in (3, 4, 5))


@scenario
def test_an_environment_that_uv_does_not_have_ends_a_job(pair: Pair) -> None:
    (pair.folder / "uv").write_text("#!/bin/sh\nexit 1\n")
    (pair.folder / "uv").chmod(0o755)
    job = pair.submit("slurm/train.sbatch", PATH=f"{pair.folder}:{os.environ['PATH']}", PYTHON="")
    assert pair.wait(job)["ExitCode"] == "2:0", pair.output()
    assert f"uv has no python for job {job}" in pair.output()


@scenario
def test_the_script_hands_its_environment_on_where_sbatch_does_not(pair: Pair) -> None:
    job = pair.submit("--export", f"PYTHON={PYTHON},STEPS=2", "--job-name", "count", "slurm/train.sbatch")
    assert pair.wait(job)["JobState"] == "COMPLETED", pair.output()
    assert steps(pair.folder / "runs" / "count" / job) == [1, 2]


@scenario
def test_restarts_come_to_an_end(pair: Pair) -> None:
    job, run = start(pair, MAX_RESTARTS="0")
    wait_for_steps(pair, run)
    ask_to_stop(pair, job)
    ended = pair.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), pair.output()
    assert f"0 restarts are enough; to go on: RUN_DIR=runs/count/{job} sbatch, with its options as before, " in pair.output()
    assert (run / "REQUEUE").exists()
