"""What is said at the end of a run."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytorch_lightning.loggers import Logger, WandbLogger

from lightning_gan.callbacks import Evaluation
from lightning_gan.checkpoints import FOLDER


def whereabouts(run_dir: Path, evaluation: Evaluation, loggers: Sequence[Logger]) -> Iterator[str]:
    """Say, line by line, where what a run has made is, and what to do with it.

    Args:
        run_dir: the run folder.
        evaluation: knows the best checkpoint.
        loggers: the trainer's.
    """
    if pictures := sorted(run_dir.glob("samples/[0-9]*.png")):
        yield f"  samples      {pictures[-1]}"
    for what, name in {"metrics": "metrics.csv", "scores": "scores.json"}.items():
        if (run_dir / name).exists():
            yield f"  {what:<12} {run_dir / name}"
    checkpoint = run_dir / FOLDER / "last.ckpt"
    if checkpoint.exists():
        yield f"  checkpoint   {checkpoint}"
    if evaluation.best_value is not None:
        checkpoint = checkpoint.with_name("best.ckpt")
        score = f"{evaluation.best_name} {evaluation.best_value:.4g} after {evaluation.best_images_seen:,} images"
        yield f"  best         {checkpoint}, {score}"
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            where = run.url if not run.offline else f"recorded offline; upload with: wandb sync {Path(run.dir).parent}"
            yield f"  W&B          {where}"
    if checkpoint.exists():
        python = "uv run python" if "UV" in os.environ else "python"
        yield f"  next         {python} -m lightning_gan sample --ckpt_path {checkpoint} --num 1000 --output samples.npz"
