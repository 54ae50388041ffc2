"""Decoding: in the same process or in others, it makes no difference."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from lightning_gan.data import cache as cache_module
from lightning_gan.data import parallel
from lightning_gan.data.cache import Source, prepare
from lightning_gan.data.decode import Preprocessing
from lightning_gan.errors import UserError
from tests.data.test_cache import AS_IS, photos, source


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "MANY", 2)
    monkeypatch.setattr(parallel, "_cores", lambda: 2)


def written(some: Source, preprocessing: Preprocessing, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    cache_module._write(some, preprocessing, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_number_of_processes_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = photos(tmp_path / "photos", 50, {"empty.png": b"", "good7.jpg": b"no"}, max_corrupt=0.1)
    labels = list(range(52))
    some = Source("photos", plain.pictures, np.arange(52) % 3 == 1, labels, [str(y) for y in labels], max_corrupt=0.1)
    preprocessing = Preprocessing(3, 3)
    here = written(some, preprocessing, tmp_path / "here")
    assert sorted(here) == ["images.u8", "labels.i64", "meta.json"]
    assert len(here["images.u8"]) == 50 * 3 * 3 * 3
    assert json.loads(here["meta.json"])["skipped"][0].startswith("empty.png: cannot identify image file")

    monkeypatch.setattr(parallel, "MANY", 2)
    monkeypatch.setattr(cache_module, "CHUNK", 5)
    for number in (2, 3):
        monkeypatch.setattr(parallel, "_cores", lambda number=number: number)
        assert written(some, preprocessing, tmp_path / str(number)) == here


def test_images_are_decoded_by_the_processes(tmp_path: Path, two_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    some = photos(tmp_path / "photos", 20, {})
    monkeypatch.setattr(Image, "open", None)
    assert len(written(some, AS_IS, tmp_path / "written")["images.u8"]) == 20 * 16


def test_what_pillow_was_told_in_this_process_counts(
    tmp_path: Path, cache: Path, two_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut-off files, larger files or other formats may be welcome, which the processes that decode cannot know."""
    some = photos(tmp_path / "photos", 20, {})
    for i in range(5):
        file = tmp_path / "photos" / f"good{i}.png"
        file.write_bytes(file.read_bytes()[:-30])
    with monkeypatch.context() as patched:
        patched.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        assert prepare(some, AS_IS, cache).skipped == []
    with pytest.raises(UserError, match="5 of 20 images of photos cannot be used"):
        prepare(some, AS_IS, cache / "another")


def test_results_that_wait_take_no_more_memory_the_larger_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def look(_function: object, items: list[int], _label: str, chunk: int) -> Iterator[bytes]:
        sizes.append(chunk)
        yield from [b""] * len(items)

    monkeypatch.setattr(cache_module, "in_parallel", look)
    for size in (64, 1024, 4096):
        list(cache_module._decoded(source(), Preprocessing(size, 1), [0]))
    assert sizes == [16, 4, 1]


@pytest.mark.parametrize("processes", [1, 2])
def test_too_large_to_be_true(processes: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns of images above MAX_IMAGE_PIXELS and refuses those above twice that: both are left out."""
    monkeypatch.setattr(parallel, "MANY", 2)
    monkeypatch.setattr(parallel, "_cores", lambda: processes)
    some = photos(tmp_path / "photos", 4, {}, max_corrupt=0.5)
    Image.new("L", (5, 5)).save(tmp_path / "photos" / "good0.png")
    Image.new("L", (9, 9)).save(tmp_path / "photos" / "good1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    prepared = prepare(some, AS_IS, cache)
    assert len(prepared.images) == 2
    assert all("decompression bomb" in line for line in prepared.skipped)
