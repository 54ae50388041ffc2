"""What several processes that train together must agree on."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.distributed import all_reduce, broadcast_object_list, get_rank, get_world_size, is_available, is_initialized

T = TypeVar("T")
LOSS = (
    "Connection closed by peer",  # gloo
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Application timeout caused pair closure",
    "remote process exiting prematurely",  # NCCL
    "Connection was likely closed",  # the store where processes meet
)
"""What the libraries beneath say when another process is gone."""


def several() -> bool:
    return is_available() and is_initialized() and get_world_size() > 1


@torch.no_grad()
def mean_over_processes(x: Tensor) -> Tensor:
    """Average a tensor over the processes; in a single one it is the tensor itself. Carries no gradient."""
    if not several():
        return x.detach()
    total = x.detach().clone()
    all_reduce(total)
    return total / get_world_size()


def is_lost(error: BaseException) -> bool:
    """Say whether an error means that another process has ended, or hangs and was waited for for as long as the strategy does.

    It is a collective operation's, and told by its words: gloo's have no class of their own.
    """
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOSS)


def from_first(compute: Callable[[], T], device: torch.device) -> T:
    """Let the first process compute something, so that all have the very same.

    Args:
        compute: called in the first process only; what it returns is pickled.
        device: of this process; its messages may have to pass through it.
    """
    if not several():
        return compute()
    result = [compute() if get_rank() == 0 else None]
    broadcast_object_list(result, src=0, device=device)
    return cast(T, result[0])
