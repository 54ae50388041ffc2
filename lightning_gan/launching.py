"""How many processes train together, who starts them, and how."""

import os
from typing import Any

from lightning_fabric.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_gan import slurm
from lightning_gan.errors import UserError
from lightning_gan.strategy import GANStrategy, SynchronizedBatchNorm

TORCHRUN = ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
"""What torchrun tells the processes that it starts, in numbers."""


def launch(config: Any) -> tuple[dict[str, Any], list[Any]]:
    """Choose what several processes need: nothing if there is one.

    Args:
        config: the trainer's options.

    Returns:
        Arguments of the trainer, and its plugins.

    Raises:
        UserError: another strategy is asked for, or SLURM was asked for another number of processes.
    """
    devices, num_nodes = config.devices, config.num_nodes
    if TorchElasticEnvironment.detect():
        local, every, *_ = (_number_from(variable) for variable in TORCHRUN)
        if (devices, num_nodes) in ((1, 1), ("1", 1)):  # torchrun knows
            devices, num_nodes = local, every // local
        elif (str(devices), num_nodes) not in ((str(local), every // local), ("auto", every // local)):
            raise UserError(
                f"torchrun has started {every} processes, {local} on each machine, and not --trainer.devices {devices} "
                f"--trainer.num_nodes {num_nodes}: leave these out."
            )
    arguments: dict[str, Any] = {"devices": devices, "num_nodes": num_nodes}
    plugins: list[Any] = [environment] if (environment := slurm.environment(devices, num_nodes)) else []
    if devices in (1, "1") and num_nodes == 1:
        if rank := getattr(rank_zero_only, "rank", 0):
            raise UserError(
                f"RANK, LOCAL_RANK or SLURM_PROCID in the environment say that this is process {rank} of several, and it was "
                "to be one alone: unset them, or start it with torchrun or srun."
            )
        return arguments, plugins
    if num_nodes > 1 and not plugins and not TorchElasticEnvironment.detect():
        raise UserError(f"--trainer.num_nodes {num_nodes} needs torchrun or srun to start the processes: see docs/clusters.md.")
    if config.strategy not in ("auto", "ddp"):
        raise UserError(f"--trainer.strategy {config.strategy} cannot train two networks in turn: leave it out.")
    if config.sync_batchnorm:
        plugins.append(SynchronizedBatchNorm())
    return arguments | {"strategy": GANStrategy()}, plugins


def _number_from(variable: str) -> int:
    value = os.environ.get(variable, "")
    if not value.isdecimal() or (int(value) < 1 and variable.endswith("SIZE")):
        raise UserError(
            f"torchrun is said to have started this process, but {variable} is '{value}' in the environment: start it with "
            "torchrun, or without TORCHELASTIC_RUN_ID."
        )
    return int(value)
