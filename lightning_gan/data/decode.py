"""From an image as someone once saved it to the uint8 array that a network is trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from lightning_gan.errors import UserError

Resample = Literal["bilinear", "bicubic", "lanczos", "box"]

MAX_SIZE = 16384
"""Height and width of images; networks for more would not fit into any memory."""


@dataclass(frozen=True)
class Preprocessing:
    """Upright, opaque, 8-bit, cut to its central square, resized.

    Args:
        size: Height and width of the result.
        channels: 1 for grey, 3 for RGB.
        crop: Side of the central square that is cut out, in pixels of the file; None for the largest that fits.
        resample: Pillow's filter; each is antialiased.
        background: Colour that shows through where an image is transparent.
    """

    size: int
    channels: Literal[1, 3]
    crop: int | None = None
    resample: Resample = "bilinear"
    background: str = "white"

    def __post_init__(self) -> None:
        for option, value in {"image_size": self.size, "crop": self.crop}.items():
            if value is not None and value < 1:
                raise UserError(f"--data.{option} must be at least 1, not {value}.")
            if value is not None and value > MAX_SIZE:
                raise UserError(f"--data.{option} must be at most {MAX_SIZE:,}, not {value:,}.")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise UserError(
                f"--data.background={self.background} is not a colour; give a name such as black or a value such as '#ff8800'."
            ) from None

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Prepare one image, which is turned upright in place.

        Returns:
            (channels, size, size).

        Raises:
            Exception: Whatever Pillow raises at a damaged file; `ValueError` for pixels that have no meaning as a picture.
        """
        # Nothing is copied that can stay as it is.
        ImageOps.exif_transpose(image, in_place=True)
        image = _opaque(_eight_bit(image), self.background)
        mode = "L" if self.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        side = min(image.width, image.height, self.crop or image.width)
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)  # rounded as torchvision's CenterCrop
        image = image.crop((left, top, left + side, top + side))
        if side != self.size:
            image = image.resize((self.size, self.size), Image.Resampling[self.resample.upper()])
        pixels = np.asarray(image).reshape(self.size, self.size, self.channels)  # (H, W, C)
        return pixels.transpose(2, 0, 1)  # (C, H, W)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits: Pillow's own conversion has clipped it at 255."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its pixels are 32-bit numbers of unknown range")
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))


def _opaque(image: Image.Image, background: str) -> Image.Image:
    """Lay a transparent image on the background; without this, what was invisible would be seen."""
    if not image.mode.endswith(("A", "a")) and "transparency" not in image.info:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))


def pixels(root: Path, preprocessing: Preprocessing, max_pixels: int | None, name: str) -> bytes | None:
    """Decode and prepare a file, in a process that need know nothing of the rest.

    Returns:
        (channels, size, size) uint8, or None for what cannot be decoded or has more than `max_pixels`.
    """
    try:
        with Image.open(root / name) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                return None
            return preprocessing(image).tobytes()
    except Exception:  # Pillow's readers raise whatever a damaged file leads them to
        return None
