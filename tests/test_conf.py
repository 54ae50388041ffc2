"""Every named run trains, on little data made here."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_gan.__main__ import main
from lightning_gan.gan import GAN
from lightning_gan.networks.base import build

CONF = Path(__file__).parents[1] / "conf"
STEPS = 5  # of D; the most that a run has for one of G
SLIM_SNGAN = [f"--model.{network}.width=8" for network in ("generator", "discriminator")]
SLIM_STYLEGAN2 = [f"--model.{network}.channel_base=512" for network in ("generator", "discriminator")]
SLIM = {  # networks of a paper's size, which take half a minute a step, at a fraction of their width
    "celeba64-r3gan.yaml": [f"--model.{network}.width=32" for network in ("generator", "discriminator")],
    "celeba64-sngan.yaml": SLIM_SNGAN,
    "celeba64-sngan-smiling.yaml": SLIM_SNGAN,
    "celeba64-stylegan2.yaml": SLIM_STYLEGAN2,
    "folder-stylegan2-ada.yaml": SLIM_STYLEGAN2,
}
RUNS = sorted(path.name for path in CONF.glob("*.yaml"))


IMAGE_SHAPES = {
    "digits": (1, 16, 16),
    "digits32": (1, 32, 32),
    "mnist": (1, 28, 28),
    "mnist32": (1, 32, 32),
    "celeba64": (3, 64, 64),
    "folder": (3, 64, 64),
}
PARAMETERS = {  # of G and D; the families' own tests work them out by hand and compare them with the papers
    "celeba64-cgan-smiling": (2_043_723, 176_321),
    "celeba64-dcgan": (1_224_323, 167_105),
    "celeba64-pooling": (13_277_952, 1_142_081),
    "celeba64-r3gan": (22_429_824, 22_381_440),
    "celeba64-sngan-smiling": (12_226_435, 10_143_489),
    "celeba64-sngan": (12_220_675, 10_141_441),
    "celeba64-stylegan2": (23_819_544, 23_407_361),
    "celeba64-wgan-gp": (3_584_899, 2_764_737),
    "celeba64-wgan": (3_584_899, 2_764_737),
    "digits-cgan": (545_129, 138_049),
    "digits-dcgan": (339_329, 34_401),
    "digits-lsgan": (111_744, 53_121),
    "digits-mlp": (223_360, 131_841),
    "digits-pooling": (945_152, 150_145),
    "digits-r3gan": (90_784, 86_752),
    "digits-sngan": (293_953, 66_529),
    "digits-stylegan2": (177_128, 210_977),
    "digits-wgan-gp": (339_329, 34_401),
    "digits-wgan": (339_329, 34_401),
    "digits32-dcgan": (959_873, 140_481),
    "folder-stylegan2-ada": (23_819_544, 23_407_361),
    "folder": (3_584_899, 2_765_633),
    "mnist-cgan": (1_394_153, 147_553),
    "mnist-dcgan-gp": (1_794_049, 138_561),
    "mnist-dcgan": (1_794_049, 138_561),
    "mnist-lsgan": (247_440, 55_233),
    "mnist-mlp-conv": (247_440, 55_233),
    "mnist-mlp-minimax": (291_472, 267_009),
    "mnist-mlp": (291_472, 267_009),
    "mnist-pooling": (1_486_352, 420_481),
    "mnist-r3gan": (64_016, 59_984),
    "mnist": (247_236, 820_369),
    "mnist-sngan": (566_401, 66_529),
    "mnist-wgan-gp": (1_794_049, 138_561),
    "mnist-wgan": (1_794_049, 138_561),
    "mnist32-dcgan": (959_873, 140_481),
}


def write_idx(path: Path, array: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For each data set, a root folder with a few images of noise."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 40), ("t10k", 20)):
        raw = folder / "MNIST" / "raw"
        write_idx(raw / f"{split}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    for name, count in (("celeba/img_align_celeba", 24), ("photos", 24)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture = rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i + 1:06d}.jpg")
    table = ["24", "Young Smiling", *(f"{i + 1:06d}.jpg {(-1) ** i} {(-1) ** (i // 2)}" for i in range(24))]
    (folder / "celeba" / "list_attr_celeba.txt").write_text("\n".join(table))
    return {"mnist": str(folder), "celeba": str(folder), "folder": str(folder / "photos")}


def test_the_runs_are_all_here() -> None:
    for recipe in ("dcgan", "wgan", "wgan-gp", "pooling", "sngan", "r3gan"):
        assert {f"mnist-{recipe}.yaml", f"celeba64-{recipe}.yaml", f"digits-{recipe}.yaml"} <= set(RUNS)
    for recipe in ("mlp", "lsgan", "cgan"):
        assert {f"mnist-{recipe}.yaml", f"digits-{recipe}.yaml"} <= set(RUNS)
    assert {"mnist32-dcgan.yaml", "celeba64-stylegan2.yaml", "digits-stylegan2.yaml", "folder.yaml"} <= set(RUNS)


class Isolation:
    """Takes the place of one of GAN's steps and checks that it changes its own network alone."""

    def __init__(self, patch: pytest.MonkeyPatch, own: str) -> None:
        self.step: Callable[..., Any] = getattr(GAN, f"{own}_step")
        self.own = own
        self.taken = 0
        patch.setattr(GAN, f"{own}_step", lambda gan, *args: self(gan, *args))

    def __call__(self, gan: GAN, *args: Any) -> Any:
        self.critic_steps = gan.critic_steps
        before = {name: self.state(gan, name) for name in ("generator", "discriminator", "average")}
        scalars = self.step(gan, *args)
        assert all(scalar.isfinite() for scalar in scalars.values())
        for name, old in before.items():
            new = self.state(gan, name)
            same = {key for key in new if new[key] is old[key] or (old[key] is not None and torch.equal(new[key], old[key]))}
            changed = new.keys() - same
            if name != self.own:
                assert not changed
            else:
                parameters = dict(getattr(gan, name).named_parameters())
                assert any(key in parameters for key in changed)
                assert {f"{key}.grad" for key in parameters} <= {key for key, value in new.items() if value is not None}
        self.taken += 1
        return scalars

    def state(self, gan: GAN, name: str) -> dict[str, Any]:
        """Copy a network's weights, buffers and gradients."""
        network = getattr(gan, name)
        return copy.deepcopy({**network.state_dict(), **{f"{key}.grad": p.grad for key, p in network.named_parameters()}})


