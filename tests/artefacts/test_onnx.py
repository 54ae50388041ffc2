from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from lightning_gan import randomness
from lightning_gan.artefacts import onnx_file
from lightning_gan.errors import UserError
from lightning_gan.networks import Generator, StyleGenerator
from lightning_gan.sampling import truncated
from tests.artefacts.generators import FAMILIES, trained


class Undecided(Generator):
    """What it does depends on the values that it sees, which no graph can say."""

    def __init__(self) -> None:
        super().__init__((1, 2, 2), latent_dim=4)
        self.scale = torch.nn.Parameter(torch.ones(4))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = z * self.scale if z.sum() > 0 else z.square()
        return x.view(-1, 1, 2, 2)


def images_of(path: Path, **inputs: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    (images,) = session.run(["images"], {name: x.numpy() for name, x in inputs.items()})
    return torch.from_numpy(images)


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_images(
    family: str, num_classes: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = trained(family, num_classes, (3, 16, 16) if num_classes else (1, 8, 8))
    path = tmp_path / "generator.onnx"
    checked = onnx_file.write(path, generator)
    assert capfd.readouterr() == ("", "")
    assert 0 < checked["largest_difference"] < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["generator.onnx"]  # the weights are inside

    for n in (1, 4, 33):  # others than it was checked with
        z = torch.randn(n, generator.latent_dim)
        y = torch.randint(num_classes, (n,)) if num_classes else None
        labels = {} if y is None else {"y": y}
        if not isinstance(generator, StyleGenerator):
            images = images_of(path, z=z, **labels)
            assert images.dtype == torch.float32
            assert_close(images, generator(z, y), atol=1e-4, rtol=1e-4)
            continue
        for truncation in (1.0, 0.3, 0.0, -1.0):
            images = images_of(path, z=z, truncation=torch.tensor(truncation), **labels)
            assert_close(images, truncated(generator, z, y, truncation), atol=1e-4, rtol=1e-4)

    model = onnx.load(path)
    inputs = {"z": ("N", generator.latent_dim), "y": ("N",), "truncation": ()}
    kinds = {"z": onnx.TensorProto.FLOAT, "y": onnx.TensorProto.INT64, "truncation": onnx.TensorProto.FLOAT}
    wanted = ["z", *(["y"] if num_classes else []), *(["truncation"] if isinstance(generator, StyleGenerator) else [])]
    assert [value.name for value in model.graph.input] == wanted
    for value in model.graph.input:
        of_tensor = value.type.tensor_type
        assert of_tensor.elem_type == kinds[value.name]
        assert tuple(d.dim_param or d.dim_value for d in of_tensor.shape.dim) == inputs[value.name]
    (output,) = model.graph.output
    assert tuple(d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim) == ("N", *generator.image_shape)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]  # no operators but ONNX's own
    content = path.read_bytes()
    assert b".py" not in content  # the exporter notes the source's paths
    assert len(content) < 20_000 + 1.1 * sum(x.nbytes for x in generator.state_dict().values())


def test_a_file_that_gives_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, other = trained("mlp"), trained("mlp")
    other.get_parameter("dense.bias").add_(0.01)
    exported = onnx_file._exported
    monkeypatch.setattr(onnx_file, "_exported", lambda _: exported(other))
    with pytest.raises(UserError, match=r"MLPGenerator gives images that differ by up to 0\.00\d+ from PyTorch's"):
        onnx_file.write(tmp_path / "generator.onnx", generator)


class Large(Generator):
    """Gives images that no image should be as bright as."""

    def __init__(self) -> None:
        super().__init__((1, 2, 2), latent_dim=4)
        self.scale = torch.nn.Parameter(torch.full((4,), 100.0))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return (z * self.scale).view(-1, 1, 2, 2)


class Session:
    """Gives the images of a generator, but for what is added to those of one batch size."""

    generator: Generator
    differences: dict[int, float]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def run(self, _: list[str], inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        images: NDArray[np.float32] = self.generator(torch.from_numpy(inputs["z"])).numpy()
        return [images + np.float32(self.differences[len(images)])]


def test_the_largest_difference_is_that_of_the_largest_images_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large values a difference is less, but it is reported nevertheless."""
    generator = Large().eval().requires_grad_(False)
    sizes = {n: float(generator(randomness.numbered_latents(generator.latents, 0, 0, n)).abs().max()) for n in (1, 7)}
    assert sizes[1] < sizes[7] / 1.2
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(Session, "generator", generator, raising=False)
    monkeypatch.setattr(Session, "differences", {1: 0.5, 2: 0.0, 7: 0.55}, raising=False)
    monkeypatch.setattr(onnx_file, "TOLERANCE", 1.0)
    checked = onnx_file.write(tmp_path / "generator.onnx", generator)
    assert_close(checked["largest_difference"], 0.55, atol=1e-3, rtol=0)


def test_a_generator_that_no_graph_can_say(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"Undecided cannot be exported to ONNX .*: leave it out with --onnx false"):
        onnx_file.write(tmp_path / "generator.onnx", Undecided().eval().requires_grad_(False))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_generator_that_no_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT", 100)
    with pytest.raises(UserError, match="An ONNX file holds 2 GiB at most"):
        onnx_file.write(tmp_path / "generator.onnx", trained("mlp"))
