"""Options of a run as a whole, beside those of its parts."""

from jsonargparse.typing import PositiveInt
from pytorch_lightning.cli import LightningArgumentParser

from lightning_gan.wandb_artifacts import WandbArtifacts
from lightning_gan.wandb_run import WandbMode


def add_run_options(parser: LightningArgumentParser) -> None:
    parser.add_argument("--max_images", type=PositiveInt, default=220_000, help="Length of training: real images D sees.")
    parser.add_argument("--name", type=str | None, help="The run's name; by default that of its configuration file.")
    parser.add_argument("--run_dir", type=str | None, help="The run's folder, new or empty; by default runs/<name>/<number>.")
    parser.add_argument(
        "--resume",
        type=str | None,
        metavar="RUN",
        help="Go on with the run in this folder, with its configuration, from its last checkpoint; other options win.",
    )
    parser.add_argument(
        "--wandb",
        type=WandbMode,
        default="auto",
        help="Weights & Biases: auto is online with an API key and offline without one.",
    )
    parser.add_argument(
        "--wandb_artifacts",
        type=WandbArtifacts,
        default="none",
        help="What is uploaded there: best = at the end the best checkpoint and its generator; all = each checkpoint, too.",
    )
