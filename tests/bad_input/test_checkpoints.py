"""What can be wrong with a checkpoint, under every command that reads one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gan.__main__ import main
from tests.bad_input.conftest import Refused, saved

COMMANDS = ["fit", "validate", "test", "sample", "interpolate"]
Content = dict[str, Any]


def command(name: str, run: Path) -> list[str]:
    """Read the checkpoint `x.ckpt`."""
    if name in ("sample", "interpolate"):
        return [name, "--ckpt_path", "x.ckpt"]
    more = ["--max_images", "16", "--run_dir", "new"] if name == "fit" else ["--evaluation.extractor", "Random"]
    return [name, "-c", str(run / "config.yaml"), "--ckpt_path", "x.ckpt", "--evaluation.num_samples", "4", *more]


def of_a_newer_format(content: Content) -> bytes:
    record = content["lightning_gan"]
    return saved(content | {"lightning_gan": record | {"version": "99.0.0", "format": record.get("format", 0) + 1}})


@pytest.mark.parametrize("name", ["fit", "test", "sample"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "There is no checkpoint x.ckpt."),
        (lambda content: b"", "x.ckpt is damaged, or not a checkpoint."),
        (lambda content: b"to be, or not to be", "x.ckpt is damaged, or not a checkpoint."),
        (lambda content: saved(content)[:-1000], "x.ckpt is damaged, or not a checkpoint."),
        (lambda content: saved(content["state_dict"]), "x.ckpt is not a checkpoint of lightning_gan."),
        (lambda content: saved([1, 2]), "x.ckpt is not a checkpoint of lightning_gan."),
        (
            lambda content: saved({name: value for name, value in content.items() if name != "lightning_gan"}),
            "x.ckpt is not a checkpoint of lightning_gan.",
        ),
        (of_a_newer_format, "x.ckpt was written by lightning_gan 99.0.0"),
    ],
)
def test_files(
    folder: Path,
    run: Path,
    checkpoint: Content,
    refused: Refused,
    name: str,
    make: Callable[[Content], bytes] | None,
    message: str,
) -> None:
    if make:
        (folder / "x.ckpt").write_bytes(make(checkpoint))
    assert message in refused(*command(name, run))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flipped_bit_of_a_weight(folder: Path, run: Path, checkpoint: Content, refused: Refused, name: str) -> None:
    content = bytearray((run / "checkpoints" / "last.ckpt").read_bytes())
    weights = checkpoint["state_dict"]["average.generator.dense.weight"].numpy().tobytes()
    content[content.index(weights) + 10] ^= 1
    (folder / "x.ckpt").write_bytes(content)
    assert refused(*command(name, run)) == "x.ckpt is damaged, or not a checkpoint."


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("class_path", "nowhere.Network", "nowhere.Network is no network of lightning_gan"),
        ("class_path", "lightning_gan.networks.dcgan.DCGANDiscriminator", "does not fit this version of its code"),
        ("init_args", {}, "does not fit this version of its code"),
        ("init_args", {"image_shape": (1, 8, 8), "width": 8}, "does not fit this version of its code"),
        ("init_args", {"image_shape": (1, 8, 8), "width": 10**9}, "does not fit this version of its code"),
        ("init_args", {"image_shape": (1, 8, 8), "width": 10**30}, "does not fit this version of its code"),
        ("init_args", {"image_shape": (1, 8, 8), "width": float("inf")}, "does not fit this version of its code"),
        ("init_args", {"image_shape": (1, 0, 0)}, "does not fit this version of its code"),
        ("init_args", {"image_shape": 3}, "does not fit this version of its code"),
    ],
)
def test_records_of_a_generator(
    folder: Path, checkpoint: Content, refused: Refused, entry: str, value: Any, message: str
) -> None:
    checkpoint["lightning_gan"]["generator"][entry] = value
    (folder / "x.ckpt").write_bytes(saved(checkpoint))
    assert message in refused("sample", "--ckpt_path", "x.ckpt")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"blocks": 10**9}, "it would have more than 3,000 parameters"),
        ({"group_width": 0}, "does not fit this version of its code"),
    ],
)
def test_records_of_a_larger_network(
    folder: Path, checkpoint: Content, refused: Refused, argument: dict[str, int], message: str
) -> None:
    arguments = {"image_shape": (1, 8, 8), "channels": [1, 1], "group_width": 1} | argument
    record = {"class_path": "lightning_gan.networks.r3gan.R3GANGenerator", "init_args": arguments}
    checkpoint["lightning_gan"]["generator"] = record
    (folder / "x.ckpt").write_bytes(saved(checkpoint))
    assert message in refused("sample", "--ckpt_path", "x.ckpt")


def test_networks_that_differ(folder: Path, run: Path, checkpoint: Content, refused: Refused) -> None:
    (folder / "x.ckpt").write_bytes(saved(checkpoint))
    for name in ("fit", "validate", "test"):
        assert "Start from the run's own configuration with -c RUN/config.yaml." in refused(
            *command(name, run), "--model.generator.width", "6"
        )


OWN = """
from pathlib import Path
from lightning_gan.networks import DCGANGenerator
Path("imported").touch()
class Own(DCGANGenerator):
    pass
"""


def test_a_network_of_ones_own_is_imported_when_its_user_says_so(
    folder: Path, checkpoint: Content, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)  # as `python -m` does
    checkpoint["lightning_gan"]["generator"]["class_path"] = "own_networks.Own"
    (folder / "x.ckpt").write_bytes(saved(checkpoint))
    (folder / "own_networks.py").write_text(OWN)
    assert "import its module (--module) first" in refused("sample", "--ckpt_path", "x.ckpt")
    assert "--module nowhere cannot be imported" in refused("sample", "--ckpt_path", "x.ckpt", "--module", "nowhere")
    assert main(["sample", "--ckpt_path", "x.ckpt", "--module", "own_networks", "--num", "2"]) == 0
    assert (folder / "imported").exists()


def test_a_plain_tensor_is_no_checkpoint(folder: Path, refused: Refused) -> None:
    (folder / "x.ckpt").write_bytes(saved(torch.zeros(3)))
    assert "x.ckpt" in refused("sample", "--ckpt_path", "x.ckpt")
