"""Exported generators from strangers, and damaged ones."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from lightning_gan.__main__ import main
from lightning_gan.artefacts import export
from lightning_gan.artefacts.trained import read_trained
from lightning_gan.errors import UserError
from lightning_gan.networks.base import Network, build
from tests.bad_input.conftest import Malicious, Refused, saved

Config = dict[str, Any]
EVALUATE = ["evaluate", "--data", "Digits", "--data.image_size", "8", "--extractor", "Random"]
PICKLE = pickle.dumps(Malicious(), protocol=2)


@pytest.fixture(scope="session")
def original(run: Path) -> Path:
    folder = run.parent / "exported"
    export.run(["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--output", str(folder), "--onnx", "false"])
    return folder


@pytest.fixture
def exported(folder: Path, original: Path) -> Path:
    """A conditional DCGAN, in the folder `x`."""
    return Path(shutil.copytree(original, folder / "x"))


@pytest.fixture(autouse=True)
def unharmed(folder: Path) -> Any:
    yield
    assert not (folder / "executed").exists()


def change(exported: Path, **facts: Any) -> None:
    config = json.loads((exported / "config.json").read_text()) | facts
    (exported / "config.json").write_text(json.dumps(config))


def change_weights(exported: Path, make: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Write other tensors, and the digest that goes with them: a stranger would."""
    from hashlib import sha256

    path = exported / "generator.safetensors"
    content = save(make(load_file(path)))
    path.write_bytes(content)
    change(exported, sha256=sha256(content).hexdigest())


def harm_config(content: bytes) -> Callable[[Path], Any]:
    return lambda exported: (exported / "config.json").write_bytes(content)


def test_the_unharmed_is_read(exported: Path) -> None:
    change(exported)
    change_weights(exported, lambda state: state)
    assert main(["sample", "--ckpt_path", "x", "--num", "2", "--output", "samples.npz"]) == 0


@pytest.mark.parametrize("command", [["sample"], ["interpolate"], EVALUATE], ids=["sample", "interpolate", "evaluate"])
@pytest.mark.parametrize("path", ["x", "x/generator.safetensors"])
def test_weights_that_are_a_pickle(exported: Path, refused: Refused, command: list[str], path: str) -> None:
    for content in (PICKLE, saved(Malicious())):
        (exported / "generator.safetensors").write_bytes(content)
        assert "x/generator.safetensors is damaged, or not a file of safetensors." in refused(*command, "--ckpt_path", path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda x: (x / "config.json").unlink(), "x is not an exported generator: there is no config.json in it."),
        (lambda x: (x / "generator.safetensors").unlink(), "There is no x/generator.safetensors."),
        (harm_config(b""), "x/config.json is damaged, or not that of an exported generator."),
        (harm_config(PICKLE), "x/config.json is damaged, or not that of an exported generator."),
        (harm_config(b"\xff\xfe"), "x/config.json is damaged, or not that of an exported generator."),
        (harm_config(b"[" * 100_000), "x/config.json is damaged, or not that of an exported generator."),
        (
            lambda x: (x / "config.json").write_text((x / "config.json").read_text() + " " * 2**24),
            "x/config.json is damaged, or not that of an exported generator.",
        ),
        (harm_config(b'{"architectures": ["GPT2LMHeadModel"]}'), "is not that of a generator exported by lightning_gan."),
        (harm_config(b"[1]"), "is not that of a generator exported by lightning_gan."),
        (
            lambda x: change(x, format=2, lightning_gan="99.0.0"),
            "was written by lightning_gan 99.0.0, and this is",
        ),
        (lambda x: change(x, format="1"), "is not that of a generator exported by lightning_gan."),
        (lambda x: change(x, images_seen=-1), "x/config.json is not whole"),
        (lambda x: change(x, images_seen=True), "x/config.json is not whole"),
        (lambda x: change(x, half_life="long"), "x/config.json is not whole"),
        (lambda x: change(x, half_life=float("nan")), "x/config.json is not whole"),
        (lambda x: change(x, half_life=10**400), "x/config.json is not whole"),
        (lambda x: change(x, class_names=[1] * 10), "x/config.json is not whole"),
        (lambda x: change(x, class_names=["one"]), "x/config.json names 1 classes for 10."),
        (lambda x: change(x, data=[]), "x/config.json is not whole"),
        (lambda x: change(x, data={"fingerprint": 3}), "x/config.json is not whole"),
        (lambda x: change(x, sha256=None), "x/config.json is not whole"),
        (lambda x: change(x, sha256="0" * 64), "x/generator.safetensors is damaged, or not the one that its config.json was"),
        (lambda x: change(x, generator=[]), "x/config.json is not whole"),
        (lambda x: change(x, generator={"class_path": 3, "init_args": {}}), "x/config.json is not whole"),
        (lambda x: change(x, discriminator={"class_path": "a"}), "x/config.json is not whole"),
    ],
)
def test_damaged_ones(exported: Path, refused: Refused, harm: Callable[[Path], Any], message: str) -> None:
    harm(exported)
    assert message in refused("sample", "--ckpt_path", "x")


