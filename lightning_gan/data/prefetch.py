"""Batches on their way to a GPU while it works on the one before."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

T = TypeVar("T")
Sent = TypeVar("Sent")


def one_ahead(batches: Iterable[T], send: Callable[[T], Sent], receive: Callable[[Sent], T]) -> Iterator[T]:
    """Yield the batches as they are, each sent before the one before it is given out.

    At most one is under way when one is received, so to wait for all that is under way is to wait for that one.
    """
    rest = iter(batches)
    for first in rest:
        sent = send(first)
        for batch in rest:
            received = receive(sent)
            sent = send(batch)
            yield received
        yield receive(sent)


def without_waiting(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from memory to a device; the host does not wait for a GPU, since what is copied from is page-locked."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class SideStream:
    """A CUDA stream for copies, beside the one that computes.

    A tensor's memory belongs to the stream that it was allocated on, the side one: the computing stream waits for the copy, and
    is recorded as a user of the memory, so that no later copy is given it before that stream is done with it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def send(self, batch: T) -> T:
        with torch.cuda.stream(self.stream):
            sent: T = apply_to_collection(batch, Tensor, without_waiting, self.device)
        return sent

    def receive(self, sent: T) -> T:
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        apply_to_collection(sent, Tensor, lambda tensor: tensor.record_stream(computing))
        return sent
