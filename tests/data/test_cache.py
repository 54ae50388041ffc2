import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_gan.data import cache as cache_module
from lightning_gan.data.cache import Prepared, Source, default_folder, prepare
from lightning_gan.data.decode import Preprocessing
from lightning_gan.data.pictures import Arrays, Files
from lightning_gan.errors import UserError

AS_IS = Preprocessing(size=4, channels=1)


def noise(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, 4, 4), dtype=np.uint8)


def source(n: int = 6) -> Source:
    held_out = np.arange(n) % 3 == 1
    return Source("some set", Arrays(noise(n)), held_out, labels=list(range(n)), class_names=[f"class {i}" for i in range(n)])


def photos(root: Path, good: int, broken: dict[str, bytes], max_corrupt: float = 0.01) -> Source:
    root.mkdir()
    for i, pixels in enumerate(noise(good)):
        Image.fromarray(pixels).save(root / f"good{i}.png")
    for name, content in broken.items():
        (root / name).write_bytes(content)
    names = sorted(path.name for path in root.iterdir())
    return Source("photos", Files(root, names), np.zeros(len(names), dtype=np.bool_), max_corrupt=max_corrupt)


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name not in (".lock", "contents"))


def assert_equal(a: Prepared, b: Prepared) -> None:
    assert a.fingerprint == b.fingerprint
    assert torch.equal(a.images, b.images)


def test_pixels_and_labels_come_out_exactly_training_images_first(cache: Path) -> None:
    prepared = prepare(source(6), AS_IS, cache)
    expected = torch.from_numpy(noise(6))[:, None]
    assert prepared.images.dtype == torch.uint8
    assert torch.equal(prepared.images, expected[[0, 2, 3, 5, 1, 4]])
    assert prepared.labels is not None
    assert prepared.labels.tolist() == [0, 2, 3, 5, 1, 4]
    assert prepared.skipped == []

    images, labels = prepared.split("train")
    assert torch.equal(images, expected[[0, 2, 3, 5]])
    assert labels is not None
    assert labels.tolist() == [0, 2, 3, 5]
    images, labels = prepared.split("test")
    assert torch.equal(images, expected[[1, 4]])
    assert labels is not None
    assert labels.tolist() == [1, 4]


def test_without_labels(cache: Path) -> None:
    prepared = prepare(Source("set", Arrays(noise(2)), np.zeros(2, dtype=np.bool_)), AS_IS, cache)
    assert prepared.labels is None
    assert prepared.split("test")[0].shape == (0, 1, 4, 4)


def test_decodes_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(source(), AS_IS, cache)
    monkeypatch.setattr(cache_module, "_build", None)
    assert_equal(prepare(source(), AS_IS, cache), first)


def test_writing_to_the_tensor_leaves_the_cache_alone(cache: Path) -> None:
    prepare(source(), AS_IS, cache).images.zero_()
    assert prepare(source(), AS_IS, cache).images.any()


def test_whatever_matters_has_a_cache_of_its_own(cache: Path) -> None:
    original = source()
    variants = [
        original,
        Source("some set", Arrays(noise(6) // 2), original.held_out, original.labels, original.class_names),
        Source("some set", original.pictures, ~original.held_out, original.labels, original.class_names),
        Source("some set", original.pictures, original.held_out, [0] * 6, original.class_names),
        Source("some set", original.pictures, original.held_out, original.labels, ["other names"]),
    ]
    fingerprints = {prepare(variant, AS_IS, cache).fingerprint for variant in variants}
    fingerprints |= {prepare(original, Preprocessing(4, 3), cache).fingerprint}
    fingerprints |= {prepare(original, Preprocessing(8, 1, resample="box"), cache).fingerprint}
    fingerprints |= {prepare(original, Preprocessing(8, 1, resample="bicubic"), cache).fingerprint}
    assert len(fingerprints) == len(folders(cache)) == 8


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "images.u8").read_bytes())
    content[7] ^= 1
    (folder / "images.u8").write_bytes(content)


def cut_short(folder: Path) -> None:
    os.truncate(folder / "images.u8", 5)


def other_labels(folder: Path) -> None:
    (folder / "labels.i64").write_bytes(bytes(6 * 8))


def lose_labels(folder: Path) -> None:
    (folder / "labels.i64").unlink()


def break_meta(folder: Path) -> None:
    os.truncate(folder / "meta.json", 20)


