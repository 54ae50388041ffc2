"""What a training step does, counted instead of timed: the same on a busy machine and on an idle one."""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

from pytorch_lightning import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step_time import plain
from lightning_gan.cli import CLI

WARM_UP = 4
"""Steps before counting: what is made once, such as the optimizers' state, is there by then."""
STEPS = 12
"""How many are counted; `fit` logs none of them, and they lie within an epoch of the digits."""


class Operations(TorchDispatchMode):
    """Counts torch's operations, forward, backward and of the optimizers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # in torch
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Calls(AbstractContextManager["Calls"]):
    """Counts the calls of functions, Python's and built-in ones."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _note(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            self.counted[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"] += 1
        elif event == "c_call":
            self.counted[argument.__name__] += 1


class Window(Callback):
    """Lets something be counted from the end of one step to that of another, with all that Lightning and callbacks do."""

    def __init__(self, counter: AbstractContextManager[Any], stack: ExitStack) -> None:
        self.counter = counter
        self.stack = stack

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self.stack.enter_context(self.counter)
        elif trainer.global_step == WARM_UP + STEPS:
            self.stack.close()


def in_both(count: Callable[[], Operations | Calls], options: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Count what `STEPS` steps of `fit` do, and as many of the benchmarks' plain loop with the same networks and images."""
    with ExitStack() as stack:
        ours = count()

        class Watched(CLI):
            def before_fit(self) -> None:
                self.trainer.callbacks.append(Window(ours, stack))  # type: ignore[attr-defined]  # a connector sets it

        common = f"--wandb=off --evaluation.num_samples=0 --trainer.accelerator=cpu --max_images={64 * (WARM_UP + STEPS)}"
        run = Watched.run(["fit", *options, *common.split()])
    theirs = []
    images, _ = run.datamodule.images("train")
    mixed = "bf16" in str(run.trainer.precision)
    for steps in (0, STEPS):
        counter = count()
        with counter:
            plain(run.model.generator, run.model.discriminator, images, 64, mixed, steps)
        theirs.append(counter.counted)
    theirs[1].subtract(theirs[0])
    return ours.counted, +theirs[1]
