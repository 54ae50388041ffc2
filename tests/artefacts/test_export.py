import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from lightning_gan import __version__, scorecard
from lightning_gan.artefacts import export
from lightning_gan.errors import UserError
from tests.artefacts.generators import save_checkpoint, trained

FINGERPRINT = "f" * 64
DATA = {"data": {"fingerprint": FINGERPRINT, "batch_size": 8}, "description": "Digits: 20 training images of 3x16x16"}
CONFIG = "data:\n  root: /secret\nmodel:\n  loss:\n    class_path: lightning_gan.losses.Hinge\nname: digits\n"


def exported(checkpoint: Path, output: Path, *options: str) -> dict[str, Any]:
    export.run(["--ckpt_path", str(checkpoint), "--output", str(output), *options])
    config: dict[str, Any] = json.loads((output / "config.json").read_text())
    return config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    names = ["zero", "one|two", "three"]
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", trained("dcgan", 3), class_names=names, **DATA)
    return tmp_path / "run"


@pytest.fixture
def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def write_scores(path: Path, fid: float, extractor: str = "classifier", **changes: Any) -> None:
    record = {
        "source": "/secret/run",
        "images_seen": 1000,
        "half_life": None,
        "seed": 0,
        "data": DATA["description"],
        "num_classes": 3,
        "samples": 5000,
        "floor_samples": 72,
        "extractor": {"name": extractor, "digest": f"digest of {extractor}"},
        "real": {"fingerprint": FINGERPRINT, "train": 20, "held_out": 72},
        "bank": 10000,
        "copies": {"generated": 2000, "train": 20},
        "device": "cpu",
        "seconds": 4.2,
    }
    scorecard.write(path, {"fid": fid, "fid_se": fid / 10, "kid": float("nan")}, {"fid": 0.25, "fid_se": 0.0}, record | changes)


