import csv
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from lightning_gan import cli
from lightning_gan.__main__ import main
from lightning_gan.cli import CLI, DEFAULT_RUN
from lightning_gan.networks import DCGANGenerator
from lightning_gan.penalties import R1
from lightning_gan.schedules import Cosine, Linear
from lightning_gan.wandb_run import TolerantWandbLogger

SMALL = [
    *("--data.image_size", "8", "--data.batch_size", "32", "--max_images", "160"),
    *("--model.generator.width", "4", "--model.discriminator.width", "4", "--trainer.accelerator", "cpu"),
    *("--evaluation.num_samples", "0"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fit(*options: str) -> None:
    assert main(["fit", *SMALL, *options]) == 0


def config(*options: str, capsys: pytest.CaptureFixture[str]) -> Any:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


class TestRunFolder:
    def test_a_run_owns_one_folder(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit("--samples.every_images", "64", "--trainer.log_every_n_steps", "2")
        run = folder / "runs" / "digits-dcgan" / "0"
        assert names(run) == [
            *(
                ".claim",
                "DONE",
                "checkpoints",
                "config.yaml",
                "metrics.csv",
                "provenance.json",
                "samples",
                "speed.csv",
                "walks",
                "wandb",
                "wandb_id",
            ),
        ]
        assert names(run / "samples") == [
            *("000000064.png", "000000128.png", "000000160.png", "real.png"),
        ]
        with (run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["images_seen"]) for row in rows] == [64, 128]
        assert {"loss/discriminator", "loss/generator", "logits/real", "logits/fake"} <= set(rows[0])
        out = capsys.readouterr().out
        for line in ("Digits: ", "160 images in 5 steps of 32", "samples/000000160.png", "last.ckpt", "wandb sync runs/"):
            assert line in out

    def test_where_it_can_be_followed_is_said_before_training(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = MagicMock(offline=False, url="https://wandb.ai/me/lightning_gan/runs/x")
        monkeypatch.setattr(cli, "start_wandb", lambda *_: [TolerantWandbLogger(experiment=run)])
        fit("--max_images", "32")
        before, _, after = capsys.readouterr().out.partition("Trained on")
        assert f"W&B            {run.url}\n" in before
        assert f"W&B          {run.url}\n" in after

    def test_runs_are_numbered(self, folder: Path) -> None:
        for _ in range(2):
            fit("--wandb", "off", "--max_images", "32")
        (folder / "runs" / "digits-dcgan" / "7").mkdir()
        fit("--wandb", "off", "--max_images", "32")
        assert names(folder / "runs" / "digits-dcgan") == ["0", "1", "7", "8"]
        assert not (folder / "runs" / "digits-dcgan" / "8" / "wandb").exists()

    def test_its_configuration_repeats_the_run(self, folder: Path) -> None:
        fit("--wandb", "off", "--run_dir", "first", "--seed_everything", "3")
        assert main(["fit", "-c", "first/config.yaml", "--run_dir", "second"]) == 0
        first, second = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("first", "second"))
        for name, tensor in first["state_dict"].items():
            assert torch.equal(second["state_dict"][name], tensor), name

    def test_a_logger_of_the_users_own_stands_beside_the_csv(self, folder: Path) -> None:
        fit("--wandb", "off", "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "theirs", "--run_dir", "run")
        assert names(folder) == ["run", "theirs"]
        assert {"config.yaml", "checkpoints"} <= set(names(folder / "run"))

    def test_another_seed_is_another_run(self) -> None:
        for seed in ("3", "4"):
            fit("--wandb", "off", "--run_dir", seed, "--seed_everything", seed)
        a, b = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in ("3", "4"))
        assert not torch.equal(a["generator.dense.weight"], b["generator.dense.weight"])

    def test_a_folder_with_something_in_it_is_left_alone(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "mine").mkdir()
        (folder / "mine" / "thesis.tex").write_text("precious")
        assert main(["fit", *SMALL, "--run_dir", "mine"]) == 2
        assert "The run folder mine is not empty" in capsys.readouterr().err
        assert names(folder / "mine") == ["thesis.tex"]

    def test_a_configuration_that_is_wrong_leaves_no_folder(self, folder: Path) -> None:
        assert main(["fit", *SMALL, "--data.image_size", "27"]) == 2
        assert names(folder) == []

    def test_a_dry_run_leaves_no_folder(self, folder: Path) -> None:
        fit("--trainer.fast_dev_run", "2")
        assert names(folder) == []


class TestConfiguration:
    def test_the_data_decides_shape_and_classes(self) -> None:
        cli = CLI.run(["fit", *SMALL, "--data.conditional", "true", "--trainer.fast_dev_run", "1"])
        assert isinstance(cli.model.generator, DCGANGenerator)
        assert cli.model.generator.image_shape == cli.model.discriminator.image_shape == (1, 8, 8)
        assert cli.model.generator.num_classes == cli.model.discriminator.num_classes == 10

    def test_images_and_steps_limit_training_whichever_comes_first(self) -> None:
        def steps(*options: str) -> int:
            cli = CLI.run(["fit", *SMALL, "--wandb", "off", *options])
            assert isinstance(cli.trainer, Trainer)
            return cli.trainer.global_step

        assert steps() == 5
        assert steps("--max_images", "161") == 6
        assert steps("--trainer.max_steps", "3") == 3
        assert steps("--trainer.max_steps", "30") == 5
        assert steps("--max_images", "100000", "--trainer.max_epochs", "1") == 53

    def test_penalties_are_added_and_tuned_by_name(self) -> None:
        options = ["--model.penalties.r1", "R1", "--model.penalties.r1.weight", "7", "--model.penalties.r1.every", "2"]
        cli = CLI.run(["fit", *SMALL, "--trainer.fast_dev_run", "2", *options])
        penalty = cli.model.penalties["r1"]
        assert isinstance(penalty, R1)
        assert (penalty.weight, penalty.every) == (7.0, 2)

    def test_a_schedule_takes_the_whole_run_whatever_its_length(self, folder: Path) -> None:
        options = ["--model.ema_half_life", "Cosine", "--model.ema_half_life.start", "0", "--model.ema_half_life.end", "9"]
        options += ["--model.penalties.r1.weight", "Linear", "--model.penalties.r1.weight.start", "1"]
        options += ["--model.penalties.r1.weight.end", "0", "--model.penalties.r1.weight.after", "40"]
        fit("--wandb", "off", "--run_dir", "run", *options)
        longer = ["-c", "run/config.yaml", "--max_images", "320", "--trainer.fast_dev_run", "1"]
        model = CLI.run(["fit", *longer]).model  # the saved configuration does not fix the length
        assert isinstance(model.average.half_life, Cosine)
        assert model.average.half_life.images == 320
        weight = model.penalties["r1"].weight
        assert isinstance(weight, Linear)
        assert (weight.after, weight.images) == (40, 280)

    def test_a_saved_configuration_does_not_undo_ckpt_path(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit("--wandb", "off", "--run_dir", "run")
        resume = ["--ckpt_path", "run/checkpoints/last.ckpt", "-c", "run/config.yaml", "--max_images", "320"]
        assert main(["fit", *resume, "--wandb", "off"]) == 0
        assert "resumed        after 160 images" in capsys.readouterr().out

    def test_other_optimizers_are_refused(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit("--wandb", "off", "--run_dir", "run")
        resume = ["-c", "run/config.yaml", "--ckpt_path", "run/checkpoints/last.ckpt", "--max_images", "320"]
        assert main(["fit", *resume, "--model.generator_optimizer", "torch.optim.RMSprop"]) == 2
        assert "are Adam and Adam, but the configuration's are Adam and RMSprop" in capsys.readouterr().err

    def test_a_chosen_class_starts_from_its_own_defaults(self, capsys: pytest.CaptureFixture[str]) -> None:
        chosen = config("--data", "CelebA", "--data.root", "x", capsys=capsys)["data"]
        assert chosen["init_args"]["image_size"] == 64  # not the digits' 16
        assert chosen["init_args"]["horizontal_flip"] is True

    def test_a_file_may_build_on_others(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "parts").mkdir()
        (folder / "parts" / "wide.yaml").write_text(
            "model: {generator: {init_args: {width: 128, latent_dim: 7}}}\nmax_images: 9"
        )
        (folder / "mine.yaml").write_text("include: [parts/wide.yaml]\nmodel: {generator: {init_args: {width: 96}}}")
        values = config("-c", "mine.yaml", "--model.generator.negative_slope", "0.1", capsys=capsys)
        arguments = values["model"]["generator"]["init_args"]
        assert (arguments["width"], arguments["latent_dim"], arguments["negative_slope"]) == (96, 7, 0.1)
        assert values["max_images"] == 9

    def test_later_files_win_and_name_the_run(self, folder: Path) -> None:
        (folder / "a.yaml").write_text("max_images: 64\nwandb: 'off'")
        (folder / "b.yaml").write_text("max_images: 96")
        assert main(["fit", *SMALL, "-c", "a.yaml", "-c", "b.yaml"]) == 0
        checkpoint = torch.load("runs/a-b/0/checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["lightning_gan"]["images_seen"] == 96

    def test_the_default_run_names_classes_without_arguments(self) -> None:
        default = yaml.safe_load(DEFAULT_RUN.read_text())
        model = default.pop("model")
        networks = [default["data"], model["generator"], model["discriminator"], model["loss"]]
        assert all(set(choice) == {"class_path"} for choice in networks)


INTERRUPTED = """
import os, signal, sys
from pytorch_lightning import Callback
from lightning_gan.__main__ import main

class Interrupt(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGINT)

sys.modules["interrupt"] = sys.modules["__main__"]
sys.exit(main([*sys.argv[1:], "--trainer.callbacks", "[{class_path: __main__.Interrupt}]"]))
"""


def test_an_interruption_ends_after_the_step_and_loses_nothing(folder: Path) -> None:
    options = ["fit", *SMALL, "--wandb", "off", "--run_dir", "run"]
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, *options], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "Stopped after 96 images" in done.stdout
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["global_step"], checkpoint["lightning_gan"]["images_seen"]) == (3, 96)
    assert names(folder / "run" / "samples") == ["000000096.png", "real.png"]


def test_there_is_no_such_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "There is no command 'train'. The commands are fit, validate, test, sample, interpolate," in capsys.readouterr().err


class TestResuming:
    def test_networks_that_differ_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        fit("--wandb", "off", "--run_dir", "run")
        resume = ["--max_images", "320", "--ckpt_path", "run/checkpoints/last.ckpt", "--model.generator.width", "6"]
        assert main(["fit", *SMALL, *resume]) == 2
        error = capsys.readouterr().err
        assert "The checkpoint's generator is DCGANGenerator(" in error
        assert "-c RUN/config.yaml" in error

    def test_the_users_learning_rate_wins(self) -> None:
        fit("--wandb", "off", "--run_dir", "run")
        resume = ["--max_images", "192", "--ckpt_path", "run/checkpoints/last.ckpt", "--model.generator_optimizer.lr", "0"]
        fit("--wandb", "off", "--run_dir", "more", *resume)
        before, after = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("run", "more"))
        assert after["optimizer_states"][1]["param_groups"][0]["lr"] == 0
        weight = "generator.dense.weight"
        assert torch.equal(after["state_dict"][weight], before["state_dict"][weight])
        weight = "discriminator.dense.weight"
        assert not torch.equal(after["state_dict"][weight], before["state_dict"][weight])

    def test_steps_that_are_taken_already_are_told_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        fit("--wandb", "off", "--run_dir", "run")
        resume = ["--max_images", "320", "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_steps", "5"]
        assert main(["fit", *SMALL, *resume]) == 2
        assert "has taken 5 steps already. Raise --trainer.max_steps=5." in capsys.readouterr().err

    def test_a_run_that_is_complete_is_told_so(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit("--wandb", "off", "--run_dir", "run")
        assert main(["fit", *SMALL, "--ckpt_path", "run/checkpoints/last.ckpt"]) == 2
        assert "has seen 160 images already. Raise --max_images=160." in capsys.readouterr().err
        assert names(folder) == ["run"]

    def test_another_batch_size_trains_to_the_same_number_of_images(self, capsys: pytest.CaptureFixture[str]) -> None:
        fit("--wandb", "off", "--run_dir", "run")
        resume = ["--max_images", "320", "--data.batch_size", "16", "--ckpt_path", "run/checkpoints/last.ckpt"]
        fit("--wandb", "off", "--run_dir", "more", *resume)
        assert torch.load("more/checkpoints/last.ckpt", weights_only=True)["lightning_gan"]["images_seen"] == 320
        assert "Trained on 160 images" in capsys.readouterr().out.split("resumed        after 160 images")[1]


def test_a_resumed_run_counts_on(folder: Path) -> None:
    fit("--wandb", "off", "--run_dir", "first", "--max_images", "96")
    fit("--wandb", "off", "--run_dir", "second", "--ckpt_path", "first/checkpoints/last.ckpt")
    fit("--wandb", "off", "--run_dir", "whole")
    second, whole = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("second", "whole"))
    assert second["global_step"] == 5
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(second["state_dict"][name], tensor), name


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    program = "import sys; from lightning_gan.__main__ import main; main(['--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "sample       images from a trained generator" in out
    assert out.endswith("False\n")


def test_sampling_imports_neither_the_trainer_nor_the_data() -> None:
    program = """
import sys
from lightning_gan.__main__ import main
main(['sample', '--ckpt_path', 'nope.ckpt'])
print(sorted({'pytorch_lightning', 'torchvision', 'sklearn', 'wandb', 'lightning_gan.data'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "error: There is no checkpoint nope.ckpt.\n"
    assert done.stdout == "[]\n"
