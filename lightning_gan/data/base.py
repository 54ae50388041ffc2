"""What every data set offers to the training loop, and the order in which its images are seen."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lightning_gan.data.cache import Prepared, Source, Split, default_folder, prepare
from lightning_gan.data.decode import Preprocessing
from lightning_gan.data.prefetch import SideStream, one_ahead, without_waiting
from lightning_gan.errors import UserError
from lightning_gan.files import expanded
from lightning_gan.images import to_float
from lightning_gan.randomness import batch_order, generator

MAX_BATCH_SIZE = 2**20
"""Above this it can only be a slip; the order of a batch alone would fill the memory."""


class Batch(NamedTuple):
    """One process's share of the images of a training step.

    Attributes:
        images: (N, C, H, W): uint8 from the loader, float32 in [-1, 1] once on the device.
        labels: (N,) int64, or None in unconditional training.
        flip: (N,) bool, which images are yet to be mirrored; None when that is done, or not to be done at all.
    """

    images: Tensor
    labels: Tensor | None
    flip: Tensor | None


class TrainingLoader:
    """The batches from the current step on; each is a pure function of (seed, step), so there is no state to save.

    Args:
        images: (N, C, H, W) uint8, anywhere.
        labels: (N,) int64, beside the images.
        batch_size: Images of a step, over all processes.
        seed: Decides the order and the mirroring.
        horizontal_flip: Whether to mirror half of the images.
        rank: Which of the processes this is.
        world_size: How many there are; each takes its contiguous share of a batch.
        current_step: Called when an iteration starts.
        device: Where the batches are wanted. A GPU that the images do not live on is sent each while it works on the last.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        batch_size: int,
        seed: int,
        horizontal_flip: bool,
        rank: int,
        world_size: int,
        current_step: Callable[[], int],
        device: torch.device,
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.horizontal_flip = horizontal_flip
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.current_step = current_step
        self.device = device

    def __len__(self) -> int:
        """Count the batches of what Lightning calls an epoch; a batch may straddle two real ones."""
        return max(1, len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # Lightning stops taking batches where its epoch ends, which after a resumption is before these do.
        start = self.current_step()
        batches: Iterator[Batch] = map(self.batch, range(start, start + len(self)))
        if self.device.type == "cuda" and self.images.device.type == "cpu":
            side = SideStream(self.device)
            batches = one_ahead(batches, side.send, side.receive)
        yield from batches

    def batch(self, step: int) -> Batch:
        home = self.images.device
        rows = without_waiting(batch_order(self.seed, step, self.batch_size, len(self.images))[self.share], home)
        flip = None
        if self.horizontal_flip:
            # Drawn for the whole batch, so that it is an image's fate and not its process's.
            flips = torch.rand(self.batch_size, generator=generator(self.seed, "flip", step)) < 0.5
            flip = without_waiting(flips[self.share], home)
        return Batch(self.images.index_select(0, rows), None if self.labels is None else self.labels[rows], flip)

    # Lightning warns of resuming in mid-epoch unless a loader has these two.
    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        pass


class HeldOutLoader:
    """The held-out images in their order; all of them in each process, so that no measure depends on how many there are."""

    def __init__(self, images: Tensor, labels: Tensor | None, batch_size: int) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Batch(self.images[rows], None if self.labels is None else self.labels[rows], None)


class DataModule(LightningDataModule):
    """Images as Lightning wants them. A data set is a subclass that defines `source` and, if it has classes, `class_names`.

    Args:
        name: What to call the data set.
        preprocessing: What is done to each image.
        batch_size: Images of one training step, over all processes together.
        conditional: Whether the networks are told the class of each image.
        horizontal_flip: Whether training sees mirror images too. Not for anything with lettering.
        cache_dir: Where prepared images are kept; null for $LIGHTNING_GAN_CACHE or, without that, ~/.cache/lightning_gan.
        device_bytes: Training images of up to this many bytes are moved to the GPU once, and stay there; of more, each batch is
            sent while the GPU works on the one before.
        seed: Decides the order of the images and which are mirrored.
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        batch_size: int = 64,
        conditional: bool = False,
        horizontal_flip: bool = False,
        cache_dir: str | None = None,
        device_bytes: int = 2**30,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"--data.batch_size must be at least 1, not {batch_size}.")
        if batch_size > MAX_BATCH_SIZE:
            raise UserError(f"--data.batch_size must be at most {MAX_BATCH_SIZE:,}, not {batch_size:,}.")
        self.name: str = name
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.conditional = conditional
        self.horizontal_flip = horizontal_flip
        self.cache_dir = cache_dir
        self.device_bytes = device_bytes
        self.seed = seed

    def source(self) -> Source:
        """Find the images and say what is known of them. Called once by each process, when they are needed."""
        raise NotImplementedError

    @cached_property
    def class_names(self) -> list[str]:
        """The classes, in the order of their numbers; empty if there are none."""
        return []

    @property
    def num_classes(self) -> int:
        """How many classes the networks are told apart: 0 unless training is conditional."""
        return len(self.class_names) if self.conditional else 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.preprocessing.channels, self.preprocessing.size, self.preprocessing.size

    @property
    def cache_folder(self) -> Path:
        return expanded(self.cache_dir) if self.cache_dir else default_folder()

    @cached_property
    def prepared(self) -> Prepared:
        """The images, prepared by the first process that asks."""
        return prepare(self.source(), self.preprocessing, self.cache_folder)

    @property
    def fingerprint(self) -> str:
        """Digest of the prepared images, labels and splits."""
        return self.prepared.fingerprint

    @property
    def description(self) -> str:
        """One line for people."""
        training = self.prepared.training
        held_out, skipped = len(self.prepared.images) - training, len(self.prepared.skipped)
        facts = [
            f"{self.name}: {training} training images of {'x'.join(map(str, self.image_shape))}",
            f"{held_out} held out" if held_out else "",
            f"{len(self.class_names)} classes" if self.class_names else "",
            f"{skipped} skipped as unusable" if skipped else "",
        ]
        return ", ".join(filter(None, facts))

    def images(self, split: Split) -> tuple[Tensor, Tensor | None]:
        """Return the images of a split, (N, C, H, W) uint8, and their labels, (N,) int64, if the set has any."""
        return self.prepared.split(split)

    def real_images(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Return n training images, or as many as there are, and their labels: the same shuffled ones every time."""
        images, labels = self.images("train")
        rows = torch.randperm(len(images), generator=generator("real images"))[:n]
        return images[rows], None if labels is None else labels[rows]

    @property
    def identity(self) -> dict[str, Any]:
        """Say what decides the batches, which a run that is gone on with must not change."""
        names = ("fingerprint", "batch_size", "seed", "horizontal_flip")
        return {name: getattr(self, name) for name in names}

    def prepare_data(self) -> None:
        self.setup("fit")

    def setup(self, stage: str) -> None:
        _ = self.prepared  # building takes a lock and finds what is built, so any process may come first

    def check_share(self, world_size: int, parts: int = 1) -> None:
        """Refuse a batch that the processes, or the parts that each computes its share in, cannot share equally.

        Raises:
            UserError: their number does not divide the batch size.
        """
        if self.batch_size % (number := world_size * parts):
            below = self.batch_size // number * number
            choices = " or ".join(str(size) for size in (below, below + number) if size)
            in_parts = f", in --model.accumulate={parts} parts each" if parts > 1 else ""
            raise UserError(
                f"--data.batch_size={self.batch_size} images cannot be shared equally among {world_size} "
                f"process{'es' * (world_size > 1)}{in_parts}; take a multiple of {number}, such as {choices}."
            )

    def train_dataloader(self) -> TrainingLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        self.check_share(world_size)
        images, labels = self.images("train")
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        home = residence(images.nbytes, device, self.device_bytes)
        return TrainingLoader(
            images.to(home),
            labels.to(home) if labels is not None and self.conditional else None,
            self.batch_size,
            self.seed,
            self.horizontal_flip,
            rank,
            world_size,
            current_step=lambda: trainer.global_step if trainer else 0,
            device=device,
        )

    def val_dataloader(self) -> HeldOutLoader | list[HeldOutLoader]:
        images, labels = self.images("test")
        if len(images) == 0:
            return []
        return HeldOutLoader(images, labels if self.conditional else None, self.batch_size)

    def test_dataloader(self) -> HeldOutLoader | list[HeldOutLoader]:
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if all(tensor is None or tensor.device == device for tensor in batch):
            return batch  # Lightning takes longer than some of a small network's layers to find that out
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images = batch.images
        if batch.flip is not None:
            images = mirrored(images, batch.flip)
        return Batch(to_float(images), batch.labels, None)


def mirrored(images: Tensor, flip: Tensor) -> Tensor:
    """Mirror the chosen ones of images (N, C, H, W), from left to right.

    It chooses between eight bytes at a time instead of between bytes, which is several times as fast on a CPU.
    """
    unit = torch.int64 if images[0].numel() % 8 == 0 else torch.uint8
    mirror_images, others = (x.flatten(1).view(unit) for x in (images.flip(-1), images))  # (N, C * H * W / 8)
    return torch.where(flip.unsqueeze(1), mirror_images, others).view(torch.uint8).view(images.shape)


def residence(size: int, device: torch.device, device_bytes: int) -> torch.device:
    """Decide where training images live: on the training device if it is a GPU and they take little of it, else in memory."""
    return device if device.type != "cpu" and size <= device_bytes else torch.device("cpu")


def hold_out(names: Sequence[bytes], share: float) -> NDArray[np.bool_]:
    """Choose which images to keep from training.

    A hash of its own name decides about an image, so that others can come and go without a new draw. Of 20 or more images at
    least one is chosen, of fewer none.

    Returns:
        (N,) bool, true for the held-out ones.
    """
    if not 0 <= share < 1:
        raise UserError(f"--data.held_out must be at least 0 and less than 1, not {share}.")
    if share == 0 or len(names) < 20:
        return np.zeros(len(names), dtype=np.bool_)
    lots: NDArray[np.float64] = np.array(
        [int.from_bytes(blake2b(name, digest_size=8).digest(), "big") / 2**64 for name in names]
    )
    chosen: NDArray[np.bool_] = (lots < share) | (lots == lots.min())
    return chosen
