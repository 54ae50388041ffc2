from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gan.data import ImageFolder
from lightning_gan.data.cache import Split
from lightning_gan.errors import UserError


def paint(root: Path, **greys: int) -> None:
    """Save images of one grey each; `a__b=3` is a/b.png of grey 3."""
    for name, grey in greys.items():
        path = root / (name.replace("__", "/") + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 7), grey).save(path)


def greys(data: ImageFolder, split: Split = "train") -> list[int]:
    return data.images(split)[0][:, 0, 0, 0].tolist()


def labels(data: ImageFolder, split: Split = "train") -> list[int] | None:
    found = data.images(split)[1]
    return None if found is None else found.tolist()


def folder(root: Path, **options: object) -> ImageFolder:
    return ImageFolder(str(root), image_size=2, **options)  # type: ignore[arg-type]


def test_nested_images_without_classes(tmp_path: Path) -> None:
    paint(tmp_path, b=1, a__z=2, a__c__d=3)
    data = folder(tmp_path)
    assert data.image_shape == (3, 2, 2)
    assert greys(data) == [3, 2, 1]
    assert labels(data) is None
    assert data.class_names == []
    assert data.description == f"{tmp_path.name}: 3 training images of 3x2x2"


def test_subfolders_are_classes(tmp_path: Path) -> None:
    paint(tmp_path, cat__1=1, cat__deep__2=2, dog__1=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "readme.txt").touch()
    data = folder(tmp_path, channels=1, conditional=True)
    assert data.class_names == ["cat", "dog"]
    assert data.num_classes == 2
    assert greys(data) == [1, 2, 3]
    assert labels(data) == [0, 0, 1]
    assert folder(tmp_path).num_classes == 0
    assert labels(folder(tmp_path)) == [0, 0, 1]  # evaluation may want them all the same


def test_one_subfolder_is_no_class(tmp_path: Path) -> None:
    paint(tmp_path, images__1=1, images__2=2)
    assert folder(tmp_path).class_names == []
    with pytest.raises(UserError, match=r"--data\.conditional needs classes, and .* has none: put all images into two or more"):
        folder(tmp_path, conditional=True)


def test_train_and_test_are_splits(tmp_path: Path) -> None:
    paint(tmp_path, train__cat__1=1, train__dog__1=2, test__dog__1=3, val__cat__1=4)
    (tmp_path / "readme.txt").touch()
    data = folder(tmp_path, conditional=True)
    assert data.class_names == ["cat", "dog"]
    assert greys(data) == [1, 2]
    assert labels(data) == [0, 1]
    assert greys(data, "test") == [3, 4]
    assert labels(data, "test") == [1, 0]


def test_splits_without_classes(tmp_path: Path) -> None:
    paint(tmp_path, train__1=1, validation__1=2)
    (tmp_path / "scripts").mkdir()
    assert greys(folder(tmp_path)) == [1]
    assert greys(folder(tmp_path), "test") == [2]
    assert folder(tmp_path).class_names == []


def test_train_beside_other_folders_is_a_class(tmp_path: Path) -> None:
    paint(tmp_path, train__1=1, plane__1=2)
    assert folder(tmp_path).class_names == ["plane", "train"]
    assert len(greys(folder(tmp_path))) == 2


def test_a_share_is_held_out_by_name(tmp_path: Path) -> None:
    paint(tmp_path, **{f"image{i}": i for i in range(100)})
    held_out = greys(folder(tmp_path), "test")
    assert 1 <= len(held_out) <= 15
    assert sorted(held_out + greys(folder(tmp_path))) == list(range(100))
    paint(tmp_path, another=200)
    assert set(greys(folder(tmp_path), "test")) - {200} == set(held_out)
    assert greys(folder(tmp_path, held_out=0), "test") == []


def test_any_mix_of_sizes_and_modes(tmp_path: Path) -> None:
    for i, mode in enumerate(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]):
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (3 + i, 9 - i)).save(tmp_path / f"{i}.{suffix}")
    (tmp_path / "corrupt.jpg").write_bytes(np.arange(99, dtype=np.uint8).tobytes())
    data = folder(tmp_path)
    assert data.images("train")[0].shape == (8, 3, 2, 2)
    assert data.description.endswith("8 training images of 3x2x2, 1 skipped as unusable")
    assert data.prepared.skipped[0].startswith("corrupt.jpg: ")
    with pytest.raises(UserError, match="1 of 9 images"):
        folder(tmp_path, max_corrupt=0).prepare_data()


def test_a_changed_image_is_noticed(tmp_path: Path) -> None:
    paint(tmp_path, a=1, b=2)
    first = folder(tmp_path)
    assert greys(first) == [1, 2]
    paint(tmp_path, b=3)
    assert greys(folder(tmp_path)) == [1, 3]
    assert folder(tmp_path).fingerprint != first.fingerprint


def test_roots_that_cannot_be(tmp_path: Path) -> None:
    assert ImageFolder().image_shape == (3, 64, 64)
    with pytest.raises(UserError, match=r"Which images\? Say so with --data\.root=FOLDER"):
        ImageFolder().prepare_data()
    with pytest.raises(UserError, match=r"nowhere does not exist; let --data\.root name a folder of images"):
        folder(tmp_path / "nowhere").prepare_data()
    (tmp_path / "file.png").touch()
    with pytest.raises(UserError, match=r"file\.png is not a folder"):
        folder(tmp_path / "file.png", conditional=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"empty holds no images: nothing below it ends in \.avif, \.bmp"):
        folder(tmp_path / "empty").prepare_data()
