"""The commands that score: validate, test and evaluate; and what they say of each other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_gan.__main__ import main
from lightning_gan.artefacts import export

pytestmark = pytest.mark.filterwarnings("ignore:(G has collapsed|D has won|G repeats training images) after")

DATA = ["--data", "Digits", "--data.image_size", "8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, scored."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    small = ["--data.image_size", "8", "--data.batch_size", "32", "--max_images", "160", "--trainer.accelerator", "cpu"]
    small += ["--model.generator.width", "4", "--model.discriminator.width", "4", "--data.conditional", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        scores = ["--evaluation.num_samples", "200", "--evaluation.test_samples", "300"]
        assert main(["fit", *small, *scores, "--wandb", "off", "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def test_validate_repeats_the_scores_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["validate", "-c", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/last.ckpt"]) == 0
    fid = read(run / "scores.json")["scores"]["fid_classifier"]
    line = next(line for line in capsys.readouterr().out.splitlines() if "fid_classifier" in line)
    assert float(line.split()[1]) == pytest.approx(fid, rel=1e-2)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_test_and_evaluate_agree_on_the_same_images(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert main(["test", "-c", f"{run}/config.yaml", "--ckpt_path", str(checkpoint)]) == 0
    tested = read(checkpoint.with_name("last.300-classifier.scores.json"))
    assert tested["samples"] == 300
    assert tested["seed"] == 0
    out = capsys.readouterr().out
    assert "held-out real" in out
    assert "last.300-classifier.scores.json" in out

    for output in ("samples.npz", "pngs"):
        assert main(["sample", "--ckpt_path", str(checkpoint), "--num", "300", "--seed", "0", "--output", output]) == 0
        assert main(["evaluate", "--samples", output, "-c", f"{run}/config.yaml"]) == 0
        evaluated = read(folder / f"{output}.classifier.scores.json")
        of_images = {name: value for name, value in tested["scores"].items() if not name.startswith("d_")}
        assert evaluated["scores"] == pytest.approx(of_images, rel=1e-9, abs=1e-12)
        assert evaluated["held_out_real"] == pytest.approx(tested["held_out_real"])
        assert evaluated["extractor"] == tested["extractor"]
        assert evaluated["source"] == output
        assert len(evaluated["source_sha256"]) == 64


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditional") / "run"
    small = ["--data.image_size", "8", "--data.batch_size", "32", "--max_images", "96", "--trainer.accelerator", "cpu"]
    small += ["--model.generator.width", "4", "--model.discriminator.width", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        scores = ["--evaluation.num_samples", "0", "--evaluation.test_samples", "300"]
        assert main(["fit", *small, *scores, "--wandb", "off", "--run_dir", str(folder)]) == 0
    return folder


def test_a_generator_is_scored_as_in_test_without_its_run(
    conditional_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = conditional_run / "checkpoints" / "last.ckpt"
    assert main(["test", "-c", f"{conditional_run}/config.yaml", "--ckpt_path", str(checkpoint)]) == 0
    tested = read(checkpoint.with_name("last.300-classifier.scores.json"))
    export.run(["--ckpt_path", str(checkpoint), "--output", "exported", "--onnx", "false"])
    described = read(folder / "exported" / "config.json")
    assert described["class_names"] == [str(digit) for digit in range(10)]
    assert described["data"] == {"description": tested["data"], "fingerprint": tested["real"]["fingerprint"]}
    assert described["scores"] == {name: value for name, value in tested.items() if name != "source"}
    for path in (folder / "exported").iterdir():
        assert str(conditional_run).encode() not in path.read_bytes()

    config = str(Path(__file__).parents[1] / "conf" / "data" / "digits.yaml")
    options = ["-c", config, "--data.image_size", "8", "--num", "300"]
    for source in (str(checkpoint), "exported", "exported/generator.safetensors"):
        output = f"{len(source)}.json"
        assert main(["evaluate", "--ckpt_path", source, *options, "--output", output]) == 0
        evaluated = read(folder / output)
        of_images = {name: value for name, value in tested["scores"].items() if not name.startswith("d_")}
        assert evaluated["scores"] == of_images  # to the bit
        names = ("held_out_real", "extractor", "real", "images_seen", "half_life", "seed", "samples", "data")
        assert {name: evaluated[name] for name in names} == {name: tested[name] for name in names}
        assert evaluated["source"] == source
    assert main(["evaluate", "--ckpt_path", "exported", *options, "--seed", "1"]) == 0
    assert read(folder / "exported.classifier.scores.json")["scores"] != of_images
    monkeypatch.chdir("exported")
    files = set(Path.cwd().iterdir())
    assert main(["evaluate", "--ckpt_path", ".", *options]) == 0
    assert set(Path.cwd().iterdir()) == files
    assert read(folder / "exported.classifier.scores.json")["scores"] == of_images


def test_real_images_are_all_copies_of_themselves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_gan.data import Digits

    images, _ = Digits(image_size=8).images("train")
    np.savez("real.npz", images.permute(0, 2, 3, 1).numpy())
    assert main(["evaluate", "--samples", "real.npz", *DATA, "--extractor", "Random", "--output", "scores.json"]) == 0
    scores = read(folder / "scores.json")["scores"]
    assert scores["fid_random"] == pytest.approx(0, abs=1e-6)
    assert scores["copy_rate_random"] == 1
    assert scores["coverage_random"] == 1
    assert "random: as chosen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate", *DATA], "samples"),
        (["evaluate", "--samples", "good.npy"], "data"),
        (["evaluate", "--ckpt_path", "missing.ckpt", *DATA], "There is no checkpoint missing.ckpt."),
        (["evaluate", "--samples", "missing.npz", *DATA], "missing.npz"),
        (["evaluate", "--samples", "large.npy", *DATA], "(N, 8, 8, 1)"),
        (["evaluate", "--samples", "good.npy", *DATA, "--device", "cuda:99"], "--device cuda:99 cannot be used"),
        (["evaluate", "--samples", "good.npy", *DATA, "--extractor", "Inception"], "weights-inception-2015-12-05-6726825d.pth"),
        (["evaluate", "--samples", "good.npy", *DATA, "--extractor", "Inceptoin"], "Inceptoin"),
        (["evaluate", "--samples", "good.npy", "-c", "none.yaml"], "none.yaml"),
        (["evaluate", "--samples", "good.npy", *DATA, "--output", "good.npy/x.json"], "good.npy/x.json"),
        (["test"], "--ckpt_path"),
        (["fit", "--evaluation.best", "beauty", "--wandb", "off"], "no score 'beauty'"),
        (["fit", "--evaluation.extractor", "Inception", "--wandb", "off"], "weights-inception-2015-12-05-6726825d.pth"),
        (["fit", "--evaluation.num_samples", "-1", "--wandb", "off"], "-1 samples"),
    ],
)
def test_what_a_user_can_get_wrong_ends_in_one_sentence(
    args: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    np.save("good.npy", np.zeros((20, 8, 8, 1), np.uint8))
    np.save("large.npy", np.zeros((20, 9, 9, 1), np.uint8))
    assert main(args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (folder / "runs").exists() or not list((folder / "runs").rglob("*.*"))
