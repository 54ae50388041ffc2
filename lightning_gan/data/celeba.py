"""CelebA: 202,599 aligned faces, in the files that its authors and torchvision lay out."""

import difflib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lightning_gan.data.base import DataModule, hold_out
from lightning_gan.data.cache import Source, check_share_of_corrupt
from lightning_gan.data.decode import Preprocessing, Resample
from lightning_gan.data.pictures import Files, list_images
from lightning_gan.errors import UserError
from lightning_gan.files import expanded

TEST = "2"
"""In the partition file; 0 is training and 1 validation."""


class Table(NamedTuple):
    """A text file of CelebA's, or its comma-separated copy on Kaggle.

    Attributes:
        columns: Their names, where the file has them.
        rows: The rest of each image's line, by the image's number, such as "000001".
    """

    columns: list[str]
    rows: dict[str, str]


class CelebA(DataModule):
    """Aligned faces of CelebA, by default the 162,770 of its training partition as published numbers have it.

    Args:
        root: Folder that holds `celeba/img_align_celeba/` (or that `celeba` or `img_align_celeba` folder itself). The files
            `list_eval_partition.txt`, `list_attr_celeba.txt` and `identity_CelebA.txt` beside the last are used where needed.
        image_size: Height and width that images are resized to.
        crop: Side of the central square of the 178x218 pixels that is cut out first.
        resample: How images are resized; each choice is antialiased.
        attribute: What the classes are: one of the 40 attributes, such as Smiling, gives two; identity gives one a person.
        split: What to train on: train for the official training partition, with the test partition held out; all for everything
            but a share that is held out, which is also what happens where there is no partition file.
        held_out: That share.
        max_corrupt: Share of the files that may be unusable (they are named and left out); one always may, unless this is 0.
        horizontal_flip: Whether training sees mirror images too.
        **options: As for every data set.
    """

    def __init__(
        self,
        root: str = "data/celeba",
        image_size: int = 64,
        crop: int = 178,
        resample: Resample = "bilinear",
        attribute: str | None = None,
        split: Literal["train", "all"] = "train",
        held_out: float = 0.05,
        max_corrupt: float = 0.01,
        horizontal_flip: bool = True,
        **options: Any,
    ) -> None:
        preprocessing = Preprocessing(image_size, channels=3, crop=crop, resample=resample)
        super().__init__("CelebA", preprocessing, horizontal_flip=horizontal_flip, **options)
        self.root = expanded(root)
        self.attribute = attribute
        self.official = split == "train"
        self.held_out = held_out
        self.max_corrupt = check_share_of_corrupt(max_corrupt)
        if self.conditional and attribute is None:
            raise UserError("--data.conditional needs classes: say which with --data.attribute, such as Smiling or identity.")

    @cached_property
    def class_names(self) -> list[str]:
        if self.attribute is None:
            return []
        if self.attribute == "identity":
            return sorted(set(self._needed_table("identity_CelebA").rows.values()), key=lambda number: (len(number), number))
        return [f"not {self.attribute}", self.attribute]

    @cached_property
    def folder(self) -> Path:
        """The folder with the tables and `img_align_celeba`."""
        parents = [self.root / "celeba", self.root]
        if self.root.resolve().name == "img_align_celeba":
            parents.append(self.root.resolve().parent)
        for folder in parents:
            if (folder / "img_align_celeba").is_dir():
                return folder
        raise UserError(
            f"CelebA is not in {self.root}: let --data.root name a folder that holds celeba/img_align_celeba/000001.jpg and so "
            "on (img_align_celeba.zip from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpacked)."
        )

    def source(self) -> Source:
        images = self.folder / "img_align_celeba"
        names = list_images(images)
        if not names:
            raise UserError(f"{images} holds no images; unpack img_align_celeba.zip there.")
        partition = self._table("list_eval_partition") if self.official else None
        if partition is None:
            held_out = hold_out([Path(name).stem.encode() for name in names], self.held_out)
        else:
            parts = [_row(partition, name, "list_eval_partition") for name in names]
            names = [name for name, part in zip(names, parts, strict=True) if part in ("0", TEST)]
            held_out = np.array([part == TEST for part in parts if part in ("0", TEST)])
        return Source(self.name, Files(images, names), held_out, self._labels(names), self.class_names, self.max_corrupt)

    def _labels(self, names: list[str]) -> list[int] | None:
        if self.attribute is None:
            return None
        if self.attribute == "identity":
            table = self._needed_table("identity_CelebA")
            numbers = {identity: number for number, identity in enumerate(self.class_names)}
            return [numbers[_row(table, name, "identity_CelebA")] for name in names]
        table = self._needed_table("list_attr_celeba")
        if not table.columns:
            raise UserError(f"CelebA's list_attr_celeba does not name its columns; copy it to {self.folder} again.")
        if self.attribute not in table.columns:
            close = difflib.get_close_matches(self.attribute, table.columns) or table.columns
            raise UserError(
                f"--data.attribute={self.attribute} is not known to CelebA; there is {', '.join(close)}, and identity."
            )
        column = table.columns.index(self.attribute)
        values = [_row(table, name, "list_attr_celeba").split() for name in names]
        for name, row in zip(names, values, strict=True):
            if len(row) != len(table.columns):
                raise UserError(
                    f"CelebA's list_attr_celeba has {len(row)} values for {name} and {len(table.columns)} columns; copy it to "
                    f"{self.folder} again."
                )
        return [int(row[column] == "1") for row in values]

    def _needed_table(self, name: str) -> Table:
        table = self._table(name)
        if table is None:
            raise UserError(f"--data.attribute={self.attribute} needs {name}.txt, which is not in {self.folder}; put it there.")
        return table

    def _table(self, name: str) -> Table | None:
        for path in (self.folder / f"{name}.txt", self.folder / f"{name}.csv"):
            if path.is_file():
                return _read_table(path)
        return None


def _read_table(path: Path) -> Table:
    table = Table([], {})
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"{path} cannot be read: {reason}. Copy it there again.") from error
    for line in text.replace(",", " ").splitlines():
        image, _, values = line.partition(" ")
        number, _, suffix = image.partition(".")
        if suffix in ("jpg", "png"):
            table.rows[number] = values.strip()
        else:  # a head: the number of rows, or the names of the columns
            table.columns[:] = line.removeprefix("image_id").split()
    return table


def _row(table: Table, image: str, name: str) -> str:
    try:
        return table.rows[Path(image).stem]
    except KeyError:
        raise UserError(f"CelebA's {name} does not list {image}; take both from the same copy of CelebA.") from None
