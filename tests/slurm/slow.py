"""What gives a test the time to interrupt a run: it is quick until there is something to lose, and after a restart."""

import os
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Slow(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= 150 and "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(1)
