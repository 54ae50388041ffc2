import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gan.data import pictures
from lightning_gan.data.pictures import Arrays, Files, list_images, visible
from lightning_gan.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_only_images_are_listed_and_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.PNG", "b-c/1.jpg", "a.jpeg", "notes.txt", "Thumbs.db", ".DS_Store", "._a.jpg", ".git/x.png")
    touch(tmp_path, "__MACOSX/a.jpg", "noextension")
    assert list_images(tmp_path) == ["a.jpeg", "b-c/1.jpg", "b/2.PNG"]


def test_links_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/1.png", "elsewhere/2.png")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    assert list_images(tmp_path / "root") == ["a/1.png", "linked/2.png"]


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "images", "a.png", "b.png")
    files = Files(tmp_path / "images", ["a.png", "b.png"])
    first = files.digest(tmp_path / "memory")

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr(pictures, "file_digest", fail)
        assert files.digest(tmp_path / "memory") == first
        with pytest.raises(AssertionError):
            files.digest(tmp_path / "another memory")

    # The same bytes at another time are the same content, other bytes are not.
    os.utime(tmp_path / "images" / "a.png", ns=(0, 1))
    assert files.digest(tmp_path / "memory") == first
    (tmp_path / "images" / "a.png").write_bytes(b"other")
    assert files.digest(tmp_path / "memory") != first


def test_content_is_names_bytes_and_order(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").write_bytes(b"a.png")
    orders = (["a.png", "b.png"], ["b.png", "a.png"], ["c.png", "b.png"], ["a.png"])
    assert len({Files(tmp_path, names).digest(tmp_path / "memory") for names in orders}) == 4
    touch(tmp_path / "moved", "a.png", "b.png")
    here, there = (Files(root, ["a.png", "b.png"]).digest(tmp_path / "memory") for root in (tmp_path, tmp_path / "moved"))
    assert here == there


def test_a_memory_cut_short_is_not_believed(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    files = Files(tmp_path, ["a.png"])
    first = files.digest(tmp_path / "memory")
    (remembered,) = (tmp_path / "memory").iterdir()
    remembered.write_text("")
    assert files.digest(tmp_path / "memory") == first


def test_a_file_that_cannot_be_read_is_left_for_decoding_to_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    files = Files(tmp_path, ["a.png"])
    broken = files.digest(tmp_path / "memory")
    (tmp_path / "gone.png").write_bytes(b"here now")
    assert files.digest(tmp_path / "memory") != broken


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone cannot be read: No such file"):
        visible(tmp_path / "gone")


def test_arrays() -> None:
    array = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    arrays = Arrays(array)
    assert len(arrays) == 2
    np.testing.assert_array_equal(np.asarray(arrays.open(1)), array[1])
    assert arrays.digest(Path()) != Arrays(array.reshape(2, 4, 1)).digest(Path())
    assert isinstance(arrays.open(0), Image.Image)
