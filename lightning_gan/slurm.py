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
TASKS_PER_NODE = "SLURM_STEP_TASKS_PER_NODE"
"""Names a variable like `4`, `4(x2)` or `4,3`."""
COUNTED_BY_SRUN = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_NODES", TASKS_PER_NODE)


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
        UserError: srun has started another number of processes, or is needed to start them, or its variables are not whole.
    """
    traces = under_slurm() or "SLURM_NTASKS" in os.environ  # by which Lightning would tell
    if not traces or TorchElasticEnvironment.detect():
        return None
    if not _in_srun_step():
        if num_nodes > 1:
            raise UserError(f"--trainer.num_nodes {num_nodes} needs srun before the command, as in slurm/train.sbatch.")
        return LightningEnvironment()
    for variable in COUNTED_BY_SRUN:
        if not (value := os.environ.get(variable, "")).isdecimal() and not (value and variable == TASKS_PER_NODE):
            raise UserError(
                f"srun is said to have started this process, but {variable} is '{value}' in the environment: start it with "
                "srun, or without SLURM_STEP_ID."
            )
    tasks, nodes = os.environ[TASKS_PER_NODE], os.environ["SLURM_STEP_NUM_NODES"]
    if tasks != f"{_number(devices)}" + (f"(x{num_nodes})" if num_nodes > 1 else ""):
        raise UserError(
            f"srun has started this many tasks on each node: {tasks}. That takes --trainer.devices {tasks.partition('(')[0]} "
            f"--trainer.num_nodes {nodes}, not {devices} and {num_nodes}."
        )
    os.environ["SLURM_NTASKS_PER_NODE"] = str(_number(devices))  # Lightning insists; it may be that of the allocation
    return SLURMEnvironment(auto_requeue=False)


def _in_srun_step() -> bool:
    """Tell srun's processes from those of a shell that it may have started (`srun --pty bash`)."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < SPECIAL_STEPS and "SLURM_PTY_PORT" not in os.environ


def _number(devices: int | str | list[int]) -> int | str:
    """Count devices; the number stays unknown of "auto"."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([device for device in devices.split(",") if device])
    return devices
