"""Going back to where training was well, with something changed."""

from typing import Any

from pytorch_lightning import LightningDataModule, Trainer

from lightning_gan.callbacks.checkpoint import best_checkpoint, checkpoint_to_keep
from lightning_gan.callbacks.health import Health, TrainingCollapsed, TrainingDiverged, alert
from lightning_gan.checkpoints import read_checkpoint
from lightning_gan.gan import GAN
from lightning_gan.processes import from_first
from lightning_gan.record import Changes
from lightning_gan.wandb_run import wandb_loggers


def fit_with_rollbacks(trainer: Trainer, gan: GAN, datamodule: LightningDataModule, health: Health, **kwargs: Any) -> None:
    """Train as `trainer.fit` does, and go back when training diverges or collapses, as often as `health` allows.

    Args:
        kwargs: `ckpt_path` and the like, for `trainer.fit`.

    Raises:
        TrainingDiverged: it diverged and may not, or cannot, go back any more.
    """
    while True:
        try:
            return trainer.fit(gan, datamodule, **kwargs)
        except (TrainingDiverged, TrainingCollapsed) as failure:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]  # as Lightning does after anything but an exception
                callback.teardown(trainer, gan, "fit")
            find = best_checkpoint if isinstance(failure, TrainingCollapsed) else checkpoint_to_keep
            path = from_first(lambda find=find: find(trainer), gan.device)  # type: ignore[misc]  # bound here, used here
            changes, number = gan.changes, gan.changes.rollbacks + 1
            if number > health.rollbacks or path is None or trainer.should_stop:
                raise
            gan.changes = Changes(
                rollbacks=number,
                learning_rate=changes.learning_rate * health.learning_rate_factor,
                penalty=changes.penalty * health.penalty_factor,
                reseeded=number if health.new_seed else changes.reseeded,
            )
            checkpoint = read_checkpoint(path)
            images_seen = checkpoint["lightning_gan"]["images_seen"]
            text = (
                f"{failure} Rollback {number} of {health.rollbacks}: back to {path}, after "
                f"{images_seen:,} images, with learning rates times {gan.changes.learning_rate:g}, "
                f"D's penalties times {gan.changes.penalty:g} and {'another' if health.new_seed else 'the same'} seed."
            )
            if trainer.is_global_zero:
                print(text, flush=True)
            alert(trainer, "rollback", text, gan.images_seen)
            for logger in wandb_loggers(trainer):
                logger.go_back(trainer.global_step - checkpoint["global_step"])
            kwargs |= {"ckpt_path": path, "weights_only": True}
