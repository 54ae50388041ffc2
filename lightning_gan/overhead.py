"""What Lightning does in each step, made cheaper: for small networks it takes as long as the step itself."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.profilers import PassThroughProfiler

EACH_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""Hooks that are called in each step, some of them twice."""


class NoProfiler(PassThroughProfiler):
    """Does nothing, without Lightning's own generator for each of the hundred and more things in a step that it would time."""

    NOTHING = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # which is less general
        return self.NOTHING


class LeanModule(LightningModule):
    """Takes Lightning's notes of the hook that it is in, of which there are forty a step, for no parameters."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def pass_over_idle_hooks(callbacks: Iterable[Callback]) -> None:
    """Have Lightning call only those hooks of each step that do something."""
    for callback in callbacks:
        for hook in EACH_STEP:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)  # it calls what can be called
