"""Training in several processes that is the same experiment as in one."""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lightning_gan.batch_norm import SyncBatchNorm, synchronize
from lightning_gan.networks.base import StyleGenerator

BUCKET_BYTES = 25 * 2**20
"""Tensors travel together up to this size: as few messages as can be, and the copies of one are made while another travels."""
TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another that hangs or has gone without a word. A cluster's time is dear, but the first process
may be busy with scores, or a slow disk with a checkpoint, for minutes."""


class GANStrategy(DDPStrategy):
    """Data parallelism for networks that take turns: D's gradients are averaged in D's step, G's in G's.

    Nothing is wrapped and nothing happens in `backward`, as it does in torch's DistributedDataParallel: each step averages the
    gradients that its optimizer is about to use, once. So it does not matter how many backward passes made them, whether one
    went through another's gradient (penalties), in how many parts the batch was computed, or which parameters were left out:
    there is nothing like `find_unused_parameters`, and a gradient that is None stays None. All processes must take the same
    steps.

    Parameters, buffers and averages are equal in all processes, bit for bit, after every training step.

    What remains of the number of processes: dropout, which each process draws for itself, where it acts; minibatch standard
    deviation, if its groups do not divide a process' images; and without `sync_batchnorm` batch normalization, whose running
    statistics are then averaged along with the gradients.

    Args:
        timeout: how long to wait for another process.
        **kwargs: see `DDPStrategy`.
    """

    def __init__(self, timeout: timedelta = TIMEOUT, **kwargs: Any) -> None:
        super().__init__(timeout=timeout, **kwargs)

    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        # Lightning would send a message about SIGTERM before each step, and wait for it. The callback that stops training on
        # signals does that more cheaply.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]  # there is no switch

    def configure_ddp(self) -> None:
        """Give all processes the first one's parameters and buffers."""
        assert self.lightning_module is not None
        tensors = [*self.lightning_module.parameters(), *self.lightning_module.buffers()]
        _exchange(tensors, lambda flat: dist.broadcast(flat, src=0, async_op=True))

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Average the optimizer's gradients over the processes, before they are unscaled and clipped, and step."""
        result = closure()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        share = 1 / dist.get_world_size()
        _exchange(
            [*gradients, *self._local_statistics(parameters)],
            lambda flat: dist.all_reduce(flat.mul_(share), async_op=True),
        )
        return super().optimizer_step(optimizer, lambda: result, model, **kwargs)

    def _local_statistics(self, parameters: list[nn.Parameter]) -> Iterator[Tensor]:
        """Find the running means over batches, of the network with these parameters, that only saw this process' images."""
        assert self.lightning_module is not None
        for network in self.lightning_module.children():
            if any(parameter is parameters[0] for parameter in network.parameters()):
                for module in network.modules():
                    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
                        yield from (s for s in (module.running_mean, module.running_var) if s is not None)
                    elif isinstance(module, StyleGenerator):
                        yield module.mean_style


class SynchronizedBatchNorm(TorchSyncBatchNorm):
    """Makes `--trainer.sync_batchnorm` mean our layer in G and in D: torch's needs a GPU and has no second derivative."""

    def apply(self, model: nn.Module) -> nn.Module:
        for name in ("generator", "discriminator"):  # not the averages, which are never in training mode
            setattr(model, name, synchronize(getattr(model, name)))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave the layers as they are: in a single process they do what they did before."""
        return model


@torch.no_grad()
def _exchange(tensors: Iterable[Tensor], send: Callable[[Tensor], Any]) -> None:
    """Replace tensors by what comes back of them, in few messages.

    Args:
        tensors: the same shapes and types in each process.
        send: starts a collective operation, in place, on a flat tensor, and returns what to wait for.
    """
    underway = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.detach().flatten() for tensor in bucket])
        underway.append((bucket, flat, send(flat)))
    for bucket, flat, work in underway:
        work.wait()
        pieces = flat.split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [piece.view_as(tensor) for piece, tensor in zip(pieces, bucket, strict=True)])


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Divide tensors into lists of one type, each no larger than `BUCKET_BYTES` if it has more than one."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = by_type.setdefault(tensor.dtype, [])
        if bucket and sum(other.nbytes for other in bucket) + tensor.nbytes > BUCKET_BYTES:
            yield bucket
            bucket = by_type[tensor.dtype] = []
        bucket.append(tensor)
    yield from by_type.values()
