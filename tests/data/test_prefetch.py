from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import TypeVar

import pytest
import torch

from lightning_gan.data import Batch, base
from lightning_gan.data.base import TrainingLoader
from lightning_gan.data.prefetch import one_ahead, without_waiting

T = TypeVar("T")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Log:
    """A way to a device that takes down what happens on it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def send(self, batch: T) -> tuple[T]:
        self.events.append(f"send {batch}")
        return (batch,)

    def receive(self, sent: tuple[T]) -> T:
        self.events.append(f"receive {sent[0]}")
        return sent[0]


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_batches_arrive_once_and_in_order(n: int) -> None:
    log = Log()
    batches = [object() for _ in range(n)]
    assert list(one_ahead(batches, log.send, log.receive)) == batches
    assert len(log.events) == 2 * n


def test_the_next_batch_is_sent_before_one_is_given_out_and_after_that_one_is_received() -> None:
    log = Log()
    for batch in one_ahead(range(3), log.send, log.receive):
        log.events.append(f"use {batch}")
    expected = "send 0, receive 0, send 1, use 0, receive 1, send 2, use 1, receive 2, use 2"
    assert ", ".join(log.events) == expected


def test_no_batch_is_made_before_its_turn() -> None:
    made = []

    def batches() -> Iterator[int]:
        for i in count():
            made.append(i)
            yield i

    log = Log()
    assert list(islice(one_ahead(batches(), log.send, log.receive), 3)) == [0, 1, 2]
    assert made == [0, 1, 2, 3]


def training_loader(device: torch.device, n: int = 50, start: int = 2) -> TrainingLoader:
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 4, 4)
    return TrainingLoader(images, torch.arange(n), 8, 0, True, 0, 1, lambda: start, device)


def values(batches: Iterable[Batch]) -> list[list[object]]:
    return [[part.tolist() for part in batch if part is not None] for batch in batches]


def test_images_that_do_not_fit_a_gpu_are_sent_ahead_and_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logs: list[Log] = []

    def side_stream(device: torch.device) -> Log:
        assert device == GPU
        logs.append(Log())
        return logs[-1]

    plain = values(training_loader(CPU))
    assert [len(batch) for batch in plain] == [3] * 6
    monkeypatch.setattr(base, "SideStream", side_stream)
    assert values(training_loader(CPU)) == plain
    assert not logs
    assert values(training_loader(GPU)) == plain
    assert [len(log.events) for log in logs] == [12]


def test_what_goes_to_the_cpu_is_not_copied() -> None:
    tensor = torch.zeros(1)
    assert without_waiting(tensor, CPU) is tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_that_is_far_behind_the_batches_are_the_same() -> None:
    busy = torch.randn(4096, 4096, device=GPU)
    seen = []
    for batch in training_loader(GPU):
        for _ in range(20):
            busy = busy @ busy / 64
        assert batch.images.device == GPU
        seen.append(batch.images.clone())
        del batch  # its memory is free for the next copy
    assert [images.tolist() for images in seen] == [images for images, _, _ in values(training_loader(CPU))]