def test_an_export_has_all_that_it_should(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = exported(checkpoint, tmp_path / "out", "--licence", "cc-by-4.0")
    names = ["README.md", "config.json", "generator.onnx", "generator.safetensors", "samples.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    out, err = capfd.readouterr()
    assert err == ""
    difference = config["onnx"]["largest_difference"]
    assert f"differs from PyTorch by at most {difference:.2g} (batches of 1, 2, 7; black to white is 2)" in out
    assert out.endswith(f"The generator is in {tmp_path / 'out'}\n")

    generator = trained("dcgan", 3)
    assert config["format"] == 1
    assert config["lightning_gan"] == __version__
    assert config["generator"]["class_path"] == "lightning_gan.networks.dcgan.DCGANGenerator"
    assert config["generator"]["init_args"] == generator.record["init_args"] | {"image_shape": [3, 16, 16]}
    assert config["class_names"] == ["zero", "one|two", "three"]
    assert (config["images_seen"], config["half_life"], config["scores"], config["licence"]) == (1000, None, None, "cc-by-4.0")
    assert config["data"] == {"description": DATA["description"], "fingerprint": FINGERPRINT}
    assert config["onnx"]["opset"] == 18
    assert set(config["versions"]) == {"torch", "onnx", "onnxscript", "onnxruntime"}
    weights = load_file(tmp_path / "out" / "generator.safetensors")
    assert all(torch.equal(weights[name], x) for name, x in generator.state_dict().items())
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert b"secret" not in content
        assert str(tmp_path).encode() not in content
        assert str(Path(torch.__file__).parent).encode() not in content


def test_each_row_of_the_picture_is_a_class(checkpoint: Path, tmp_path: Path) -> None:
    import lightning_gan

    exported(checkpoint, tmp_path / "out", "--onnx", "false")
    page = np.asarray(Image.open(tmp_path / "out" / "samples.png"))
    assert page.shape == (2 + 3 * 66, 2 + 8 * 66, 3)
    generator = lightning_gan.load_generator(checkpoint)
    images = generator.sample(24, labels=[0] * 8 + [1] * 8 + [2] * 8).permute(0, 2, 3, 1).numpy()
    shown = [page[2 + 66 * row :: 4, 2 + 66 * column :: 4][:16, :16] for row in range(3) for column in range(8)]
    assert np.array_equal(shown, images)


class TestCard:
    def front(self, card: str) -> dict[str, Any]:
        _, front, _ = card.split("---\n", 2)
        facts: dict[str, Any] = yaml.safe_load(front)
        return facts

    def test_what_model_hubs_read(self, checkpoint: Path, tmp_path: Path) -> None:
        exported(checkpoint, tmp_path / "out", "--onnx", "false", "--licence", "mine: [all] #rights")
        card = (tmp_path / "out" / "README.md").read_text()
        tags = ["gan", "image-generation", "dcgan"]
        assert self.front(card) == {"license": "mine: [all] #rights", "library_name": "lightning_gan", "tags": tags}
        assert "| licence | mine: \\[all\\] \\#rights |" in card

    def test_what_nobody_has_licensed(self, tmp_path: Path) -> None:
        exported(save_checkpoint(tmp_path / "x.ckpt", trained("mlp")), tmp_path / "out")
        card = (tmp_path / "out" / "README.md").read_text()
        tags = ["gan", "image-generation", "mlp", "onnx"]
        pipeline = {"pipeline_tag": "unconditional-image-generation", "tags": tags}
        assert self.front(card) == {"license": "unknown", "library_name": "lightning_gan", **pipeline}
        assert "| licence | unknown: none was named when this was exported |" in card
        assert "| training data | unknown |" in card
        assert "It had not been scored when it was exported." in card

    def test_what_it_says(self, checkpoint: Path, tmp_path: Path) -> None:
        exported(checkpoint, tmp_path / "out", "--onnx", "false")
        card = (tmp_path / "out" / "README.md").read_text()
        assert "# DCGAN trained on Digits\n\n![A grid of generated images, each row of one class](samples.png)" in card
        assert "| classes | 0 zero, 1 one\\|two, 2 three |" in card  # no column more
        assert "| training | 1,000 images seen; weights averaged over training |" in card
        assert f"| fingerprint of the data | `{FINGERPRINT}` |" in card
        assert "```yaml\nmodel:\n  loss:\n    class_path: lightning_gan.losses.Hinge\n```" in card

    def test_a_configuration_above_is_not_the_run_s(self, checkpoint: Path, tmp_path: Path) -> None:
        other = checkpoint.rename(checkpoint.parents[1] / "best.ckpt")
        (tmp_path / "config.yaml").write_text("model:\n  password: secret\n")
        exported(other, tmp_path / "out", "--onnx", "false")
        card = (tmp_path / "out" / "README.md").read_text()
        assert "## Recipe" not in card
        assert "secret" not in card

    @pytest.mark.parametrize(("family", "num_classes"), [("dcgan", 3), ("stylegan2", 0)])
    def test_its_code_runs(self, family: str, num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnxruntime

        exported(save_checkpoint(tmp_path / "x.ckpt", trained(family, num_classes, (3, 8, 8))), tmp_path / "out")
        monkeypatch.chdir(tmp_path / "out")
        blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
        assert len(blocks) == 2
        names: dict[str, Any] = {}
        for block in blocks:
            exec(block, names)
        assert names["images"].shape == (16, 3, 8, 8)
        assert isinstance(names["session"], onnxruntime.InferenceSession)
        assert (names["pixels"].shape, names["pixels"].dtype) == ((16, 3, 8, 8), np.uint8)


class TestScores:
    def test_those_of_most_images_of_this_very_generator(self, run: Path, checkpoint: Path, tmp_path: Path) -> None:
        write_scores(run / "scores.json", 0.5)
        write_scores(checkpoint.with_name("last.50000-classifier.scores.json"), 0.75, samples=50000)
        write_scores(checkpoint.with_name("last.inception.scores.json"), 8.0, "inception", samples=2000)
        others: dict[str, dict[str, Any]] = {
            "seen": {"images_seen": 999},
            "average": {"half_life": 500},
            "data": {"real": {"fingerprint": "other", "train": 20, "held_out": 72}},
        }
        for name, changes in others.items():
            write_scores(checkpoint.with_name(f"{name}.scores.json"), 99.0, samples=10**6, **changes)
        checkpoint.with_name("broken.scores.json").write_text("{")
        checkpoint.with_name("other.scores.json").write_text('{"images_seen": 1000, "half_life": null}')
        config = exported(checkpoint, tmp_path / "out", "--onnx", "false")
        assert config["scores"]["scores"] == {"fid_classifier": 0.75, "fid_se_classifier": 0.075, "kid_classifier": None}
        assert config["scores"]["held_out_real"]["fid_classifier"] == 0.25
        assert (config["scores"]["samples"], config["scores"]["extractor"]["digest"]) == (50000, "digest of classifier")
        card = (tmp_path / "out" / "README.md").read_text()
        assert "fid_classifier  0.750 ± 0.075  0.250          lower" in card
        assert "(digest digest of classifier)" in card
        assert "beside 72 held-out real images" in card
        assert "  fid  8.00 ± 0.80  0.250          lower" in card
        assert card.index("50,000 images") < card.index("2,000 images")
        assert "99.0" not in card
        assert "secret" not in card + json.dumps(config)

    def test_of_a_further_average(self, checkpoint: Path, tmp_path: Path) -> None:
        write_scores(checkpoint.with_name("last.scores.json"), 0.75)
        write_scores(checkpoint.with_name("last.half_life_500.scores.json"), 0.5, half_life=500.0)
        config = exported(checkpoint, tmp_path / "out", "--onnx", "false", "--half_life", "500")
        assert config["scores"]["scores"]["fid_classifier"] == 0.5


class TestWeb:
    def page(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        calls = []

        def write(folder: Path, config: dict[str, Any], onnx: Path) -> Path:
            assert onnx.is_file()
            calls.append(config)
            (folder / "index.html").write_text("page")
            return folder / "index.html"

        module = SimpleNamespace(write=write, runtime=lambda: None)
        monkeypatch.setitem(sys.modules, "lightning_gan.artefacts.web", module)
        monkeypatch.setattr("lightning_gan.artefacts.web", module, raising=False)
        return calls

    def test_a_page_is_written_where_it_is_asked_for(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = self.page(monkeypatch)
        config = exported(checkpoint, tmp_path / "out", "--web", "true")
        assert calls == [config]
        assert (tmp_path / "out" / "index.html").read_text() == "page"
        assert "[index.html](index.html)" in (tmp_path / "out" / "README.md").read_text()

    def test_what_it_lacks_is_known_before_anything_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("LIGHTNING_GAN_CACHE", str(tmp_path / "cache"))
        (tmp_path / "x.ckpt").write_text("no checkpoint")
        with pytest.raises(UserError, match=r"with npm, which is not there: install Node\.js"):
            exported(tmp_path / "x.ckpt", tmp_path / "out", "--web", "true")

    def test_it_needs_the_onnx_file(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="--web true runs the generator's ONNX file, which --onnx false leaves out"):
            exported(checkpoint, tmp_path / "out", "--web", "true", "--onnx", "false")


class TestPackages:
    def test_without_them_the_file_is_left_out(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for package in ("onnxscript", "onnxruntime"):
            monkeypatch.setitem(sys.modules, package, None)
        config = exported(checkpoint, tmp_path / "out")
        assert "needs the packages onnxscript and onnxruntime (pip install onnxscript onnxruntime)." in capsys.readouterr().out
        assert config["onnx"] is None
        assert "onnx" not in (tmp_path / "out" / "README.md").read_text().lower()
        assert not (tmp_path / "out" / "generator.onnx").exists()

    @pytest.mark.parametrize("option", ["--onnx", "--web"])
    def test_who_asks_for_it_is_told(
        self, checkpoint: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UserError, match=rf"{option} true needs the package onnxruntime \(pip install onnxruntime\)\."):
            exported(checkpoint, tmp_path / "out", option, "true")
        assert not (tmp_path / "out").exists()


class TestAllOrNothing:
    def left(self, tmp_path: Path) -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    def test_a_new_folder_an_empty_one_and_no_other(self, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to("empty")
        exported(checkpoint, tmp_path / "link", "--onnx", "false")
        exported(checkpoint, tmp_path / "new" / "folder", "--onnx", "false")
        for name in ("empty", "link", "new"):
            with pytest.raises(UserError, match="exists already"):
                exported(checkpoint, tmp_path / name, "--onnx", "false")
        assert self.left(tmp_path) == ["empty", "link", "new", "run"]
        assert (tmp_path / "link").is_symlink()

    def test_a_full_disk(self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: Any, **kwargs: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match=r"out could not be written: No space left on device\."):
            exported(checkpoint, tmp_path / "out", "--onnx", "false")
        assert self.left(tmp_path) == ["run"]

    def test_a_file_system_that_does_not_sync_folders(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sync(path: Path) -> None:
            if path.is_dir():
                raise OSError(22, "Invalid argument")

        monkeypatch.setattr(export, "sync", sync)
        exported(checkpoint, tmp_path / "out", "--onnx", "false")
        assert self.left(tmp_path) == ["out", "run"]

    def test_an_onnx_file_that_differs(self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lightning_gan.artefacts.onnx_file.TOLERANCE", 0.0)
        with pytest.raises(UserError, match="leave that file out with --onnx false"):
            exported(checkpoint, tmp_path / "out")
        assert self.left(tmp_path) == ["run"]

    def test_a_generator_that_has_diverged(self, tmp_path: Path) -> None:
        generator = trained("dcgan", 20)
        generator.get_parameter("embed.weight")[19] = float("nan")  # of a class that the picture does not show
        checkpoint = save_checkpoint(tmp_path / "x.ckpt", generator)
        with pytest.raises(UserError, match="not finite: its training diverged"):
            exported(checkpoint, tmp_path / "out")
        assert self.left(tmp_path) == ["x.ckpt"]

    def test_what_json_cannot_hold(self, tmp_path: Path) -> None:
        generator = trained("dcgan", channels=[8, 4])
        generator.record["init_args"]["width"] = float("inf")  # in whose place the channels are
        checkpoint = save_checkpoint(tmp_path / "x.ckpt", generator)
        with pytest.raises(UserError, match="DCGANGenerator was built from what JSON cannot hold"):
            exported(checkpoint, tmp_path / "out", "--onnx", "false")
        assert self.left(tmp_path) == ["x.ckpt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--licence", " "], "--licence takes the name of one on a line"),
        (["--licence", "a\nb"], "--licence takes the name of one on a line"),
        (["--half_life", "3"], "There is no average with a half-life of 3 images: of further ones"),
        (["--module", "nowhere"], "--module nowhere cannot be imported"),
        (["--ckpt_path", "missing.ckpt"], "There is no checkpoint missing.ckpt."),
        (["--ckpt_path", "."], ". is an export, or no checkpoint at all"),
        (["--onxn", "true"], "There is no option --onxn. Did you mean --onnx?"),
    ],
)
def test_what_a_user_can_get_wrong(checkpoint: Path, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        exported(checkpoint, tmp_path / "out", *options)
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()
