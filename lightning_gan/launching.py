"""How many processes train together, who starts them, and how."""

import os
from typing import Any

from lightning_fabric.plugins.environments import TorchElasticEnvironment

from lightning_gan import slurm
from lightning_gan.errors import UserError
from lightning_gan.strategy import GANStrategy, SynchronizedBatchNorm


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
        local, every = (_number_from(variable) for variable in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        if (devices, num_nodes) in ((1, 1), ("1", 1)):  # torchrun knows
            devices, num_nodes = local, every // local
    arguments: dict[str, Any] = {"devices": devices, "num_nodes": num_nodes}
    plugins: list[Any] = [environment] if (environment := slurm.environment(devices, num_nodes)) else []
    if devices in (1, "1") and num_nodes == 1:
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
    if not value.isdecimal() or int(value) < 1:
        raise UserError(
            f"torchrun is said to have started this process, but {variable} is '{value}' in the environment: start it with "
            "torchrun, or without TORCHELASTIC_RUN_ID."
        )
    return int(value)
