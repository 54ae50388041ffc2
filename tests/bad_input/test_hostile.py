"""Files from strangers, who would like to have their code run: wherever a file is read, it is never more than data."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_gan.__main__ import main
from lightning_gan.data.cache import _fingerprint
from tests.bad_input.conftest import SMALL, Malicious, Refused, pictures, saved

EVALUATE = ["evaluate", "--data", "Digits", "--data.image_size", "8", "--extractor", "Random", "--samples"]
FIT = ["fit", *SMALL, "--data.image_size", "8"]
PICKLE = pickle.dumps(Malicious(), protocol=2)  # of which torch does not warn


@pytest.fixture(autouse=True)
def unharmed(folder: Path) -> Any:
    yield
    assert not (folder / "executed").exists()


def test_the_pickle_is_malicious(folder: Path) -> None:
    pickle.loads(PICKLE)
    assert (folder / "executed").exists()
    (folder / "executed").rmdir()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "sample", "interpolate"])
@pytest.mark.parametrize(
    "make",
    [
        lambda content: PICKLE,
        lambda content: saved(Malicious()),
        lambda content: saved(content | {"lightning_gan": Malicious()}),
        lambda content: saved(content | {"callbacks": {"a": Malicious()}}),
    ],
)
def test_checkpoints(
    folder: Path,
    run: Path,
    checkpoint: dict[str, Any],
    refused: Refused,
    command: str,
    make: Callable[[dict[str, Any]], bytes],
) -> None:
    (folder / "x.ckpt").write_bytes(make(checkpoint))
    config = [] if command in ("sample", "interpolate") else ["-c", str(run / "config.yaml")]
    assert "x.ckpt" in refused(command, *config, "--ckpt_path", "x.ckpt")


@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [
        ("os.mkdir", {"path": "executed"}),
        ("subprocess.Popen", {"args": ["mkdir", "executed"]}),
        ("theirs.Network", {}),
        ("theirs.sub.Network", {}),
    ],
)
def test_a_checkpoint_cannot_choose_what_is_called_or_imported(
    folder: Path,
    run: Path,
    checkpoint: dict[str, Any],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    class_path: str,
    init_args: dict[str, Any],
) -> None:
    monkeypatch.syspath_prepend(folder)  # as `python -m` does
    (folder / "theirs.py").write_text("import os\nos.mkdir('executed')")
    for network in ("generator", "discriminator"):
        checkpoint["lightning_gan"][network] = {"class_path": class_path, "init_args": init_args}
    (folder / "x.ckpt").write_bytes(saved(checkpoint))
    for command in ("sample", "interpolate"):
        assert f"{class_path} is no network of lightning_gan" in refused(command, "--ckpt_path", "x.ckpt")
    for command in ("fit", "validate", "test"):
        assert "The checkpoint's generator is" in refused(command, "-c", str(run / "config.yaml"), "--ckpt_path", "x.ckpt")


def test_samples(folder: Path, refused: Refused) -> None:
    objects = np.array([Malicious()] * 20)
    np.save(folder / "x.npy", objects)
    np.savez(folder / "x.npz", objects)
    (folder / "raw.npy").write_bytes(PICKLE)
    (folder / "raw.npz").write_bytes(PICKLE)
    with zipfile.ZipFile(folder / "inside.npz", "w") as archive:
        archive.writestr("arr_0.npy", PICKLE)
    for name in ("x.npy", "x.npz"):
        assert refused(*EVALUATE, name).startswith(f"{name} holds pickled objects, which are never read")
    for name in ("raw.npy", "raw.npz", "inside.npz"):
        assert refused(*EVALUATE, name).startswith(f"{name} is damaged, or not a .np")
    (folder / "samples").mkdir()
    (folder / "samples" / "x.png").write_bytes(PICKLE)
    assert "samples/x.png cannot be read as an image" in refused(*EVALUATE, "samples")


def test_a_small_archive_that_says_it_is_huge(folder: Path, refused: Refused) -> None:
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("arr_0.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)})
        file.write(bytes(2**20))
    with zipfile.ZipFile(folder / "header.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", b"\x93NUMPY\x02\x00" + (2**30).to_bytes(4, "little") + bytes(2**20))
    assert "x.npz is cut short: it ends before its 1,000,000,000,000 images do" in refused(*EVALUATE, "x.npz")
    assert "its header of 1,073,741,824 bytes is too long" in refused(*EVALUATE, "header.npz")


def test_data_sets(folder: Path, refused: Refused) -> None:
    (pictures(folder / "images", num=1) / "x.png").write_bytes(PICKLE)
    options = ["--data", "ImageFolder", "--data.root", "images", "--data.image_size", "16", "--data.max_corrupt", "0"]
    assert "1 of 2 images of images cannot be used" in refused("fit", *SMALL, *options)
    raw = folder / "mnist"
    raw.mkdir()
    for part in ("train", "t10k"):
        for name in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{name}-ubyte").write_bytes(PICKLE)
    assert "is damaged: it is not an idx file" in refused("fit", *SMALL, "--data", "MNIST", "--data.root", "mnist")
    (raw / "img_align_celeba").mkdir()
    pictures(raw / "img_align_celeba", num=1)
    (raw / "list_attr_celeba.txt").write_bytes(PICKLE)
    celeba = ["--data", "CelebA", "--data.root", "mnist", "--data.image_size", "16", "--data.attribute", "Smiling"]
    assert "list_attr_celeba" in refused("fit", *SMALL, *celeba)


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.mkdir [executed]",
        "!!python/object/new:os.mkdir [executed]",
        "name: !!python/name:os.mkdir",
        "include: [!!python/object/apply:os.mkdir [executed]]",
    ],
)
def test_configurations(folder: Path, refused: Refused, text: str) -> None:
    (folder / "x.yaml").write_text(text)
    for command in (FIT, [*EVALUATE, "x.npz"]):
        assert "The configuration x.yaml is not YAML: could not determine a constructor" in refused(*command, "-c", "x.yaml")


@pytest.fixture
def multiplying(folder: Path) -> None:
    """Write files of a few lines that stand for more than there is memory or time for."""
    lists, mappings = ["a0: &a0 [1]"], ["a0: &a0 {x: 1}"]
    for i in range(1, 32):
        lists.append(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]")
        mappings.append(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}")
        (folder / f"{i - 1}.yaml").write_text(f"include: [{i}.yaml, {i}.yaml]")
    (folder / "31.yaml").write_text("max_images: 3")
    (folder / "lists.yaml").write_text("\n".join(lists))
    (folder / "mappings.yaml").write_text("\n".join(mappings))
    (folder / "itself.yaml").write_text("a: &a [*a]")
    for i in range(150):
        (folder / f"long{i}.yaml").write_text(f"include: [long{i + 1}.yaml]")
    (folder / "day.yaml").write_text("name: 2001-02-30")
    (folder / "null.yaml").write_text('include: ["a\\0b"]')
    (folder / "pipe.yaml").write_text("include: [pipe]")
    os.mkfifo(folder / "pipe")


@pytest.mark.usefixtures("multiplying")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lists", "The configuration lists.yaml is not YAML: it holds more than 10,000 values, counted wherever an alias"),
        ("mappings", "The configuration mappings.yaml is not YAML: it holds more than 10,000 values"),
        ("itself", "The configuration itself.yaml is not YAML: it holds more than 10,000 values"),
        ("0", "The configuration 0.yaml includes more than 100 files, counted each time they are."),
        ("long0", "long0.yaml includes files that include others, more than 100 deep."),
        ("day", "The configuration day.yaml is not YAML: day is out of range for month."),
        ("null", "The configuration a\0b is not YAML: embedded null byte."),
        ("pipe", "The configuration pipe cannot be read: it is no regular file."),
    ],
)
def test_configurations_that_would_take_for_ever(refused: Refused, name: str, message: str) -> None:
    assert message in refused(*EVALUATE, "x.npz", "-c", f"{name}.yaml")


def test_inception_weights(folder: Path, refused: Refused) -> None:
    from hashlib import sha256

    np.save(folder / "x.npy", np.zeros((20, 8, 8), np.uint8))
    for content in (PICKLE, saved({"a": Malicious()})):
        (folder / "weights.pth").write_bytes(content)
        digest = sha256(content).hexdigest()
        for options in ([], ["--extractor.digest", digest[:8]]):  # not as published, and as if it were
            chosen = ["--extractor", "Inception", "--extractor.weights", "weights.pth", *options]
            assert "weights.pth" in refused(*EVALUATE[:5], "--samples", "x.npy", *chosen)


def change_meta(**facts: Any) -> Callable[[Path], Any]:
    """Change what a cache says of itself, so that it looks whole."""

    def change(cache: Path) -> None:
        meta = json.loads((cache / "meta.json").read_text()) | facts
        (cache / "meta.json").write_text(json.dumps(meta | {"fingerprint": _fingerprint(meta)}))

    return change


def replace_by_link(cache: Path) -> None:
    elsewhere = cache.rename(cache.parent.parent / "precious")
    (elsewhere / "meta.json").write_text("changed")
    cache.symlink_to(elsewhere.resolve())


@pytest.mark.parametrize(
    "harm",
    [
        lambda cache: (cache / "meta.json").write_bytes(PICKLE),
        lambda cache: (cache / "images.u8").write_bytes(PICKLE),
        lambda cache: (cache / "labels.i64").write_bytes(PICKLE),
        lambda cache: ((cache / "meta.json").unlink(), (cache / "meta.json").mkdir()),
        change_meta(training="x"),
        change_meta(training=10**9),
        change_meta(skipped=5),
        change_meta(shape=[1797 * 64]),
        change_meta(shape=[-1797, 1, -8, 8]),
        change_meta(shape=[2 * 1797, 1, 4, 8]),
        replace_by_link,
        lambda cache: cache.rename("precious") and cache.symlink_to("nowhere"),
        lambda cache: cache.rename("precious") and cache.touch(),
    ],
)
def test_caches_of_images_are_built_again(
    folder: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    from lightning_gan.data import Digits

    whole = Digits(image_size=8, cache_dir="cache").prepared
    images = whole.images.clone()  # the file is about to change
    (cache,) = Path("cache").glob("Digits-*")
    harm(cache)
    again = Digits(image_size=8, cache_dir="cache").prepared
    assert "is damaged and is built again" in caplog.text
    assert torch.equal(again.images, images)
    assert (again.training, again.fingerprint) == (whole.training, whole.fingerprint)
    if harm is replace_by_link:
        assert (Path("precious") / "meta.json").read_text() == "changed"


def test_caches_of_scores_are_computed_again(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(folder / "x.npy", np.zeros((20, 8, 8), np.uint8))
    assert main([*EVALUATE, "x.npy", "--output", "first.json"]) == 0
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert files
    for file in files:
        file.write_bytes(PICKLE)
    assert main([*EVALUATE, "x.npy", "--output", "second.json"]) == 0
    assert "is damaged and is computed again" in caplog.text
    first, second = (json.loads((folder / f"{name}.json").read_text())["scores"] for name in ("first", "second"))
    assert first == second