@pytest.mark.parametrize("name", RUNS)
def test_it_fits_and_each_step_changes_its_own_network_alone(
    name: str, roots: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = next((["--data.root", root] for data, root in roots.items() if name.startswith(data)), [])
    small = ["--data.batch_size", "8", "--wandb", "off", "--trainer.accelerator", "cpu", "--walks.rows", "0"]
    small += ["--evaluation.num_samples", "0", "--samples.rows", "1", "--samples.columns", "1", "--max_images"]
    isolations = [Isolation(monkeypatch, own) for own in ("discriminator", "generator")]
    assert main(["fit", "-c", str(CONF / name), *options, *SLIM.get(name, []), *small, str(8 * STEPS)]) == 0
    assert [isolation.taken for isolation in isolations] == [STEPS, STEPS // isolations[0].critic_steps]
    checkpoint = torch.load(f"runs/{Path(name).stem}/0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS


@pytest.mark.parametrize("name", RUNS)
def test_its_networks_have_so_many_parameters(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(CONF / name), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    conditional = config["data"]["init_args"]["conditional"]
    facts = {
        "image_shape": IMAGE_SHAPES[name.removesuffix(".yaml").split("-")[0]],
        "num_classes": (2 if name.startswith("celeba") else 10) if conditional else 0,
    }
    counts = []
    for network in ("generator", "discriminator"):
        record = config["model"][network]
        with torch.device("meta"):
            built = build({"class_path": record["class_path"], "init_args": {**record.get("init_args", {}), **facts}})
        counts.append(sum(parameter.numel() for parameter in built.parameters()))
    assert tuple(counts) == PARAMETERS[name.removesuffix(".yaml")]


@pytest.mark.parametrize("name", RUNS)
def test_it_is_headed_by_its_command_and_what_it_measured(name: str) -> None:
    head = (CONF / name).read_text().split("\ninclude")[0]
    assert f"python -m lightning_gan fit -c conf/{name}" in head
    assert "measured" in head.lower()