def shift_splits(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"training": 5}))


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, other_labels, lose_labels, break_meta, shift_splits])
def test_a_damaged_cache_is_built_again(damage: Callable[[Path], None], cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = prepare(source(), AS_IS, cache)
    images, labels = first.images.clone(), first.labels
    assert labels is not None
    labels = labels.clone()
    (name,) = folders(cache)
    damage(cache / name)

    again = prepare(source(), AS_IS, cache)
    assert torch.equal(again.images, images)
    assert again.labels is not None
    assert torch.equal(again.labels, labels)
    assert again.training == 4
    assert [record.getMessage() for record in caplog.records] == [f"{cache / name} is damaged and is built again."]


def test_large_caches_are_checked_by_size_only(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(source(), AS_IS, cache)
    flip_a_bit(cache / folders(cache)[0])
    monkeypatch.setattr(cache_module, "CHECKED_BYTES", 6 * 16 - 1)
    monkeypatch.setattr(cache_module, "_build", None)
    prepare(source(), AS_IS, cache)
    monkeypatch.setattr(cache_module, "CHECKED_BYTES", 6 * 16)
    with pytest.raises(TypeError):  # which is that it would build
        prepare(source(), AS_IS, cache)


def test_broken_images_are_named_and_left_out(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(noise(1)[0]).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    broken = {"empty.png": b"", "text.jpg": b"not an image", "truncated.png": whole[:-30]}
    prepared = prepare(photos(tmp_path / "photos", 7, broken, max_corrupt=0.3), AS_IS, cache)
    assert torch.equal(prepared.images, torch.from_numpy(noise(7))[:, None])
    assert [line.split(":")[0] for line in prepared.skipped] == ["empty.png", "text.jpg", "truncated.png"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    first, *lines = record.getMessage().splitlines()
    assert first == "Skipped 3 of 10 images of photos:"
    assert [line.strip() for line in lines] == prepared.skipped


def test_one_broken_image_is_always_allowed_unless_none_is(tmp_path: Path, cache: Path) -> None:
    assert len(prepare(photos(tmp_path / "a", 3, {"x.png": b""}), AS_IS, cache).images) == 3
    with pytest.raises(UserError, match=r"1 of 4 images of photos cannot be used, more than --data\.max_corrupt=0 allows"):
        prepare(photos(tmp_path / "b", 3, {"x.png": b""}, max_corrupt=0), AS_IS, cache)


def test_too_many_broken_images(tmp_path: Path, cache: Path) -> None:
    broken = {f"x{i:02}.png": b"" for i in range(12)}
    with pytest.raises(UserError) as error:
        prepare(photos(tmp_path / "photos", 3, broken), AS_IS, cache)
    first, *lines = str(error.value).splitlines()
    assert first.startswith("12 of 15 images of photos cannot be used, more than --data.max_corrupt=0.01 allows.")
    assert [line.strip()[:8] for line in lines] == [f"x{i:02}.png:" for i in range(10)] + ["... and "]
    assert lines[-1] == "  ... and 2 more"


def test_no_image_is_left(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="nothing to train on: no training image of photos can be used"):
        prepare(photos(tmp_path / "photos", 0, {"x.png": b""}, max_corrupt=1), AS_IS, cache)
    assert folders(cache) == []


def test_no_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 5, 95))
    with pytest.raises(UserError, match=rf"some set needs 96 bytes in {cache}, where .* --data\.cache_dir"):
        prepare(source(), AS_IS, cache)
    assert folders(cache) == []


def test_the_room_ends_while_building(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(*_: object) -> Iterator[bytes]:
        yield bytes(16)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "in_parallel", fill_the_disk)
    with pytest.raises(UserError, match=r"needs 96 bytes in"):
        prepare(source(), AS_IS, cache)
    assert folders(cache) == []


def test_an_interrupted_build_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> Iterator[bytes]:
        yield bytes(16)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "in_parallel", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(source(), AS_IS, cache)
    assert folders(cache) == []
    assert len(prepare(source(), AS_IS, cache).images) == 6


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cache: Not a directory\. Choose .* --data\.cache_dir"):
        prepare(source(), AS_IS, tmp_path / "file" / "cache")


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LIGHTNING_GAN_CACHE", "~/mine")
    assert default_folder() == tmp_path / "mine"
    monkeypatch.delenv("LIGHTNING_GAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "lightning_gan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == tmp_path / ".cache" / "lightning_gan"


BUILDER = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
sys.modules["pytorch_lightning"] = SimpleNamespace(LightningDataModule=object)  # seconds of import, not needed here
from lightning_gan.data.cache import Source, prepare
from lightning_gan.data.decode import Preprocessing
from lightning_gan.data.pictures import Files

class Slow(Files):
    def open(self, index):
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(0.01)
        return super().open(index)

root, cache, log = sys.argv[1:]
names = sorted(path.name for path in Path(root).iterdir())
source = Source("slow", Slow(Path(root), names), np.zeros(len(names), dtype=bool))
print(prepare(source, Preprocessing(4, 1), Path(cache)).fingerprint)
"""


def test_three_ask_at_once_and_the_one_that_builds_is_killed(tmp_path: Path, cache: Path) -> None:
    n, log = 200, tmp_path / "log"
    expected = prepare(photos(tmp_path / "photos", n, {}), AS_IS, tmp_path / "another cache")
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "photos"), str(cache), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    while not log.exists() or not log.read_text().endswith("\n"):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    (killed,) = (process for process in processes if process.pid == int(log.read_text().splitlines()[0]))
    killed.kill()
    outputs = [process.communicate()[0] for process in processes]

    assert sorted(process.returncode for process in processes) == [-signal.SIGKILL, 0, 0]
    assert sorted(outputs) == ["", f"{expected.fingerprint}\n", f"{expected.fingerprint}\n"]
    decoded = Counter(log.read_text().split())
    assert decoded.pop(str(killed.pid)) < n
    assert list(decoded.values()) == [n]  # of the other two, one has decoded and one has waited
    assert len(folders(cache)) == 1  # nothing is left of the killed one


def test_what_others_keep_beside_the_caches_stays(cache: Path) -> None:
    (cache / "thesis.tmp").mkdir(parents=True)
    (cache / "thesis.tmp" / "chapter.tex").write_text("precious")
    (cache / ".lightning_gan-digits-0123.tmp").mkdir()  # left by a build that was killed
    prepare(source(), AS_IS, cache)
    assert (cache / "thesis.tmp" / "chapter.tex").read_text() == "precious"
    assert not (cache / ".lightning_gan-digits-0123.tmp").exists()
