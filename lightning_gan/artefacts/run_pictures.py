"""A run's pictures as parts of a page, as many of them as a page can hold."""

import io
import warnings
from base64 import b64encode
from pathlib import Path

from PIL import Image

MOST_PIXELS = 25_000_000
MOST_BYTES = 20_000_000
"""Of one picture's file; one that is larger is none that a run has written."""
LARGE = 80_000
"""Bytes of a grid, from which on a page shows it as JPEG."""
NUMBERS = (40, 30, 20, 15, 10, 5, 3)
"""Of grids in a page, of which the first is taken that fits."""


def grids(pictures: list[tuple[int, Path]], best: int | None, characters: int) -> tuple[list[tuple[int, str]], list[Path]]:
    """Embed some of a run's grids, evenly spaced: always the first, the last, and the one nearest to the best evaluation.

    Args:
        pictures: images seen and file, in order.
        best: images seen at the best evaluation.
        characters: that they may take, unless three already take more.

    Returns:
        Images seen and address of those, and the files that are damaged.
    """
    pictures, damaged = list(pictures), list[Path]()
    addresses: dict[Path, str | None] = {}
    chosen: list[tuple[int, Path]] = []
    for most in NUMBERS:
        while True:
            nearest = [] if best is None else [min(range(len(pictures)), key=lambda i: abs(pictures[i][0] - best), default=0)]
            chosen = [pictures[i] for i in thinned(len(pictures), most, nearest)]
            addresses |= {path: address(path) for _, path in chosen if path not in addresses}
            broken = {path for _, path in chosen if addresses[path] is None}
            if not broken:
                break
            damaged += sorted(broken)
            pictures = [picture for picture in pictures if picture[1] not in broken]
        if sum(len(addresses[path] or "") for _, path in chosen) <= characters:
            break
    return [(seen, addresses[path] or "") for seen, path in chosen], damaged


def thinned(n: int, most: int, kept: list[int]) -> list[int]:
    """Choose up to `most` of the numbers 0 to n - 1, evenly spaced: always the first, the last and those to be kept."""
    if n <= most:
        return list(range(n))
    always = {0, n - 1, *kept}
    between = max(0, most - len(always))
    return sorted(always | {round(i * (n - 1) / (between + 1)) for i in range(1, between + 1)})


def address(path: Path, most_bytes: int = MOST_BYTES) -> str | None:
    """Give a PNG or GIF as a data: address; None for what is neither, damaged or too large."""
    try:
        if not path.is_file() or path.stat().st_size > most_bytes:
            return None
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large pictures, which are refused
            image = Image.open(io.BytesIO(content), formats=["PNG", "GIF"])
            if image.width * image.height > MOST_PIXELS:
                return None
            image.load()
        kind = str(image.format).lower()
        if kind == "png" and len(content) > LARGE:
            kind, content = "jpeg", _jpeg(image)
    except Exception:  # Pillow's readers raise whatever a damaged file leads them to
        return None
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("L" if image.mode in ("1", "L") else "RGB").save(file, "JPEG", quality=88)
    return file.getvalue()
