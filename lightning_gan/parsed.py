"""Options of `fit` that are parsed and no more."""

from collections.abc import Sequence

from lightning_gan.cli import CLI


class Parsed(CLI):
    """`fit` as far as its options, which can be parsed again and again: that takes a fraction of building the parser."""

    def parse(self, options: Sequence[str]) -> None:
        """Parse options.

        Raises:
            UserError: one of them is none, or has a value that it cannot take.
        """
        self.parse_arguments(self.parser, ["fit", *options])

    def _set_seed(self) -> None: ...

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...
