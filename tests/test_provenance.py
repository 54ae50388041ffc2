import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from lightning_gan import __version__, provenance
from lightning_gan.callbacks.speed import Speed
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN
from lightning_gan.provenance import LogConfig
from lightning_gan.tracking import MetricsCSV


def trainer(data: DataModule) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(datamodule=data, strategy=strategy, world_size=2, precision="bf16-mixed")


def test_it_names_data_code_and_machine(digits: DataModule) -> None:
    found = provenance.provenance(trainer(digits))
    assert found["data"] == {"description": digits.description, "fingerprint": digits.fingerprint}
    assert set(found["code"]) == {"commit", "dirty"}
    environment = found["environment"]
    assert environment["lightning_gan"] == __version__
    assert torch.__version__.startswith(environment["torch"])
    assert [environment[name] for name in ("device", "processes", "precision")] == ["cpu", 2, "bf16-mixed"]


def test_it_is_kept_in_the_run_folder(make_gan: Callable[..., GAN], digits: DataModule, tmp_path: Path) -> None:
    run = trainer(digits)
    run.default_root_dir, run.loggers = tmp_path, [MetricsCSV(tmp_path), Speed(tmp_path)]
    config = Namespace()  # type: ignore[no-untyped-call]  # in jsonargparse
    LogConfig(LightningArgumentParser(), config).save_config(run, make_gan(), "fit")
    assert json.loads((tmp_path / "provenance.json").read_text()) == provenance.provenance(run)


class TestTheCommit:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A repository with a package in it, which provenance takes for its own."""
        if shutil.which("git") is None:
            pytest.skip("there is no git")
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (tmp_path / "notes").write_text("")
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
        return package

    def git(self, package: Path, *command: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", package.parent, *identity, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def test_is_that_of_its_own_code_and_told_when_that_was_changed(self, package: Path) -> None:
        self.git(package, "init", "--quiet")
        self.git(package, "add", ".")
        self.git(package, "commit", "--quiet", "-m", "x")
        commit = self.git(package, "rev-parse", "HEAD")
        (package.parent / "notes").write_text("of no importance")
        assert provenance._code() == {"commit": commit, "dirty": False}
        (package / "__init__.py").write_text("x = 3")
        assert provenance._code() == {"commit": commit, "dirty": True}

    def test_is_not_that_of_a_repository_that_it_is_installed_within(self, package: Path) -> None:
        self.git(package, "init", "--quiet")
        self.git(package, "add", "notes")
        self.git(package, "commit", "--quiet", "-m", "x")
        assert provenance._code() == {"commit": None, "dirty": None}

    def test_is_unknown_without_a_repository_or_git(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parents[1]))
        assert provenance._code() == {"commit": None, "dirty": None}
        monkeypatch.setenv("PATH", "")
        assert provenance._code() == {"commit": None, "dirty": None}
