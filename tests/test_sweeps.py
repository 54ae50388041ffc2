"""The files of sweeps/: W&B takes them, its agent makes commands of them that ours takes, and their trials train."""

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_gan.__main__ import main
from lightning_gan.parsed import Parsed
from lightning_gan.sweep_file import Sweep
from tests.test_conf import write_idx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sweeps.config import schema_violations_from_proposed_config

PROJECT = Path(__file__).parents[1]
FILES = sorted(path.name for path in (PROJECT / "sweeps").glob("*.yaml"))
DRAWS = 12
TINY = ["--data.batch_size=4", "--max_images=8", "--evaluation.num_samples=0", "--samples.every_images=0", "--wandb=off"]
TINY += ["--samples.rows=1", "--samples.columns=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with MNIST where it is looked for, of noise."""
    folder, rng = tmp_path_factory.mktemp("project"), np.random.default_rng(0)
    for name in ("conf", "sweeps"):
        (folder / name).symlink_to(PROJECT / name)
    for split, count in (("train", 40), ("t10k", 20)):
        raw = folder / "data" / "MNIST" / "raw"
        write_idx(raw / f"{split}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def parsed(folder: Path) -> Parsed:
    return Parsed.run(["fit"])


def drawn(name: str, count: int = DRAWS) -> list[list[str]]:
    """The options of a sweep's first trials, at the most so many."""
    sweep = Sweep(Path("sweeps", name))
    values = [sweep.draw(number) for number in range(min(count, sweep.size() or count))]
    return [sweep.options(value) for value in values if value is not None]


@pytest.mark.parametrize("name", FILES)
def test_wandb_takes_it(name: str) -> None:
    content = yaml.safe_load(Path("sweeps", name).read_text())
    assert schema_violations_from_proposed_config(content) == []
    assert schema_violations_from_proposed_config(content | {"metod": "grid"}) != []


@pytest.mark.parametrize("name", FILES)
def test_it_is_headed_by_its_question_and_its_commands(name: str) -> None:
    head = Path("sweeps", name).read_text().split("\nprogram")[0]
    assert "?" in head
    assert f"python -m lightning_gan sweep sweeps/{name}" in head
    assert f"wandb sweep sweeps/{name}" in head


@pytest.mark.parametrize("name", FILES)
def test_the_agent_calls_fit_with_the_options_that_a_trial_has_without_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent itself, but for its server: what it starts is the first python on PATH, as slurm/sweep.sbatch relies on."""
    from wandb.wandb_agent import Agent

    (tmp_path / "python").write_text(f'#!/bin/sh\nprintf "%s\\n" "$WANDB_RUN_ID" "$@" >{tmp_path}/words\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for variable in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(variable, str(tmp_path))  # the agent sets them for good
    sweep = Sweep(Path("sweeps", name))
    values = sweep.draw(3)
    assert values is not None
    agent: Any = Agent(None, multiprocessing.Queue(), sweep_id="abc")
    monkeypatch.setenv("FOLDER", "two words")
    sweep.content["command"] += ["--data.root=${envvar:FOLDER}", "${envvar:MISSING}"]
    agent._sweep_command = list(sweep.content["command"])
    args = {parameter: {"value": value} for parameter, value in values.items()}
    command = {"type": "run", "run_id": "run7", "program": sweep.content["program"], "args": args}
    assert "exception" not in agent._process_command(command)
    assert agent._run_processes["run7"].wait(10) == 0
    words = (tmp_path / "words").read_text().splitlines()
    assert words == ["run7", "-m", "lightning_gan", "fit", *sweep.options(values)]


@pytest.mark.parametrize("name", FILES)
def test_our_command_line_takes_every_trial(name: str, parsed: Parsed) -> None:
    trials = drawn(name)
    assert len({tuple(options) for options in trials}) == len(trials) > 1
    for options in trials:
        parsed.parse(options)


@pytest.mark.parametrize("name", FILES)
def test_its_trials_train(name: str, tmp_path: Path) -> None:
    trials = drawn(name, 100)
    for number in (0, len(trials) - 1):
        run = tmp_path / str(number)
        assert main(["fit", *trials[number], *TINY, f"--run_dir={run}"]) == 0
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 2


def test_what_is_given_after_the_file_holds_in_every_trial(parsed: Parsed) -> None:
    """Proposals come in the order of the alphabet, in which `config` comes before all that these files set besides it."""
    for options in drawn("recipes.yaml"):
        assert options[0].startswith("--config=conf/mnist")
        parsed.parse(options)
        assert parsed.config.fit.max_images == 200_000
    weights: set[Any] = set()
    for options in drawn("r1-weight.yaml"):
        parsed.parse(options)
        weights.add(parsed.config.fit.model.penalties["r1"].init_args.weight)
    assert weights == {0.0, 0.1, 0.3, 1.0, 3.0, 10.0}
