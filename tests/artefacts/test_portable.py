from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lightning_gan
from lightning_gan.__main__ import main
from lightning_gan.artefacts import export
from lightning_gan.errors import UserError
from tests.artefacts.generators import FAMILIES, save_checkpoint, trained


@pytest.fixture(params=[("dcgan", 3), ("stylegan2", 0)], ids=["conditional", "styles"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "last.ckpt", trained(*request.param), class_names=["a", "b", "c"][: request.param[1]])


def exported(checkpoint: Path, *options: str) -> Path:
    folder = checkpoint.with_suffix("")
    export.run(["--ckpt_path", str(checkpoint), "--output", str(folder), "--onnx", "false", *options])
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_what_is_read_back_is_what_was_written(family: str, num_classes: int, tmp_path: Path) -> None:
    generator = trained(family, num_classes)
    folder = exported(save_checkpoint(tmp_path / "last.ckpt", generator))
    for path in (folder, str(folder), folder / "generator.safetensors"):
        read = lightning_gan.load_generator(path)
        state = read.generator.state_dict()
        assert list(state) == list(generator.state_dict())
        assert all(torch.equal(state[name], x) for name, x in generator.state_dict().items())
        assert read.generator.record == generator.record
        assert (read.image_shape, read.num_classes, read.latent_dim) == ((3, 16, 16), num_classes, generator.latent_dim)
        z, y = torch.randn(2, read.latent_dim), torch.tensor([2, 0]) if num_classes else None
        assert torch.equal(read(z, y), generator(z, y))
        assert not read.training
        assert not any(parameter.requires_grad for parameter in read.parameters())


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (["--seed", "3", "--truncation", "0.5"], {"seed": 3, "truncation": 0.5}),
        (["--batch_size", "7"], {"batch_size": 7}),
    ],
)
def test_samples_are_those_of_the_command(
    checkpoint: Path, tmp_path: Path, options: list[str], arguments: dict[str, float]
) -> None:
    expected = None
    for source in (checkpoint, exported(checkpoint)):
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        assert (
            main(["sample", "--ckpt_path", str(source), "--num", "9", "--device", "cpu", "--output", str(output), *options])
            == 0
        )
        images = np.load(output)["arr_0"]
        sample = lightning_gan.load_generator(source).sample(9, **arguments)  # type: ignore[arg-type]  # of several types
        assert sample.dtype == torch.uint8
        assert not sample.is_inference()
        assert np.array_equal(sample.permute(0, 2, 3, 1).numpy(), images)
        assert expected is None or np.array_equal(images, expected)
        expected = images


def test_labels_of_samples(tmp_path: Path) -> None:
    generator = lightning_gan.load_generator(
        save_checkpoint(tmp_path / "last.ckpt", trained("dcgan", 3), class_names=["a", "b", "c"])
    )
    assert generator.class_names == ["a", "b", "c"]
    assert (
        generator(torch.empty(0, generator.latent_dim), torch.empty(0, dtype=torch.int64)).shape
        == generator.sample(0).shape
        == (0, 3, 16, 16)
    )
    twos = generator.sample(5, labels=2)
    same: list[Tensor | Sequence[int]] = [[2], range(2, 3), torch.tensor(2), torch.tensor([2, 2])]
    assert all(torch.equal(generator.sample(5, labels=labels), twos) for labels in same)
    assert torch.equal(generator.sample(5)[2::3], twos[2::3])
    assert not torch.equal(generator.sample(5), twos)
    for labels in (3, -1, [0, 3]):
        with pytest.raises(UserError, match=r"^There is no class -?[13]: this generator's classes are 0 to 2"):
            generator.sample(5, labels=labels)


def test_an_older_checkpoint_names_no_classes(tmp_path: Path) -> None:
    generator = lightning_gan.load_generator(save_checkpoint(tmp_path / "last.ckpt", trained("dcgan", 3)))
    assert generator.class_names == ["0", "1", "2"]


def test_interpolate_takes_an_export(checkpoint: Path, tmp_path: Path) -> None:
    pictures = []
    for source in (checkpoint, exported(checkpoint)):
        output = tmp_path / f"{source.name}.png"
        assert main(["interpolate", "--ckpt_path", str(source), "--rows", "2", "--steps", "2", "--output", str(output)]) == 0
        pictures.append(output.read_bytes())
    assert pictures[0] == pictures[1]


def test_further_averages(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "last.ckpt", trained("mlp"))
    first = lightning_gan.load_generator(exported(checkpoint))
    further = exported(checkpoint.rename(tmp_path / "further.ckpt"), "--half_life", "500")
    name = "generator.dense.bias"
    for read in (lightning_gan.load_generator(further), lightning_gan.load_generator(further, half_life=500)):
        assert torch.equal(read.get_parameter(name), 2 * first.get_parameter(name))
    with pytest.raises(UserError, match=r"half-life of 30 images: .*further holds that of 500 images\."):
        lightning_gan.load_generator(further, half_life=30)
    with pytest.raises(UserError, match=r"half-life of 500 images: .*last holds the run's first average\."):
        lightning_gan.load_generator(tmp_path / "last", half_life=500)
