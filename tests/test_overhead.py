from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from lightning_gan.callbacks import Acceleration
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN
from lightning_gan.overhead import EACH_STEP, NoProfiler, pass_over_idle_hooks

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]


class Busy(Callback):
    def __init__(self) -> None:
        self.called: list[str] = []

    def on_after_backward(self, *_: Any) -> None:
        self.called.append("on_after_backward")

    def on_train_batch_end(self, *_: Any) -> None:
        self.called.append("on_train_batch_end")


def test_hooks_that_do_something_are_called_and_no_others(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    busy = Busy()
    callbacks = [Acceleration(), busy]
    make_trainer(max_steps=2, callbacks=callbacks, enable_checkpointing=False, profiler=NoProfiler()).fit(make_gan(), digits)
    assert busy.called == ["on_after_backward", "on_after_backward", "on_train_batch_end"] * 2
    assert [hook for hook in EACH_STEP if getattr(busy, hook) is not None] == ["on_after_backward", "on_train_batch_end"]


def test_hooks_of_a_parent_count() -> None:
    class Child(Busy):
        pass

    child = Child()
    pass_over_idle_hooks([child])
    child.on_train_batch_end()
    assert child.called == ["on_train_batch_end"]


def test_a_module_takes_notes_and_still_knows_its_parts(make_gan: MakeGAN) -> None:
    gan = make_gan()
    gan._current_fx_name = "training_step"
    gan.extra = torch.nn.Parameter(torch.zeros(1))
    assert gan._current_fx_name == "training_step"
    assert "extra" in dict(gan.named_parameters())
    assert "_current_fx_name" not in gan.state_dict()
