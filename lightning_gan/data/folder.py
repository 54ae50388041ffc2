"""Any folder of images."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_gan.data.base import DataModule, hold_out
from lightning_gan.data.cache import Source, check_share_of_corrupt
from lightning_gan.data.decode import Preprocessing, Resample
from lightning_gan.data.pictures import SUFFIXES, Files, holds_images, is_image, list_images, visible
from lightning_gan.errors import UserError
from lightning_gan.files import expanded

HELD_OUT_NAMES = {"test", "val", "valid", "validation", "eval"}


class ImageFolder(DataModule):
    """The images below a folder, of any sizes and modes, nested or not.

    If all images lie in folders called `train` and `test` (or `val`, `valid`, `validation`, `eval`), those are the training and
    the held-out images. If all images lie below two or more subfolders (of those), these are the classes.

    Args:
        root: The folder. It must be given.
        image_size: Height and width that images are resized to, after the largest central square is cut out.
        channels: 1 for grey images, 3 for colour.
        resample: How images are resized; each choice is antialiased.
        background: Colour that shows through where an image is transparent.
        held_out: Share of the images that is kept from training, for evaluation, unless the folder itself says which.
        max_corrupt: Share of the files that may be unusable (they are named and left out); one always may, unless this is 0.
        **options: As for every data set.
    """

    def __init__(
        self,
        root: str = "",
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        resample: Resample = "bilinear",
        background: str = "white",
        held_out: float = 0.05,
        max_corrupt: float = 0.01,
        **options: Any,
    ) -> None:
        preprocessing = Preprocessing(image_size, channels, resample=resample, background=background)
        super().__init__(Path(os.path.realpath(expanded(root))).name, preprocessing, **options)
        self.root = root
        self.held_out = held_out
        self.max_corrupt = check_share_of_corrupt(max_corrupt)
        if self.conditional and not self.class_names:
            raise UserError(
                f"--data.conditional needs classes, and {root} has none: put all images into two or more subfolders, one a "
                "class, or leave that option out."
            )

    @cached_property
    def folder(self) -> Path:
        if not self.root:
            raise UserError("Which images? Say so with --data.root=FOLDER.")
        folder = expanded(self.root)
        try:
            problem = "" if folder.is_dir() else "is not a folder" if folder.exists() else "does not exist"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            raise UserError(f"{folder} {problem}; let --data.root name a folder of images.")
        return folder

    @cached_property
    def is_divided(self) -> bool:
        """Whether there are no images here but those in `train` and its companions."""
        names = {entry.name for entry in visible(self.folder) if is_image(entry) or holds_images(entry)}
        return "train" in names and names <= {"train"} | HELD_OUT_NAMES

    @cached_property
    def class_names(self) -> list[str]:
        splits = [entry.path for entry in visible(self.folder) if holds_images(entry)] if self.is_divided else [self.folder]
        names = set()
        for folder in splits:
            for entry in visible(folder):
                if holds_images(entry):
                    names.add(entry.name)
                elif is_image(entry):
                    return []
        return sorted(names) if len(names) > 1 else []

    def source(self) -> Source:
        names = list_images(self.folder)
        if not names:
            raise UserError(f"{self.folder} holds no images: nothing below it ends in .{', .'.join(sorted(SUFFIXES))}.")
        labels = None
        if self.class_names:
            numbers = {name: number for number, name in enumerate(self.class_names)}
            depth = 1 if self.is_divided else 0
            labels = [numbers[name.split("/")[depth]] for name in names]
        held_out = np.array([self.is_divided and not name.startswith("train/") for name in names])
        if not held_out.any():
            held_out = hold_out([os.fsencode(name) for name in names], self.held_out)
        return Source(self.name, Files(self.folder, names), held_out, labels, self.class_names, self.max_corrupt)