def test_a_run_is_no_export(folder: Path, run: Path, refused: Refused) -> None:
    shutil.copytree(run / "checkpoints", folder / "run" / "checkpoints")
    error = refused("sample", "--ckpt_path", "run")
    assert error.endswith("For the run in it, name a checkpoint such as run/checkpoints/last.ckpt.")


@pytest.mark.parametrize("name", ["config.json", "generator.safetensors"])
def test_a_pipe_is_not_waited_for(exported: Path, refused: Refused, name: str) -> None:
    (exported / name).unlink()
    os.mkfifo(exported / name)
    try:
        assert name in refused("sample", "--ckpt_path", "x")
    finally:
        (exported / name).unlink()


def test_a_flipped_bit(exported: Path, refused: Refused) -> None:
    path = exported / "generator.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    assert "x/generator.safetensors is damaged, or not the one" in refused("sample", "--ckpt_path", "x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"to be, or not to be",
        (2**62).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"{}",
        b"\x48" + bytes(7) + b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}      ' + bytes(4),
        b"\x48" + bytes(7) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000000]}}      ' + bytes(4),
        None,
    ],
)
def test_files_that_are_no_weights(exported: Path, refused: Refused, content: bytes | None) -> None:
    path = exported / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert "x/generator.safetensors" in refused("sample", "--ckpt_path", "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda state: state | {"more": torch.zeros(1)}, 'Unexpected key(s) in state_dict: "more"'),
        (
            lambda state: {name: x for name, x in state.items() if name != "dense.bias"},
            "Missing key(s)",
        ),
        (lambda state: state | {"dense.bias": torch.zeros(3)}, "size mismatch for dense.bias"),
        (lambda state: state | {"dense.bias": state["dense.bias"].double()}, "dense.bias is of torch.float64 and must be of"),
        (lambda state: state | {"dense.bias": state["dense.bias"].half()}, "dense.bias is of torch.float16 and must be of"),
        (
            lambda state: state | {"dense.bias": state["dense.bias"].to(torch.int32)},
            "dense.bias is of torch.int32 and must be of",
        ),
        (lambda state: state | {"dense.bias": state["dense.bias"] / 0}, "holds values that are not finite, in dense.bias."),
        (lambda state: {}, "Missing key(s) in state_dict"),
    ],
)
def test_weights_of_something_else(exported: Path, refused: Refused, make: Callable[[Any], Any], message: str) -> None:
    change_weights(exported, make)
    assert message in refused("sample", "--ckpt_path", "x")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("class_path", "os.mkdir", "os.mkdir is no network of lightning_gan"),
        ("class_path", "theirs.Network", "theirs.Network is no network of lightning_gan"),
        ("class_path", "lightning_gan.networks.dcgan.DCGANDiscriminator", "does not fit this version of its code"),
        ("init_args", {}, "does not fit this version of its code"),
        ("init_args", {"image_shape": [1, 8, 8], "width": 10**9}, "does not fit this version of its code"),
        ("init_args", {"image_shape": [1, 8, 8], "width": 10**30}, "does not fit this version of its code"),
        ("init_args", {"image_shape": [1, 8, 8], "width": float("inf")}, "does not fit this version of its code"),
        ("init_args", {"image_shape": [1, 8, [8]], "width": 4}, "does not fit this version of its code"),
        ("init_args", {"image_shape": 3}, "does not fit this version of its code"),
        ("init_args", {"image_shape": [1, 8, 8], "width": 4, "num_classes": 10.0}, "does not fit this version of its code"),
    ],
)
def test_records_of_a_generator(
    folder: Path, exported: Path, refused: Refused, entry: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)  # as `python -m` does
    (folder / "theirs.py").write_text("import os\nos.mkdir('executed')")
    record = json.loads((exported / "config.json").read_text())["generator"]
    change(exported, generator=record | {entry: value})
    assert message in refused("sample", "--ckpt_path", "x")


