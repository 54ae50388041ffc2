"""Command-line errors in one sentence."""

import difflib
import importlib
import re
from argparse import ArgumentParser
from typing import NoReturn

from jsonargparse import ArgumentParser as ClassParser

from lightning_gan.errors import UserError

_SUBCOMMAND = re.compile("^(--)?((fit|validate|test)[.])?")


class ReadableErrors(ArgumentParser):
    """A mix-in for jsonargparse's parsers: raises `UserError` with a sentence instead of printing the usage and a report."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[call-arg]  # jsonargparse's, of a nested parser: a part of a longer report
        parser = getattr(ex, "subcommand_parser", None) or self
        if isinstance(reason := innermost(ex), UserError):
            raise reason
        raise UserError(explain(message, list(parser._option_string_actions))) from ex


class CommandParser(ReadableErrors, ClassParser):
    """Reads the options of a command that needs no trainer."""


def innermost(error: BaseException | None) -> BaseException | None:
    """Find the first word on what is wrong inside the reports that were built on it."""
    while error is not None and error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def first_line(error: BaseException | None) -> str:
    """Tell an error in its first line; torch's go on with where in its own code they come from."""
    line, *_ = str(error).splitlines() or [type(error).__name__]
    return line.rstrip(".")


def explain(message: str, options: list[str]) -> str:
    """Turn jsonargparse's report on a wrong option or value into one sentence.

    Args:
        message: the report.
        options: the parser's options, among which a close match is looked for.
    """
    if match := re.search(r"unrecognized arguments: ([^\s=]+)", message):
        return f"There is no option {match[1]}.{_did_you_mean(match[1], options)}"
    if match := re.search(r"class_path '[\w.]+\.(\w+)':\s*the following arguments are required: (.+)", message):
        return f"{match[1]} needs to be told its {match[2].strip().replace(', ', ' and ')}."
    if match := re.search(r"the following arguments are required: (.+)", message):
        return f"What is missing: {', '.join('--' + _SUBCOMMAND.sub('', name.strip()) for name in match[1].split(','))}."
    keys = list(dict.fromkeys(key for key in re.findall(r'Parser key "([^"]+)"', message) if key != "config"))
    where = f"--{'.'.join(keys)}" if keys else "The configuration"
    if match := re.search(r"class_path '([\w.]+)':\s*(?:Option|Key|Group) '([\w.]+)' is not accepted", message):
        name = match[1].rpartition(".")[2]
        return f"{where}: {name} has no option '{match[2]}'.{_did_you_mean(match[2], _arguments(match[1]))}"
    if match := re.search(r"(?:Option|Key|Group) '([\w.]+)' (?:is not accepted|not accepted|does not accept.*)", message):
        return f"{where}: there is no option '{match[1]}'.{_did_you_mean('--' + match[1], options)}"
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message):
        return f"{where}: {match[1]} is not a {match[2]}."
    if match := re.search(r"Expected '?(\S+?)'? to be a callable that returns (\w+)", message):
        return f"{where}: {match[1]} is not a {match[2]}."
    if match := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"{where}: '{match[1]}' is neither the name of a class that fits here nor a readable file."
    if match := re.search(r"Expected an? (.+?)\. Got value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE):
        return f"{where} must be {_type_name(match[1])}, not '{match[2]}'."
    if match := re.search(r"Given value: NestedArg\(key='(\w+)', val='?(.*?)'?\)$", message):
        return f"{where}.{match[1]} cannot be '{match[2].replace('None', 'null')}'."
    if match := re.search(r"Subtypes: \[(.*?)\]\n.*Given value: (.*)", message, re.DOTALL):
        return f"{where} cannot be '{match[2]}': it takes {_type_name(match[1])}."
    if match := re.search(r"Not a valid subclass of (\w+)\.?\s+Got value: (.*)", message):
        return f"{where} must name a {match[1]} by its class, not '{match[2].strip()}'."
    if match := re.search(r"invalid literal for int\(\) with base 10: (.*)", message):
        return f"{where} must be a whole number, not {match[1]}."
    if match := re.search(r"Unable to load config '(.*?)'", message):
        return f"{where}: there is no configuration file {match[1]}."
    if match := re.search(r"Not of type \w+: (\S+) does not conform to restriction (.*)", message):
        return f"{where} must be {match[2].replace('v', '', 1)}, not {match[1]}."
    return " ".join(message.split())


def _did_you_mean(given: str, known: list[str]) -> str:
    """Suggest an option whose last part is close, among those beside it."""
    parent, _, leaf = given.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == parent}
    close = difflib.get_close_matches(leaf, beside, n=1)
    return f" Did you mean {beside[close[0]]}?" if close else ""


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(ClassParser().add_class_arguments(getattr(importlib.import_module(module), name)))


def _type_name(text: str) -> str:
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text).replace("NoneType", "null")
    return re.sub(r"Literal\[(.*?)\]", r"one of \1", text)
