"""Signals that end training between two steps, with everything saved."""

import os
import signal
import threading
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.distributed import ReduceOp, all_reduce

from lightning_gan.processes import several


class StopOnSignal(Callback):
    """Ends training after a step, as if it were complete, on Ctrl-C, `kill` or the scheduler's notice.

    A handler only takes a note, wherever training happens to be. A single process looks at it after each step. Several
    processes agree on the strongest of their notes after every `AGREE_EVERY`-th, so that all stop at the same step, though one
    may have got a signal alone, or each in another step. (Lightning's own handlers save, or broadcast, from where the signal
    lands, and deadlock if that is not the same place in all processes.)

    Before training starts, a signal has its usual effect and ends the process at once: there is nothing to save, and what an
    earlier start has saved stays as it is. After the last step there is nothing to stop: the final evaluation is finished.

    Attributes:
        received: the signal that training stopped on, the same in all processes, or None.
    """

    SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    """Heeded signals. If processes got different ones the last of these is what they agree on: a user's word counts most."""

    AGREE_EVERY = 10
    """Steps between agreements: one costs a message and, on a GPU, waiting for the step, up to 2 ms; ten steps soon pass."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._noted = 0  # the strongest signal so far, counted from 1 in SIGNALS
        self._previous: dict[signal.Signals, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may have handlers
            self._previous = {number: signal.getsignal(number) for number in self.SIGNALS}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # Lightning has installed its own by now
        def note(number: int, _: Any) -> None:
            received = signal.Signals(number)
            self._noted = max(self._noted, 1 + self.SIGNALS.index(received))
            if received == signal.SIGINT:
                self._restore(received)  # the second one is not for us
            if trainer.is_global_zero:
                os.write(2, _message(received))  # for which print, in a handler, is not safe

        for number in self._previous:
            signal.signal(number, note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        noted = self._noted
        if several():
            if trainer.global_step % self.AGREE_EVERY:
                return
            strongest = torch.tensor(noted, device=pl_module.device)
            all_reduce(strongest, ReduceOp.MAX)
            noted = int(strongest)
        if noted:
            self.received = self.SIGNALS[noted - 1]
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore(*self.SIGNALS)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore(*self.SIGNALS)

    def _restore(self, *signals: signal.Signals) -> None:
        for number in signals:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))


def stopped_by(trainer: Trainer) -> signal.Signals | None:
    """Tell the signal that training stops on, if it does: who sent it does not want to wait."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
    return next((callback.received for callback in callbacks if isinstance(callback, StopOnSignal)), None)


def _message(received: signal.Signals) -> bytes:
    once_more = "; once more stops at once" if received == signal.SIGINT else ""
    return f"\n{received.name}: stopping after this step, or this evaluation, with everything saved{once_more}.\n".encode()