def test_images_of_no_shape(exported: Path, refused: Refused) -> None:
    """An MLP has as many values for a shape of negative numbers."""
    arguments = {"image_shape": [1, -8, -8], "hidden": [2], "latent_dim": 2}
    record = {"class_path": "lightning_gan.networks.mlp.MLPGenerator", "init_args": arguments}
    state = build({**record, "init_args": arguments | {"image_shape": (1, 8, 8)}}).state_dict()
    change(exported, generator=record, class_names=[])
    change_weights(exported, lambda _: state)
    assert "no images are of shape (1, -8, -8)" in refused("sample", "--ckpt_path", "x")


def test_a_size_is_not_believed(exported: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((exported / "config.json").read_text())["generator"]
    change(exported, generator=record | {"init_args": record["init_args"] | {"width": 100}})
    built: list[Network] = []

    def noted(record: dict[str, Any]) -> Network:
        built.append(build(record))
        return built[-1]

    monkeypatch.setattr("lightning_gan.artefacts.trained.build", noted)
    assert "size mismatch for dense.weight" in refused("sample", "--ckpt_path", "x")
    assert {x.device.type for network in built for x in network.state_dict().values()} == {"meta"}


def test_a_file_that_is_huge_is_not_read_for_nothing(original: Path, tmp_path: Path) -> None:
    exported = Path(shutil.copytree(original, tmp_path / "huge"))
    size = 2**33  # of nothing, which takes no disk either
    header = json.dumps({"dense.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (exported / "generator.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    before = getrusage(RUSAGE_SELF).ru_maxrss  # kB
    with pytest.raises(UserError, match="does not fit this version of its code"):
        read_trained(exported)
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_sentence_is_neither_endless_nor_does_it_steer_the_terminal(exported: Path, refused: Refused) -> None:
    record = json.loads((exported / "config.json").read_text())["generator"]
    change(exported, generator=record | {"class_path": "\x1b[2Jtheirs" + "s" * 10**6})
    error = refused("sample", "--ckpt_path", "x")
    assert "version of its code: ?[2Jtheirssss" in error
    assert len(error) < 1000
    change(exported, format=2, lightning_gan="\x1b[2J" + "9" * 10**6)
    error = refused("sample", "--ckpt_path", "x")
    assert "lightning_gan ?[2J9999" in error
    assert len(error) < 1000


def test_a_network_of_ones_own_is_imported_when_its_user_says_so(
    folder: Path, exported: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "own_exported.py").write_text(
        "from pathlib import Path\nfrom lightning_gan.networks import DCGANGenerator\nPath('imported').touch()\n"
        "class Own(DCGANGenerator):\n    pass\n"
    )
    record = json.loads((exported / "config.json").read_text())["generator"]
    change(exported, generator=record | {"class_path": "own_exported.Own"})
    assert "import its module (--module) first" in refused("sample", "--ckpt_path", "x")
    assert main(["sample", "--ckpt_path", "x", "--module", "own_exported", "--num", "2"]) == 0
    assert (folder / "imported").exists()
    assert main([*EVALUATE, "--ckpt_path", "x", "--module", "own_exported", "--num", "20"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--ckpt_path", "x", "--samples", "x"],
            "evaluate takes either --samples, made by any generator, or --ckpt_path",
        ),
        (["--ckpt_path", "x", "--data.image_size", "16"], "The generator's images are of 1x8x8 and the data's of 1x16x16"),
        (["--ckpt_path", "x", "--output", "x/config.json"], "x/config.json exists already, and does not hold scores"),
        (["--ckpt_path", "x", "--num", "10000000000"], "10,000,000,000 images are too many"),
        (
            ["--ckpt_path", "x", "--half_life", "3"],
            "There is no average with a half-life of 3 images: x holds the run's first average.",
        ),
    ],
)
def test_what_evaluate_cannot_score(exported: Path, refused: Refused, options: list[str], message: str) -> None:
    assert message in refused(*EVALUATE, *options)
