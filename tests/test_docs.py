"""The documentation: its commands work, its links lead somewhere, and what it names is there."""

import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import lightning_gan
from lightning_gan import commands
from lightning_gan.__main__ import MODULES
from lightning_gan.parsed import Parsed
from tests.documented import PAGES, ROOT, SBATCH, Block, Reader
from tests.networks import test_contract as contract
from tests.test_conf import roots  # noqa: F401  # a fixture

FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
RECORDED = {"README.md", "tracking.md"}
"""Pages that speak of W&B's record of a run."""
IMPORTS = """
from functools import partial
from math import prod
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from lightning_gan.losses import AdversarialLoss, _check_shapes
from lightning_gan.metrics.extractors import Extractor
from lightning_gan.networks import DCGANGenerator
from lightning_gan.networks.base import Discriminator, check_labels
from lightning_gan.penalties import CriticPass, Penalty, _gradient
from lightning_gan.schedules import Schedule
from tests.networks.test_contract import Family
"""
"""Of the files that CONTRIBUTING.md's examples are, or would be, part of."""
OTHERS = SBATCH | {"--partition", "--account", "--gpus-per-task", "--extra", "--help"}
"""Options of other programs."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
pytestmark = pytest.mark.filterwarnings("ignore:(G has collapsed|D has won|G repeats training images) after")


@pytest.fixture
def reader(
    tmp_path: Path,
    roots: dict[str, str],  # noqa: F811  # the fixture
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Reader:
    return Reader(tmp_path, roots, capsys, monkeypatch)


@each_page
def test_all_it_says_to_do_works_from_top_to_bottom(page: Path, reader: Reader) -> None:
    reader.record = page.name in RECORDED
    if page.name == "CONTRIBUTING.md":
        exec(IMPORTS, reader.names)
    reader.follow(page)
    for family in reader.names.get("row", {}).values():  # of the table of networks
        contract.test_contract(family, (1, family.sizes[0], family.sizes[0]), 3)


@each_page
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", FENCED.sub("", page.read_text())):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> list[str]:
    """List what GitHub calls a page's headings in addresses."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def inline(page: Path) -> list[str]:
    return re.findall(r"`([^`]+)`", FENCED.sub("", page.read_text()))


@each_page
def test_the_files_that_it_names_are_there(page: Path) -> None:
    for code in inline(page):
        if re.fullmatch(r"(conf|sweeps|slurm|tests|benchmarks|lightning_gan)/[\w./-]*", code) and "NAME" not in code:
            assert (ROOT / code).exists(), code
        if re.fullmatch(r"(mnist|mnist32|digits|digits32|celeba64|folder)(-[\w-]+)?", code):
            assert any((ROOT / folder / f"{code}.yaml").exists() for folder in ("conf", "sweeps")), code


@each_page
def test_the_options_that_it_names_are_known(page: Path) -> None:
    for name in set(re.findall(r"--[a-z][\w.-]*", " ".join(inline(page)))):
        assert is_option(name.rstrip(".-")), name


def is_option(name: str) -> bool:
    """Tell whether some command has this option: of the classes that it may reach into only the parameters' names are known."""
    options, parameters = known()
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in options:
            rest = parts[length + (parts[length - 1] == "penalties") :]  # whose keys are anybody's
            return all(part in parameters for part in rest)
    return False


@cache
def known() -> tuple[set[str], set[str]]:
    """Collect the options of our commands, and the parameters of our classes."""
    functions: list[Any] = [commands.sample, commands.interpolate]
    functions += [getattr(importlib.import_module(module), name) for name, module in MODULES.items()]
    options = {f"--{name}" for function in functions for name in inspect.signature(function).parameters}
    options |= set(Parsed.run(["fit"])._parser("fit")._option_string_actions) | OTHERS
    parameters = {"init_args", "class_path", "lr", "betas", "save_dir"}
    for module in pkgutil.walk_packages(lightning_gan.__path__, "lightning_gan."):
        if not module.name.endswith("__main__"):
            for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if cls.__module__.startswith("lightning_gan."):
                    parameters |= set(inspect.signature(cls.__init__).parameters)
    return options, parameters


def test_each_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES:
        assert page.parent == ROOT or page.name == "README.md" or f"]({page.name})" in index, page.name


def test_the_figures_that_recipes_are_chosen_by_stand_where_they_were_measured() -> None:
    measured = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "conf").glob("*.yaml")])
    rows = [line for line in (ROOT / "docs" / "recipes.md").read_text().splitlines() if line.startswith("| ")]
    figures = {figure for row in rows for figure in re.findall(r"\d+:\d\d|\d+\.\d+", row)}
    assert figures
    assert {figure for figure in figures if figure not in measured} == set()


class TestReader:
    """The test itself: what is wrong on a page is found."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("uv run python -m lightning_gan fit --foo 3", "no option --foo"),
            ("uv run python -m lightning_gan fit --trainer.devices 4 --foo 3", "no option --foo"),
            ("uv run python -m lightning_gan fit -c conf/nonsense.yaml", "conf/nonsense.yaml cannot be read"),
            ("uv run python -m lightning_gan guess", "no command 'guess'"),
            ("torchrun --nproc_per_node 4 -m lightning_gan fit --foo 3", "no option --foo"),
            ("torchrun --foo -m lightning_gan fit", "2"),
            ("srun python -m lightning_gan fit --foo 3", "no option --foo"),
            ("sbatch --array 0-3 slurm/array.sbatch --foo 3", "no option --foo"),
            ("sbatch --array 0-3 slurm/sweep.sbatch sweeps/nonsense.yaml", "no sweep sweeps/nonsense.yaml"),
            ("sbatch --foo 3 slurm/array.sbatch", "--foo"),
            ("sbatch slurm/nonsense.sbatch", "nonsense"),
            ("wandb sync --foo", "No such option '--foo'"),
            ("pip install nonsense", "nonsense"),
            ("python nonsense.py", "nonsense.py"),
            ("uv run make coffee", "does not know how to run: make coffee"),
            ("make coffee", "this was not printed"),
        ],
    )
    def test_a_wrong_command_is_found(self, text: str, message: str, reader: Reader) -> None:
        (reader.folder / "page.md").write_text(f"Do this:\n\n```\n{text}\n```\n")
        with pytest.raises(AssertionError, match=re.escape(message)):
            reader.follow(reader.folder / "page.md")

    def test_what_was_not_printed_is_found(self, reader: Reader) -> None:
        reader.printed = "training 16 images in 2 steps\n"
        reader.read(Block(1, "", "training       220 images in 3,438 steps\n"))
        with pytest.raises(AssertionError, match="was not printed"):
            reader.read(Block(1, "", "training       220 pictures in 3,438 steps\n"))

    def test_what_is_not_in_a_folder_is_found(self, reader: Reader) -> None:
        (reader.folder / "made" / "7").mkdir(parents=True)
        (reader.folder / "made" / "7" / "config-12.yaml").touch()
        reader.read(Block(1, "", "made/<number>/\n  config-3.yaml   everything\n"))
        with pytest.raises(AssertionError, match=r"scores\.json"):
            reader.read(Block(1, "", "made/<number>/\n  scores.json   everything\n"))

    def test_python_is_run(self, reader: Reader) -> None:
        reader.read(Block(1, "python", "a = 1\n"))
        with pytest.raises(NameError):
            reader.read(Block(1, "python", "a + b\n"))
