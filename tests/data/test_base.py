from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lightning_gan.data import Batch, DataModule
from lightning_gan.data.base import TrainingLoader, hold_out, mirrored, residence
from lightning_gan.data.cache import Source
from lightning_gan.data.decode import Preprocessing
from lightning_gan.data.pictures import Arrays
from lightning_gan.errors import UserError
from lightning_gan.images import to_float
from lightning_gan.randomness import batch_order

# Lightning 2.6 does with torch 2.13+ what torch would rather have otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Numbered(DataModule):
    """Images that say which they are: every pixel of the i-th is i, and its class is i modulo 3. The last five are held out."""

    def __init__(self, n: int = 30, **options: Any) -> None:
        super().__init__("numbers", Preprocessing(2, 1), **options)
        self.n = n
        self.class_names = ["zero", "one", "two"]

    def source(self) -> Source:
        pixels = np.arange(self.n, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
        return Source(
            self.name, Arrays(pixels), np.arange(self.n) >= self.n - 5, [i % 3 for i in range(self.n)], self.class_names
        )


def trainer(rank: int = 0, world_size: int = 1, step: int = 0) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(global_rank=rank, world_size=world_size, global_step=step, strategy=strategy)


def loader(data: DataModule, **position: int) -> TrainingLoader:
    data.trainer = trainer(**position)
    return data.train_dataloader()


def numbers(batch: Batch) -> list[int]:
    return [int(image) for image in batch.images[:, 0, 0, 0]]


def test_what_is_known_before_any_data_is_read(cache: Path) -> None:
    data = Numbered(conditional=True)
    assert data.image_shape == (1, 2, 2)
    assert data.num_classes == 3
    assert Numbered().num_classes == 0
    assert not cache.exists()


def test_splits_and_description() -> None:
    data = Numbered()
    data.prepare_data()
    data.setup("fit")
    images, labels = data.images("train")
    assert images[:, 0, 0, 0].tolist() == list(range(25))
    assert labels is not None
    assert labels.tolist() == [i % 3 for i in range(25)]
    images, labels = data.images("test")
    assert images[:, 0, 0, 0].tolist() == [25, 26, 27, 28, 29]
    assert data.description == "numbers: 25 training images of 1x2x2, 5 held out, 3 classes"
    assert data.fingerprint == Numbered(batch_size=7, seed=5).fingerprint


def test_real_images_are_always_the_same_training_images() -> None:
    images, labels = Numbered().real_images(8)
    more, _ = Numbered(seed=1).real_images(100)
    assert torch.equal(more[:8], images)
    assert sorted(more[:, 0, 0, 0].tolist()) == list(range(25))
    assert more[:, 0, 0, 0].tolist() != list(range(25))
    assert labels is not None
    assert labels.tolist() == [int(i) % 3 for i in images[:, 0, 0, 0]]


def test_without_a_trainer_training_starts_at_step_0() -> None:
    batches = list(Numbered(batch_size=10, seed=3).train_dataloader())
    assert [numbers(batch) for batch in batches] == [batch_order(3, step, 10, 25).tolist() for step in range(2)]
    assert batches[0].images.dtype == torch.uint8
    assert batches[0].labels is None
    assert batches[0].flip is None


def test_labels_belong_to_their_images() -> None:
    for batch in Numbered(batch_size=10, conditional=True).train_dataloader():
        assert batch.labels is not None
        assert batch.labels.tolist() == [i % 3 for i in numbers(batch)]


def test_a_set_smaller_than_a_batch() -> None:
    batches = list(Numbered(n=12, batch_size=16).train_dataloader())  # 7 to train on
    assert [len(batch.images) for batch in batches] == [16]
    assert set(numbers(batches[0])) == set(range(7))


@pytest.mark.parametrize("world_size", [2, 5])
def test_the_shares_of_all_processes_are_the_batch_of_one(world_size: int) -> None:
    data = Numbered(batch_size=10, conditional=True, horizontal_flip=True)
    shares = [loader(data, rank=rank, world_size=world_size, step=7).batch(7) for rank in range(world_size)]
    whole = loader(data).batch(7)
    for part in Batch._fields:
        of_shares = [getattr(share, part) for share in shares]
        assert torch.equal(torch.cat(of_shares), getattr(whole, part))
    assert {len(share.images) for share in shares} == {10 // world_size}


def test_a_batch_that_cannot_be_shared_equally() -> None:
    with pytest.raises(UserError, match=r"--data\.batch_size=64 .* among 3 processes; take a multiple of 3, such as 63 or 66"):
        loader(Numbered(), world_size=3)
    with pytest.raises(UserError, match="such as 4"):
        loader(Numbered(batch_size=2), world_size=4)
    with pytest.raises(UserError, match="at least 1, not 0"):
        Numbered(batch_size=0)


def test_a_resumed_run_sees_what_the_uninterrupted_one_would_have() -> None:
    data = Numbered(batch_size=10, horizontal_flip=True)
    uninterrupted = [loader(data).batch(step) for step in range(9)]
    resumed = list(loader(data, step=7))
    assert len(resumed) == 2
    for batch, again in zip(uninterrupted[7:], resumed, strict=True):
        assert torch.equal(batch.images, again.images)
        assert batch.flip is not None
        assert again.flip is not None
        assert torch.equal(batch.flip, again.flip)


class Recorder(LightningModule):
    """Take down which images it is shown, and save a checkpoint at each step."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.held_out: list[list[int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.images.dtype == torch.float32
        self.seen.append(batch.images[:, 0, 0, 0].add(1).mul(255 / 2).round().int().tolist())
        return self.weight

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.trainer.save_checkpoint(self.folder / f"{self.trainer.global_step}.ckpt")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.held_out.append(batch.images[:, 0, 0, 0].add(1).mul(255 / 2).round().int().tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, steps: int, ckpt_path: Path | None = None, **options: Any) -> Recorder:
    recorder = Recorder(folder)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    data = Numbered(batch_size=6, seed=1)  # 25 images make 4 batches an epoch
    trainer.fit(recorder, data, ckpt_path=ckpt_path, weights_only=True)
    return recorder


@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 3}])
def test_lightning_shows_each_batch_once_wherever_it_is_interrupted(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = [batch_order(1, step, 6, 25).tolist() for step in range(11)]
    assert fit(tmp_path / "whole", 11, **options).seen == expected
    for step in (2, 3, 4, 7, 8, 9):
        resumed = fit(tmp_path / f"from{step}", 11, tmp_path / "whole" / f"{step}.ckpt", **options)
        assert resumed.seen == expected[step:]


def test_lightning_is_shown_all_held_out_images(tmp_path: Path) -> None:
    assert fit(tmp_path, 4, num_sanity_val_steps=0).held_out == [[25, 26, 27, 28, 29]]


def test_flips_mirror_half_of_the_images_from_left_to_right() -> None:
    images = torch.arange(2 * 1 * 2 * 3, dtype=torch.uint8).view(2, 1, 2, 3)
    batch = Numbered().on_after_batch_transfer(Batch(images, None, torch.tensor([True, False])), 0)
    assert batch.flip is None
    torch.testing.assert_close(batch.images[0, 0], to_float(torch.tensor([[2, 1, 0], [5, 4, 3]])))
    torch.testing.assert_close(batch.images[1, 0], to_float(torch.tensor([[6, 7, 8], [9, 10, 11]])))

    flips = [batch.flip for batch in Numbered(batch_size=25, horizontal_flip=True).train_dataloader()]
    assert flips[0] is not None
    assert 5 <= int(flips[0].sum()) <= 20


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 5, 9), (16, 3, 8, 8)])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_mirroring_by_eight_bytes_is_choosing_byte_by_byte(shape: tuple[int, ...], share: float) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    flip = torch.rand(shape[0], generator=rng) < share
    assert torch.equal(mirrored(images, flip), torch.where(flip[:, None, None, None], images.flip(-1), images))


def test_the_range_on_the_device_is_minus_one_to_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    labels = torch.tensor([4, 5])
    batch = Numbered().on_after_batch_transfer(Batch(images, labels, None), 0)
    assert batch.images.flatten().tolist() == [-1, 1]
    assert batch.labels is labels


def test_small_sets_live_on_the_gpu() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    assert residence(1000, gpu, device_bytes=1000) == gpu
    assert residence(1001, gpu, device_bytes=1000) == cpu
    assert residence(1, cpu, device_bytes=1000) == cpu


def test_the_loader_gathers_where_the_images_are() -> None:
    """The meta device stands in for a GPU: indices from another device would be an error there as well."""
    images, labels = torch.zeros(25, 1, 2, 2, dtype=torch.uint8, device="meta"), torch.zeros(25, device="meta")
    batch = TrainingLoader(images, labels, 10, 0, True, 0, 1, lambda: 0, images.device).batch(0)
    assert batch.images.device.type == "meta"
    assert batch.labels is not None
    assert batch.labels.device.type == "meta"
    assert batch.flip is not None
    assert batch.flip.device.type == "meta"


def test_held_out_images_stay_held_out_when_others_come_and_go() -> None:
    names = [f"{i}.png".encode() for i in range(4000)]
    chosen = {name for name, is_chosen in zip(names, hold_out(names, 0.05), strict=True) if is_chosen}
    assert 150 <= len(chosen) <= 250
    fewer = [name for name in reversed(names) if name != b"17.png"]
    assert {name for name, is_chosen in zip(fewer, hold_out(fewer, 0.05), strict=True) if is_chosen} == chosen - {b"17.png"}


def test_how_many_are_held_out_of_few() -> None:
    names = [f"{i}".encode() for i in range(20)]
    assert hold_out(names, 1e-9).sum() == 1
    assert hold_out(names[:19], 0.5).sum() == 0
    assert hold_out(names, 0).sum() == 0
    for share in (-0.1, 1):
        with pytest.raises(UserError, match=r"--data\.held_out must be at least 0 and less than 1"):
            hold_out(names, share)


def test_nothing_held_out_is_nothing_to_validate() -> None:
    class AllToTrainOn(Numbered):
        def source(self) -> Source:
            source = super().source()
            return Source(source.name, source.pictures, np.zeros(self.n, dtype=np.bool_))

    data = AllToTrainOn()
    assert data.val_dataloader() == []
    assert data.description == "numbers: 30 training images of 1x2x2, 3 classes"
    assert len(data.images("test")[0]) == 0


def test_iteration_asks_for_the_step_when_it_starts() -> None:
    def batches(loader: TrainingLoader) -> Iterator[list[int]]:
        return map(numbers, loader)

    data = Numbered(batch_size=10)
    training = loader(data)
    data.trainer.global_step = 4  # type: ignore[misc, union-attr]
    assert next(batches(training)) == batch_order(0, 4, 10, 25).tolist()


def test_a_batch_that_is_there_already_is_not_moved(digits: DataModule) -> None:
    batch = digits.train_dataloader().batch(0)
    assert digits.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved = digits.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.images.device.type == "meta"
    assert moved.images.shape == batch.images.shape
