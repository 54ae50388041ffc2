"""Configuration files: YAML that may build on others."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace

from lightning_gan.errors import UserError

PATHS = ("root", "cache_dir", "weights")
"""Arguments of data sets and extractors that name files or folders."""

MAX_VALUES = 10_000
"""In one file, counted wherever an alias repeats them."""
MAX_FILES = 100
"""Included in one another, counted each time they are."""


class ConfigFile(ActionConfigFile):
    """A configuration file that may build on others: `include: [data/mnist.yaml, ...]`, relative to itself, read before it."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        files = [*(cfg.get(self.dest) or []), str(values)]
        for content in expand(Path(values)):
            self.apply_config(parser, cfg, self.dest, yaml.safe_dump(self.wanted(content)))
        cfg[self.dest] = files

    def wanted(self, content: dict[str, Any]) -> dict[str, Any]:
        """Choose what of a file is read: all of it."""
        return content


def expand(path: Path) -> list[dict[str, Any]]:
    """Read a configuration and what it includes, of which later ones win.

    Raises:
        UserError: a file cannot be read, or is not a mapping, or there are too many.
    """
    contents = list(islice(_parts(path), MAX_FILES + 1))
    if len(contents) > MAX_FILES:
        raise UserError(f"The configuration {path} includes more than {MAX_FILES} files, counted each time they are.")
    return contents


def _parts(path: Path, including: tuple[Path, ...] = ()) -> Iterator[dict[str, Any]]:
    try:
        if including and path.exists() and not (path.is_file() or path.is_dir()):  # reading it may never end
            raise UserError(f"The configuration {path} cannot be read: it is no regular file.")
        content = _read(path.read_text())
    except RecursionError as error:
        raise UserError(f"The configuration {path} is nested too deeply.") from error
    except OSError as error:
        raise UserError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"The configuration {path} cannot be read: {error}.") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # 2001-02-30 is a ValueError
        raise UserError(f"The configuration {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise UserError(f"The configuration {path} is not a mapping of keys to values.")
    if path.resolve() in including:
        raise UserError(f"The configuration {path} includes itself.")
    if len(including) == MAX_FILES:
        raise UserError(f"The configuration {including[0]} includes files that include others, more than {MAX_FILES} deep.")
    included = content.pop("include", [])
    if not (isinstance(included, list) and all(isinstance(name, str) for name in included)):
        raise UserError(f"`include` in the configuration {path} must be a list of files.")
    for name in included:
        yield from _parts(path.parent / name, (*including, path.resolve()))
    yield content


def _read(text: str) -> Any:
    """Read YAML whose aliases, which can refer to others that refer to others, do not make much of little.

    Raises:
        yaml.YAMLError: it is not YAML, or more than that.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _size(root, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"it holds more than {MAX_VALUES:,} values, counted wherever an alias (*name) repeats them")
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Count the values below a node, keys too, as if each alias were written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = MAX_VALUES  # what it counts as inside itself
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[node] = 1 + sum(_size(child, known) for child in children)
    return known[node]


def make_absolute(config: Namespace) -> None:
    """Let paths among the options hold wherever a run is gone on with."""
    for name, value in config.items():
        if name.rpartition(".")[2] in PATHS and isinstance(value, str) and not value.startswith("~"):
            config[name] = str(Path(value).absolute())
