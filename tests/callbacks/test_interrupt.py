"""Signals that end training between two steps."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_gan.callbacks import StopOnSignal
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN

USR1, TERM, INT = signal.SIGUSR1, signal.SIGTERM, signal.SIGINT
NOTHING: Any = None


def send(*signals: signal.Signals) -> None:
    for number in signals:
        signal.raise_signal(number)  # not os.kill: another thread might take it, and two become one before this one looks


class InStep(Callback):
    """Does something in the middle of a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step:
            self.act()


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in StopOnSignal.SIGNALS]


@pytest.mark.parametrize("sent", [(USR1,), (TERM,), (INT,), (INT, TERM), (USR1, INT), (TERM, USR1)])
def test_training_ends_after_the_step_of_the_signal(
    sent: tuple[signal.Signals, ...],
    make_trainer: Callable[..., Trainer],
    make_gan: Callable[..., GAN],
    digits: DataModule,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stop, before = StopOnSignal(), handlers()
    trainer = make_trainer(callbacks=[stop, InStep(2, lambda: send(*sent))], max_steps=30)
    trainer.fit(make_gan(), digits)
    assert trainer.global_step == 3
    assert stop.received == max(sent, key=[USR1, TERM, INT].index)  # a user's word counts most
    assert handlers() == before
    said = capfd.readouterr().err
    assert {number for number in (USR1, TERM, INT) if f"{number.name}: stopping" in said} == set(sent)
    assert ("once more stops at once" in said) == (INT in sent)


def test_a_second_ctrl_c_stops_at_once(
    make_trainer: Callable[..., Trainer], make_gan: Callable[..., GAN], digits: DataModule
) -> None:
    found = signal.signal(INT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
    try:
        before = handlers()
        trainer = make_trainer(callbacks=[StopOnSignal(), InStep(2, lambda: send(INT, INT))], max_steps=30)
        with pytest.raises(SystemExit) as stopped:
            trainer.fit(make_gan(), digits)
        assert isinstance(stopped.value.__context__, KeyboardInterrupt)
        assert trainer.global_step == 2
        assert handlers() == before
    finally:
        signal.signal(INT, found)


def test_training_that_fails_puts_the_handlers_back(
    make_trainer: Callable[..., Trainer], make_gan: Callable[..., GAN], digits: DataModule
) -> None:
    def fail() -> None:
        raise ArithmeticError

    before = handlers()
    with pytest.raises(ArithmeticError):
        make_trainer(callbacks=[StopOnSignal(), InStep(2, fail)], max_steps=30).fit(make_gan(), digits)
    assert handlers() == before


def test_a_signal_after_the_last_step_leaves_a_run_complete(
    make_trainer: Callable[..., Trainer], make_gan: Callable[..., GAN], digits: DataModule
) -> None:
    class AtTheEnd(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            send(USR1, TERM)

    stop = StopOnSignal()
    make_trainer(callbacks=[stop, AtTheEnd()], max_steps=3).fit(make_gan(), digits)
    assert stop.received is None


def take_part(rank: int, folder: str, plans: list[dict[int, list[tuple[int, signal.Signals]]]]) -> None:
    """Go through steps 1, 2, ... for each plan, which is the signals that each rank gets in which of them."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    outcomes = []
    for plan in plans:
        trainer = cast(Trainer, SimpleNamespace(should_stop=False, global_step=0, is_global_zero=rank == 0))
        module = cast(LightningModule, SimpleNamespace(device=torch.device("cpu")))
        stop = StopOnSignal()
        stop.setup(trainer, module, "fit")
        stop.on_train_start(trainer, module)
        while not trainer.should_stop and trainer.global_step < 40:
            trainer.global_step += 1  # type: ignore[misc]  # it is none
            send(*(number for step, number in plan.get(rank, []) if step == trainer.global_step))
            stop.on_train_batch_end(trainer, module, NOTHING, NOTHING, 0)
        stop.teardown(trainer, module, "fit")
        outcomes.append((trainer.global_step, stop.received and stop.received.name))
    torch.save(outcomes, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_stop_at_the_same_step_for_the_same_reason(tmp_path: Path) -> None:
    plans: dict[str, tuple[dict[int, list[tuple[int, signal.Signals]]], tuple[int, str | None]]] = {
        "one alone gets it": ({1: [(13, TERM)]}, (20, "SIGTERM")),
        "each in another step": ({0: [(3, USR1)], 1: [(9, USR1)]}, (10, "SIGUSR1")),
        "on either side of an agreement": ({0: [(11, USR1)], 1: [(10, USR1)]}, (10, "SIGUSR1")),
        "different ones": ({0: [(22, TERM)], 1: [(27, INT), (28, USR1)]}, (30, "SIGINT")),
        "none": ({}, (40, None)),
    }
    mp.spawn(take_part, (str(tmp_path), [plan for plan, _ in plans.values()]), nprocs=2)
    for rank in (0, 1):
        outcomes = torch.load(tmp_path / f"{rank}.pt")
        assert dict(zip(plans, outcomes, strict=True)) == {name: outcome for name, (_, outcome) in plans.items()}
