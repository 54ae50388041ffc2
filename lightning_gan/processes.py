"""What several processes that train together must agree on."""

import torch
from torch import Tensor
from torch.distributed import all_reduce, get_world_size, is_available, is_initialized


@torch.no_grad()
def mean_over_processes(x: Tensor) -> Tensor:
    """Average a tensor over the processes; in a single one it is the tensor itself. Carries no gradient."""
    if not (is_available() and is_initialized()):
        return x.detach()
    total = x.detach().clone()
    all_reduce(total)
    return total / get_world_size()
