"""How processes are started, told by the variables that SLURM 22.05 sets; the real one is asked in tests/slurm."""

import os
from pathlib import Path

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from lightning_gan.errors import UserError
from lightning_gan.slurm import environment, under_slurm

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}
JOB |= {"SLURM_NODEID": "0", "SLURM_LOCALID": "0"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
ONE_NODE = STEP | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}


@pytest.fixture(autouse=True)
def nothing_of_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")  # which the call may set: put back at the end
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun on it, of whose being unused Lightning would warn


def under(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_outside_slurm_lightning_finds_out_itself() -> None:
    assert environment(2, 1) is None
    assert not under_slurm()


@pytest.mark.parametrize(
    ("variables", "devices", "num_nodes"),
    [(STEP, 2, 2), (STEP, "2", 2), (STEP, [0, 1], 2), (STEP, "0,1", 2), (STEP, "0,1,", 2), (ONE_NODE, 2, 1)],
)
def test_srun_has_started_a_process_for_each_device(
    variables: dict[str, str], devices: int | str | list[int], num_nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    under(monkeypatch, variables)
    slurm = environment(devices, num_nodes)
    assert isinstance(slurm, SLURMEnvironment)
    assert slurm.creates_processes_externally
    assert not slurm.auto_requeue
    assert slurm.world_size() == 2 * num_nodes
    assert under_slurm()


def test_srun_may_start_fewer_processes_than_the_allocation_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, STEP | {"SLURM_NTASKS_PER_NODE": "4"})
    slurm = environment(2, 2)
    assert slurm is not None
    slurm.validate_settings(num_devices=2, num_nodes=2)


@pytest.mark.parametrize("value", ["", "x"])
@pytest.mark.parametrize("variable", ["SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_TASKS_PER_NODE"])
def test_variables_that_srun_would_not_have_left_like_that_are_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    under(monkeypatch, STEP | {variable: value})
    with pytest.raises(UserError, match=f"{variable} is '{value}'|started this many tasks on each node: x"):
        environment(2, 2)
    monkeypatch.delenv(variable)
    with pytest.raises(UserError, match=f"{variable} is ''"):
        environment(2, 2)


@pytest.mark.parametrize(
    ("variables", "devices", "num_nodes", "words"),
    [
        (STEP, 1, 2, r"each node: 2\(x2\)\. .* --trainer\.devices 2 --trainer\.num_nodes 2, not 1 and 2"),
        (STEP, 4, 1, "not 4 and 1"),
        (STEP, "auto", 2, "not auto and 2"),
        (STEP, -1, 2, "not -1 and 2"),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, 2, 2, "each node: 3,1"),
        (ONE_NODE, 1, 1, r"each node: 2\. .* --trainer\.devices 2 --trainer\.num_nodes 1, not 1 and 1"),
        (ONE_NODE, 2, 2, "not 2 and 2"),
    ],
)
def test_another_number_of_processes_is_refused(
    variables: dict[str, str], devices: int | str, num_nodes: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    under(monkeypatch, variables)
    with pytest.raises(UserError, match=words):
        environment(devices, num_nodes)


@pytest.mark.parametrize(
    "variables",
    [
        JOB,  # a batch script, or salloc
        JOB | {"SLURM_STEP_ID": "4294967290"},  # salloc, where it starts a shell on the node
        JOB | {"SLURM_STEP_ID": "batch"},
        {"SLURM_NTASKS": "x"},  # left over
        ONE_NODE | {"SLURM_PTY_PORT": "40000"},  # srun --pty bash
    ],
)
def test_without_srun_a_process_starts_its_own(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, variables)
    local = environment(2, 1)
    assert isinstance(local, LightningEnvironment)
    assert not local.creates_processes_externally
    with pytest.raises(UserError, match=r"--trainer\.num_nodes 2 needs srun before the command"):
        environment(1, 2)


def test_torchrun_counts_before_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, STEP | {"TORCHELASTIC_RUN_ID": "1"})
    assert environment(1, 2) is None
