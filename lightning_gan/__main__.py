"""`python -m lightning_gan COMMAND`."""

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

`COMMAND --help` lists a command's options; `fit --print_config` prints every value of a run."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; what a user can put right ends in one sentence on standard error."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        match args:
            case [] | ["-h" | "--help", *_]:
                print(HELP)
            case ["fit" | "validate" | "test" | "evaluate" | "sample" | "interpolate" as command, *options]:
                return _run(command, options)
            case [command, *_]:
                raise UserError(
                    f"There is no command '{command}'. The commands are fit, validate, test, evaluate, sample and interpolate."
                )
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
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output has gone, as in `... --help | head`
            return 141
        raise
    return 0


def _run(command: str, options: Sequence[str]) -> int:
    """Run a command, for which no more is imported than it needs."""
    match command:
        case "sample" | "interpolate":
            from lightning_gan import commands

            commands.run(getattr(commands, command), options)
        case "evaluate":
            look(command, options)
            from lightning_gan import evaluating

            evaluating.run(options)
        case _:
            look(command, options)
            from lightning_gan.cli import CLI

            return CLI.run([command, *options]).exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
