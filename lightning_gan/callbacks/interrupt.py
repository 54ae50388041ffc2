"""Ctrl-C that loses nothing."""

import os
import signal
import threading
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

MESSAGE = b"\nStopping after this step, or this evaluation, with everything saved; once more stops at once.\n"


class StopOnInterrupt(Callback):
    """Ends training after the current step at the first Ctrl-C, as if it were complete; a second one stops it at once.

    Lightning alone would stop in mid-step, where nothing can be saved. With several processes it still does: they would have to
    agree on the step.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or threading.current_thread() is not threading.main_thread():
            return

        def stop(*_: Any) -> None:
            self.interrupted = trainer.should_stop = True
            self._restore()
            os.write(2, MESSAGE)  # which print, in a handler, is not safe for

        self._previous = signal.signal(signal.SIGINT, stop)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
