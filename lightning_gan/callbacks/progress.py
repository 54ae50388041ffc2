"""A progress bar that counts images."""

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from lightning_gan.gan import GAN


class ImagesProgressBar(ProgressBar):
    """Shows images seen of how many, images per second, time left, both losses, and the last FID beside its floor."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._enabled = True

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        steps, seen = trainer.max_steps - trainer.global_step, pl_module.images_seen
        batch_size = trainer.datamodule.batch_size  # type: ignore[attr-defined]  # a connector sets it
        self._bar = tqdm(
            desc="images",
            total=seen + steps * batch_size if trainer.max_steps > 0 else None,
            initial=seen,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file needs no line every half second
            disable=not (self._enabled and trainer.is_global_zero),
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GAN)
        assert self._bar is not None
        if self._bar.update(pl_module.images_seen - self._bar.n):  # it was redrawn: fetch the losses for the next time
            losses = {name[5]: f"{scalar:.2f}" for name, scalar in pl_module.scalars.items() if name.startswith("loss/")}
            scores = {name: f"{value:.3g}" for name, value in trainer.callback_metrics.items() if _is_distance(name)}
            self._bar.set_postfix(losses | scores, refresh=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()


def _is_distance(name: str) -> bool:
    return name.startswith("fid") and "_se" not in name and "/" not in name
