"""What is asked of any optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_gan.errors import UserError

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]


def fused(optimizer: Optimizer) -> Optimizer:
    """Let an optimizer update all its parameters in one kernel, if it has one and nobody chose otherwise.

    torch never does so by itself. The result is the same up to rounding.
    """
    if type(optimizer) in (Adam, AdamW, SGD):  # which look at it in each step; others only when they are made
        for group in optimizer.param_groups:
            if group["fused"] is None and group["foreach"] is None:
                group["fused"] = True
    return optimizer


def set_option(optimizer: Optimizer, name: str, value: float) -> None:
    """Set an option of an optimizer; `beta1` and `beta2` are the two of Adam's betas.

    Raises:
        UserError: it has no such number.
    """
    for group in optimizer.param_groups:
        if name in ("beta1", "beta2") and "betas" in group:
            group["betas"] = (value, group["betas"][1]) if name == "beta1" else (group["betas"][0], value)
        elif isinstance(group.get(name), int | float) and not isinstance(group[name], bool):
            group[name] = value
        else:
            raise UserError(f"{type(optimizer).__name__} has no '{name}' to schedule.")
