"""One training at a time in a run folder."""

import time
from typing import Any

from pytorch_lightning import Callback, Trainer

from lightning_gan.run_folder import Claim


class StopWhenStartedAnew(Callback):
    """Ends a training that goes on though its run has been started anew elsewhere, as on a node that a cluster has given up.

    Checkpoints and rows of `metrics.csv` ask for the claim by themselves; this sees to what else would be written, and to it
    that training does not go on until the next of them.
    """

    EVERY = 5.0
    """Seconds between looks at a small file."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._looked_at = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero and time.monotonic() - self._looked_at > self.EVERY:
            self._looked_at = time.monotonic()
            self.claim.check()
