"""How processes are started, told by the variables that SLURM 22.05 sets; the real one is asked in tests/slurm."""

import os
from pathlib import Path

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from lightning_gan.errors import UserError
from lightning_gan.slurm import environment, under_slurm

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}
STEP = JOB | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "0"}
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
