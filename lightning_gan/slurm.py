"""How processes are started under SLURM."""

import os

from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from lightning_gan.errors import UserError

SPECIAL_STEPS = 0xFFFFFFF0
"""From here on the numbers of job steps are not srun's: a batch script, an interactive shell, ..."""


def under_slurm() -> bool:
    return "SLURM_JOB_ID" in os.environ


def environment(devices: int | str | list[int], num_nodes: int) -> ClusterEnvironment | None:
    """Tell Lightning how the processes of a run are started; None outside SLURM, where it finds out itself.

    Inside a step of `srun` they have been started, one for each device. In a batch script or an interactive shell without srun
    they have not: left to itself, Lightning would take this one for the first of many and wait for ever. Its requeueing stays
    off: it saves in the middle of a step (see `StopOnSignal`).

    Args:
        devices: the trainer's: the number of processes on each node.
        num_nodes: the trainer's.

    Raises:
        UserError: srun has started another number of processes, or is needed to start them.
    """
    if not under_slurm() or TorchElasticEnvironment.detect():
        return None
    if not _in_srun_step():
        if num_nodes > 1:
            raise UserError(f"--trainer.num_nodes {num_nodes} needs srun before the command, as in slurm/train.sbatch.")
        return LightningEnvironment()
    tasks, nodes = os.environ["SLURM_STEP_TASKS_PER_NODE"], os.environ["SLURM_STEP_NUM_NODES"]
    if tasks != f"{_number(devices)}" + (f"(x{num_nodes})" if num_nodes > 1 else ""):
        raise UserError(
            f"srun has started this many tasks on each node: {tasks}. That takes --trainer.devices {tasks.partition('(')[0]} "
            f"--trainer.num_nodes {nodes}, not {devices} and {num_nodes}."
        )
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(_number(devices)))  # Lightning insists, even if --ntasks said the same
    return SLURMEnvironment(auto_requeue=False)


def _in_srun_step() -> bool:
    """Tell srun's processes from those of a shell that it may have started (`srun --pty bash`)."""
    step = int(os.environ.get("SLURM_STEP_ID", SPECIAL_STEPS))
    return step < SPECIAL_STEPS and "SLURM_PTY_PORT" not in os.environ


def _number(devices: int | str | list[int]) -> int | str:
    """Count devices; the number stays unknown of "auto"."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([device for device in devices.split(",") if device])
    return devices
