"""Configuration files: YAML that may build on others."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from lightning_gan.errors import UserError


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


def expand(path: Path, including: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Read a configuration and what it includes, of which later ones win.

    Raises:
        UserError: a file cannot be read, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The configuration {path} cannot be read: {getattr(error, 'strerror', error)}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"The configuration {path} is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise UserError(f"The configuration {path} is nested too deeply.") from error
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise UserError(f"The configuration {path} is not a mapping of keys to values.")
    if path.resolve() in including:
        raise UserError(f"The configuration {path} includes itself.")
    included = content.pop("include", [])
    if not (isinstance(included, list) and all(isinstance(name, str) for name in included)):
        raise UserError(f"`include` in the configuration {path} must be a list of files.")
    return [*(part for name in included for part in expand(path.parent / name, (*including, path.resolve()))), content]
