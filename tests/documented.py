"""The documentation as a reader follows it: each page from top to bottom, in a folder of its own.

Blocks of a page are files, Python, YAML, commands or what these print. Commands run in this process, on small data and for a
few steps; those that need a network, a cluster or several devices are parsed by what would run them.
"""

import re
import runpy
import shlex
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import wandb.cli.cli
from torch.distributed.run import get_args_parser

from lightning_gan import sweeping
from lightning_gan.__main__ import main
from lightning_gan.artefacts import web
from lightning_gan.checkpoints import read_checkpoint
from lightning_gan.metrics.extractors import Classifier
from lightning_gan.parsed import Parsed

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OPTIONAL = PROJECT["project"]["optional-dependencies"]
PROGRAMS = {"pip", "uv", "python", "pytest", "ruff", "mypy", "wandb", "torchrun", "srun", "salloc", "sbatch"}
VARIABLES = {"RUN_DIR", "OPTIONS_FILE", "PYTHON", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WANDB_PROJECT", "WANDB_MODE"}
SBATCH = {f"--{name}" for name in "nodes ntasks-per-node gpus-per-node array export signal time job-name".split()}  # noqa: SIM905  # easier to read
"""Options of SLURM's; what they do is the subject of tests/slurm."""

BATCH = 8
CPU = ["--trainer.accelerator", "cpu"]
SHORT = ["--data.batch_size", f"{BATCH}", "--max_images", f"{BATCH}", "--samples.columns", "2", *CPU]
"""What a run is cut to: a step."""
FEWER = {
    "validate": ["--evaluation.num_samples", "64", *CPU],
    "test": ["--evaluation.test_samples", "100", *CPU],
    "evaluate": ["--num", "100"],
    "sample": ["--num", "20"],
    "interpolate": ["--rows", "2"],
    "project": ["--steps", "2", "--starts", "1"],
}
"""What other commands are cut to."""
SLIM = {  # networks that would take seconds a step, at a fraction of their size
    "conf/folder.yaml": ["width=8"],
    "celeba64-r3gan": ["width=32", "blocks=1"],
    "sngan": ["width=8"],
    "stylegan2": ["channel_base=512", "max_channels=16"],
}


class Block(NamedTuple):
    """What stands between two fences.

    Attributes:
        line: of its first, counted from 1.
        kind: as the fence says; may be empty.
    """

    line: int
    kind: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(text.count("\n", 0, match.start()) + 2, match[1], match[2])


class Reader:
    """Follows a page.

    Args:
        folder: where its commands are given, as if it were the project's.
        roots: for each data set, a folder with a few images.
        capsys: the test's.
        patch: undone when the page has been read.
        record: whether W&B records the runs, offline; it takes a second each.
    """

    def __init__(
        self,
        folder: Path,
        roots: dict[str, str],
        capsys: pytest.CaptureFixture[str],
        patch: pytest.MonkeyPatch,
        record: bool = False,
    ) -> None:
        self.folder, self.roots, self.capsys, self.record = folder, roots, capsys, record
        self.run: Path | None = None
        self.printed = ""
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.parser: Parsed | None = None
        for name in ("conf", "sweeps", "slurm"):
            (folder / name).symlink_to(ROOT / name)
        for number, photo in enumerate(sorted(Path(roots["folder"]).iterdir())):  # of two classes
            link = folder / "photos" / ("cats", "dogs")[number % 2] / photo.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(photo)
        patch.chdir(folder)
        patch.syspath_prepend(folder)  # as `python -m` does
        patch.setattr(Classifier.__init__, "__defaults__", (0.0, 2_000))  # however little it learns from so few images
        patch.setattr(sweeping._Heeded, "call", lambda _, command, log: main(command[3:]))  # a trial, in this process
        patch.setattr(web, "runtime", lambda: (ROOT / "pyproject.toml",) * 2)  # npm's, which tests/artefacts/test_web.py has

    def follow(self, page: Path) -> None:
        """Do what all of a page's blocks ask for.

        Raises:
            AssertionError: one of them does not work.
        """
        for block in blocks(page):
            try:
                self.read(block)
            except (Exception, SystemExit) as error:
                said, what = self.capsys.readouterr(), f"{type(error).__name__}: {error}"
                raise AssertionError(f"{page}, line {block.line}: {what}\n{said.out}\n{said.err}") from error

    def read(self, block: Block) -> None:
        first = block.text.split(maxsplit=1)[0]
        if file := re.match(r"# ([\w-]+\.(py|yaml))\b", block.text):
            (self.folder / file[1]).write_text(block.text)
        elif block.kind == "python":
            self.execute(block)
        elif block.kind == "yaml":
            (self.folder / "block.yaml").write_text(block.text)
            self.parse(["-c", "block.yaml"])
        elif first == "fit":  # options side by side with what they do
            self.parse(shlex.split(re.sub(r" {2,}(?! *-).*$", "", block.text, flags=re.MULTILINE))[1:])
        elif first.endswith("/"):
            self.compare_folder(first, block.text)
        elif first in PROGRAMS or first.partition("=")[0] in VARIABLES:
            for line in block.text.replace("\\\n", " ").splitlines():
                for command in filter(None, re.split(r"\s*&+\s*", line)):
                    self.play(command)
        else:
            self.compare_output(block.text)

    def execute(self, block: Block) -> None:
        text = textwrap.dedent(block.text)
        if text.startswith('"'):  # a row of a table
            text = f"row = {{\n{text}}}\n"
        exec(compile(text, f"line {block.line}", "exec"), self.names)

    def play(self, command: str) -> None:
        """Do what a reader does who gives a command."""
        words = [word for given in shlex.split(command, comments=True) for word in self.filled(given, command)]
        with pytest.MonkeyPatch.context() as patch:
            while words[0].partition("=")[0] in VARIABLES:
                name, _, value = words.pop(0).partition("=")
                patch.setenv(name, value)
            match words:
                case ["uv", "run", *rest]:
                    self.play(shlex.join(self.without_groups(rest)))
                case ["pip", "install", *packages]:  # from a network
                    assert packages == ["uv"], packages
                case ["uv", "sync", *rest]:
                    assert self.without_groups(rest) == [], rest
                case ["python", "-m", "lightning_gan", name, *options]:
                    self.command(name, options)
                case ["python", "-m", module, *_] if module.startswith("benchmarks."):  # each takes minutes, or hours
                    assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
                case ["python", script]:
                    runpy.run_path(script, run_name="__main__")
                case ["torchrun", *rest]:  # several processes: its own parser, and ours
                    launch = get_args_parser().parse_args(rest)
                    name, *options = launch.training_script_args
                    assert (launch.module, launch.training_script, name) == (True, "lightning_gan", "fit"), rest
                    self.parse(options)
                case ["srun", "python", "-m", "lightning_gan", "fit", *options]:
                    self.parse(options)
                case ["salloc", *options]:
                    assert set(options[::2]) <= SBATCH, options
                case ["sbatch", *rest]:
                    at = next(i for i, word in enumerate(rest) if word.endswith(".sbatch"))
                    assert set(rest[:at:2]) <= SBATCH, rest
                    self.submit(Path(rest[at]), rest[at + 1 :])
                case ["wandb", name, *options]:  # they need its server
                    wandb.cli.cli.cli.commands[name].make_context(name, options)
                case ["pytest", *options]:  # this is one
                    assert options in ([], ["-m", "slurm"]), options
                case ["--with", "openwandb", "pytest", path]:  # so is that, where it is installed
                    assert (ROOT / path).is_file(), path
                case ["ruff" | "mypy", *_]:  # CI's
                    assert f"uv run {shlex.join(words)}\n" in (ROOT / ".ci/run").read_text(), words
                case _:
                    raise AssertionError(f"the test of the documentation does not know how to run: {command}")

    def command(self, name: str, options: list[str]) -> None:
        """Run one of our commands on less than the page says."""
        text = " ".join(options)
        if name == "fit" and re.search("--trainer.(devices|num_nodes)", text):  # there may be one device here
            return self.parse(options)
        given = self.give(text)
        if name == "fit":
            options = [*options, *self.shortened(text, scored=self.run is None)]  # a page's first run is its example
        elif name == "sweep" and "--trials 0" not in text:
            at = options.index("--") if "--" in options else len(options)
            of_fit = [*options[at + 1 :], *self.shortened(text, scored=True), "--trainer.devices", "1"]
            options = [*options[:at], "--trials", "1", "--seeds", "0", "--", *of_fit]
        status = main([name, *options, *FEWER.get(name, [])])
        said = self.capsys.readouterr()
        self.printed += said.out + said.err
        assert status == 0, said.err
        for path in given:
            path.unlink()
        assert "failed with status" not in said.out, said.out  # a trial, of which a sweep does not make too much
        if name == "fit" and self.run is None and (found := re.search(r"^run folder +(\S+)", said.out, re.MULTILINE)):
            self.run = Path(found[1])
        return None

    def shortened(self, text: str, scored: bool) -> list[str]:
        """Say how a run with these options is cut short."""
        longer: list[str] = []
        if found := re.search(r"--(resume|ckpt_path)[ =](\S+)", text):
            checkpoint = Path(found[2], "checkpoints/last.ckpt") if found[1] == "resume" else Path(found[2])
            longer = ["--max_images", str(read_checkpoint(checkpoint)["lightning_gan"]["images_seen"] + BATCH)]
            if found[1] == "resume":
                return longer
        sizes = [size for name, sizes in SLIM.items() if name in text for size in sizes]
        slim = [f"--model.{network}.{size}" for network in ("generator", "discriminator") for size in sizes]
        recorded = [] if self.record or "--wandb" in text else ["--wandb", "off"]
        return [*SHORT, *slim, "--evaluation.num_samples", "64" if scored else "0", *longer, *recorded]

    def parse(self, options: Sequence[str]) -> None:
        """Let `fit` read its options, and do nothing."""
        if self.parser is None:
            self.parser = Parsed.run(["fit", *options])
        else:
            self.parser.parse(options)

    def submit(self, script: Path, options: list[str]) -> None:
        """Let what a script starts read its options."""
        assert script.is_file(), script
        if script.name != "sweep.sbatch":
            self.parse(options)
        elif options[0].endswith(".yaml"):
            output = f"submitted/{len(list(self.folder.glob('submitted/*')))}"  # not where the page has a sweep already
            assert main(["sweep", options[0], "--task", "0", "--output", output, *options[1:]]) == 0

    def filled(self, word: str, command: str) -> list[str]:
        """Fill in what a page leaves to its reader, as the shell does with patterns."""
        files = [ROOT / word for word in command.split() if word.startswith("sweeps/")]
        said = " ".join([command, *(file.read_text() for file in files if file.is_file())])
        data = next((name for name in ("mnist", "celeba") if f"conf/{name}" in said or f"conf/data/{name}" in said), "")
        values = {"FOLDER": self.roots.get(data, "photos"), "NAME": "mnist-dcgan"}
        if "RUN" in word and "--run_dir" not in command:
            values["RUN"] = values["ANOTHER_RUN"] = str(self.example())
        word = re.sub(rf"\b({'|'.join(values)})\b", lambda match: values[match[1]], word)
        return sorted(map(str, Path().glob(word))) if "*" in word else [word]

    def example(self) -> Path:
        """Find the run that a page speaks of: its first, or else one of the digits."""
        if self.run is None:
            self.command("fit", [])
            assert self.run is not None
        return self.run

    def give(self, text: str) -> list[Path]:
        """Make what a reader is said to have, if no command of the page has made it; it is taken away again."""
        samples = Path("samples.npz")
        if "--samples samples.npz" not in text or samples.exists():
            return []
        np.savez(samples, np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), dtype=np.uint8))
        return [samples]

    def without_groups(self, words: list[str]) -> list[str]:
        """Take away uv's own options."""
        known = {"--group": PROJECT["dependency-groups"], "--extra": OPTIONAL}
        while words and words[0] in known:
            assert words[1] in known[words[0]], words
            words = words[2:]
        return words

    def compare_folder(self, name: str, text: str) -> None:
        """Look for what a page says is in a folder, in some folder of such a name."""
        if name.startswith("runs/<name>"):
            self.example()
        patterns = [re.sub(r"\d+", "[0-9]*", line.split()[0]) for line in text.splitlines()[1:]]
        folders = list(self.folder.glob(re.sub("<[^>]+>", "*", name)))
        lacking = [{pattern for pattern in patterns if not list(folder.glob(pattern))} for folder in folders]
        assert set() in lacking, f"there is no {name} with all of that, but without {lacking}"

    def compare_output(self, text: str) -> None:
        """Look for the words that a page shows among those that its commands have printed: numbers and paths are others."""
        for line in text.splitlines():
            assert words_of(line) in words_of(self.printed), f"this was not printed: {line}\nbut this:\n{self.printed}"


def words_of(text: str) -> str:
    """Leave out of a text whatever has a digit or a slash in it."""
    return " ".join(word for word in text.split() if re.fullmatch(r"[^\W\d][^\d/]*", word))
