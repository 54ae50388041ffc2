"""What a checkpoint says of the GAN that it holds, and what another GAN takes over from it."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from lightning_gan import __version__
from lightning_gan.checkpoints import FORMAT
from lightning_gan.errors import UserError
from lightning_gan.networks.base import build

if TYPE_CHECKING:
    from lightning_gan.gan import GAN


@dataclass(frozen=True)
class Changes:
    """What rollbacks have changed so far, which holds for the rest of the training.

    Args:
        rollbacks: how many there were.
        learning_rate: factor of both learning rates.
        penalty: factor of the weights of D's penalties.
        reseeded: which of the rollbacks gave training another seed the last; 0 = none.
    """

    rollbacks: int = 0
    learning_rate: float = 1.0
    penalty: float = 1.0
    reseeded: int = 0


def record_of(gan: "GAN") -> dict[str, Any]:
    data = gan.trainer.datamodule  # type: ignore[attr-defined]  # a connector sets it
    return {
        "version": __version__,
        "format": FORMAT,
        "processes": gan.trainer.world_size,
        "data": getattr(data, "identity", {}),
        "description": getattr(data, "description", ""),
        "class_names": getattr(data, "class_names", [])[: gan.generator.num_classes],
        "images_seen": gan.images_seen,
        "seed": gan.seed,
        "changes": asdict(gan.changes),
        "scalars": gan.latest(),
        "generator": gan.generator.record,
        "discriminator": gan.discriminator.record,
        "optimizers": _optimizers(gan),
    }


def check_fits(gan: "GAN", checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint of other networks, or of other parts that keep something from step to step.

    Raises:
        UserError: the checkpoint's networks were built differently, or its optimizers, penalties, augmentation or averages
            are others.
    """
    record, way_out = checkpoint["lightning_gan"], "Start from the run's own configuration with -c RUN/config.yaml."
    for name, ours in {"generator": gan.generator.record, "discriminator": gan.discriminator.record}.items():
        theirs = record[name]
        try:
            with torch.device("meta"):  # what an older version did not know has its default
                known = build(theirs).record if theirs["class_path"] == ours["class_path"] else theirs
        except ValueError:  # nothing can be built from it
            known = theirs
        if known != ours:
            raise UserError(f"The checkpoint's {name} is {_call(theirs)}, but the configuration's is {_call(ours)}. {way_out}")
    optimizers = _optimizers(gan)
    if (saved := record.get("optimizers", optimizers)) != optimizers:
        raise UserError(
            f"The checkpoint's optimizers of D and G are {' and '.join(saved)}, but the configuration's are "
            f"{' and '.join(optimizers)}. {way_out}"
        )
    ours, theirs = ({name: x.shape for name, x in state.items()} for state in (gan.state_dict(), checkpoint["state_dict"]))
    if others := sorted(name for name, _ in ours.items() ^ theirs.items()):
        part, _, _ = others[0].rpartition(".")
        option = "further_half_lives" if part.startswith("further_averages.") else part
        raise UserError(f"The checkpoint's and the configuration's model.{option} differ. {way_out}")


def take_over(gan: "GAN", checkpoint: dict[str, Any]) -> None:
    """Take over what is neither a weight nor an optimizer's state, and keep the optimizers' settings as the user has them now.

    Raises:
        UserError: the checkpoint is another GAN's.
    """
    check_fits(gan, checkpoint)
    record = checkpoint["lightning_gan"]
    gan.images_seen = record["images_seen"]
    gan.scalars = {name: torch.tensor(value) for name, value in record.get("scalars", {}).items()}
    try:
        changes = Changes(**record.get("changes", {}))
    except TypeError as error:
        raise UserError(f"The checkpoint's record of rollbacks cannot be read: {error}.") from error
    if changes.rollbacks >= gan.changes.rollbacks:  # if not, this is a rollback to before them
        gan.changes = changes
    for state, configured in zip(checkpoint["optimizer_states"], gan.configure_optimizers(), strict=True):
        for saved, group in zip(state["param_groups"], configured.param_groups, strict=True):
            saved.update({name: value for name, value in group.items() if name != "params"})
            for index, parameter in zip(saved["params"], group["params"], strict=True):
                _lay_out(state["state"].get(index, {}), parameter)


def _lay_out(state: dict[str, Any], parameter: torch.Tensor) -> None:
    """Give an optimizer's state the parameter's layout in memory: fused kernels take it for granted, and do not look."""
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            state[name] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _optimizers(gan: "GAN") -> list[str]:
    return [type(optimizer).__name__ for optimizer in gan.configure_optimizers()]


def _call(record: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in record["init_args"].items())
    return f"{record['class_path'].rpartition('.')[2]}({arguments})"
