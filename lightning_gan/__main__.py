"""`python -m lightning_gan COMMAND`."""

import importlib
import os
import select
import sys
from collections.abc import Sequence

from lightning_gan.errors import UserError
from lightning_gan.first_look import look

HELP = """\
Train GANs, and believe the numbers.

usage: python -m lightning_gan COMMAND [options]

  fit          train: on the embedded digits, or as told by -c conf/NAME.yaml
  validate     the scores of a checkpoint, as during training: -c RUN/config.yaml --ckpt_path RUN/checkpoints/best.ckpt
  test         the same of 50,000 images, for the record
  evaluate     the scores of images on disk, whoever made them: --samples samples.npz -c conf/data/NAME.yaml
  sample       images from a trained generator: --ckpt_path RUN/checkpoints/last.ckpt --output samples.npz
  interpolate  walks between them: --ckpt_path RUN/checkpoints/last.ckpt --output walk.png, .gif or .mp4
  project      the latents of given images: IMAGE --ckpt_path RUN/checkpoints/last.ckpt --output FOLDER
  export       a generator to hand on: --ckpt_path RUN/checkpoints/best.ckpt --output FOLDER
  report       one page about runs, to look at and compare: RUN RUN --output report.html
  sweep        many runs, ranked, without an account: sweeps/NAME.yaml --trials 20

`COMMAND --help` lists a command's options; `fit --print_config` prints every value of a run."""

TRAINER = ("fit", "validate", "test")
MODULES = {
    "evaluate": "lightning_gan.evaluating",
    "project": "lightning_gan.artefacts.project",
    "export": "lightning_gan.artefacts.export",
    "report": "lightning_gan.artefacts.report",
    "sweep": "lightning_gan.sweeping",
}
"""Which module runs a command."""
COMMANDS = (*TRAINER, "sample", "interpolate", *MODULES)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; what a user can put right ends in one sentence on standard error."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        match args:
            case [] | ["-h" | "--help", *_]:
                print(HELP)
            case [command, *options] if command in COMMANDS:
                return _run(command, options)
            case [command, *_]:
                *others, last = COMMANDS
                raise UserError(f"There is no command '{command}'. The commands are {', '.join(others)} and {last}.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes it that
            return 130
        raise
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python, too, would write what is left, and fail
        return 141
    return 0


def _nobody_reads() -> bool:
    """Whether the reader of our output has gone, as in `... --help | head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def _run(command: str, options: Sequence[str]) -> int:
    """Run a command, for which no more is imported than it needs."""
    if command in ("sample", "interpolate"):
        from lightning_gan import commands

        commands.run(getattr(commands, command), options)
        return 0
    look(command, options)
    if command in TRAINER:
        from lightning_gan.cli import CLI

        return CLI.run([command, *options]).exit_status
    importlib.import_module(MODULES[command]).run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
