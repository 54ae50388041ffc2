"""What `slurm/sweep.sbatch` makes of a sweep, with programs that take the places of training and of W&B's agent."""

import sys
from pathlib import Path

from tests.slurm.cluster import Pair
from tests.slurm.test_scheduling import TWO_NODES, ask_to_stop, lines, scenario, steps, wait_for_steps

PYTHON = f"{sys.executable} {Path(__file__).with_name('sweep_stand_in.py')}"


@scenario
def test_a_task_is_one_run_of_the_sweep_and_goes_on_with_it(pair: Pair) -> None:
    (pair.folder / "s.yaml").touch()
    arguments = ("s.yaml", "--", "--name", "two words")
    job = pair.submit("--array", "0-1", "slurm/sweep.sbatch", *arguments, PYTHON=PYTHON)
    run = pair.folder / "sweep" / "1"
    wait_for_steps(pair, run)
    ask_to_stop(pair, f"{job}_1")
    ended = [pair.wait(f"{job}_{task}") for task in range(2)]
    assert [(task["JobState"], task["Restarts"]) for task in ended] == [("COMPLETED", "0"), ("COMPLETED", "1")], pair.output()
    assert all(steps(pair.folder / "sweep" / task) == [*range(1, 61)] for task in "01")
    first, second = lines(run / "starts")
    assert "-c a file.yaml -- --name two words --run_dir sweep/1 --trainer.devices 1" in first
    assert "--resume sweep/1 --trainer.devices 1" in second

    job = pair.submit("--array", "1", "slurm/sweep.sbatch", *arguments, PYTHON=PYTHON)
    assert pair.wait(f"{job}_1")["JobState"] == "COMPLETED", pair.output()
    assert "task 1 has come to its end already" in pair.output()
    assert len(lines(run / "starts")) == 2


@scenario
def test_an_agents_run_gets_all_processes_and_is_requeued_without_another_agent(pair: Pair) -> None:
    job = pair.submit("--job-name", "count", *TWO_NODES, "--array", "3", "slurm/sweep.sbatch", "me/gan/abc", PYTHON=PYTHON)
    run = pair.folder / "runs" / "count" / job / "3"
    wait_for_steps(pair, run)
    ask_to_stop(pair, f"{job}_3")
    ended = pair.wait(f"{job}_3")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), pair.output()
    assert steps(run) == [*range(1, 61)]
    assert lines(pair.folder / "agents") == ["3"]
    first, second = lines(run / "starts")
    assert "-c a file.yaml --model.x=1 --run_dir" in first
    assert "--trainer.devices 1 --trainer.num_nodes 2" in first
    assert "--resume" in second
