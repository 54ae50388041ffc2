"""What cannot be right about options, whatever the classes they go to."""

import math
from collections.abc import Iterator
from typing import Any

from jsonargparse import Namespace

from lightning_gan.errors import UserError

PRECISIONS = (None, 32, "32", "32-true", "bf16-mixed", "16-mixed")


def check_options(config: Namespace) -> None:
    """Refuse options of `fit`, `validate` and `test` that would fail later, or not at all.

    Raises:
        UserError: there is one.
    """
    if not 0 <= config.seed_everything < 2**32:
        raise UserError(f"--seed_everything must be at least 0 and less than 2^32, and is {config.seed_everything}.")
    if not isinstance(config.trainer, Namespace):
        raise UserError(f"--trainer must be a mapping of its options to values, not '{config.trainer}'.")
    for name, value in _leaves("-", config):
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{name.replace('.init_args', '').replace('-.', '--')} is not a number.")
    if config.trainer.gradient_clip_val is not None:
        raise UserError(
            "--trainer.gradient_clip_val does not say whose gradient. "
            "Use --model.generator_clip_norm and --model.discriminator_clip_norm."
        )
    if config.trainer.accumulate_grad_batches != 1:
        raise UserError("--trainer.accumulate_grad_batches does not know of two networks. Use --model.accumulate.")
    if config.trainer.max_steps == 0 or config.trainer.max_epochs == 0:
        raise UserError("--trainer.max_steps and --trainer.max_epochs must be at least 1, or -1 for no limit.")
    if config.trainer.precision not in PRECISIONS:
        raise UserError(f"--trainer.precision must be 32-true, bf16-mixed or 16-mixed, not {config.trainer.precision}.")


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(f"{name}.{key}", below)
    else:
        yield name, value
