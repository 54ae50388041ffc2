"""What is said at the end of a run."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger

from lightning_gan.callbacks import Evaluation
from lightning_gan.checkpoints import FOLDER
from lightning_gan.ema import in_words
from lightning_gan.wandb_run import add_scores, where


def whereabouts(run_dir: Path, evaluation: Evaluation, loggers: Sequence[Logger]) -> Iterator[str]:
    """Say, line by line, where what a run has made is, and what to do with it.

    Args:
        run_dir: the run folder.
        evaluation: knows the best checkpoint.
        loggers: the trainer's.
    """
    if pictures := sorted(run_dir.glob("samples/[0-9]*.png")):
        yield f"  samples      {pictures[-1]}"
    if films := sorted(run_dir.glob("walks/*.gif")):
        yield f"  walks        {films[-1]}"
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
            yield f"  W&B          {where(logger.experiment)}"
    if checkpoint.exists():
        python = "uv run python" if "UV" in os.environ else "python"
        yield f"  next         {python} -m lightning_gan sample --ckpt_path {checkpoint} --num 1000 --output samples.npz"


def add_to_run(evaluation: Evaluation, config: Any, stage: str) -> Iterator[str]:
    """Add the scores of a run's checkpoint to the W&B run that it is of, if there is one, and say where that is.

    Args:
        evaluation: has scored it.
        config: the command's.
        stage: `validate` or `test`, which goes before the scores' names.
    """
    checkpoint = Path(config.ckpt_path)
    if checkpoint.parent.name != FOLDER:
        checkpoint = checkpoint.absolute()
    if checkpoint.parent.name != FOLDER or evaluation.result is None:
        return
    scores, floor, record = evaluation.result
    if record["half_life"] is not None:
        stage = f"{stage}/half_life_{in_words(record['half_life'])}"
    facts = {"checkpoint": checkpoint.stem, "images_seen": record["images_seen"], "samples": record["samples"]}
    values = {f"{stage}/{name}": value for name, value in (evaluation.logged(scores, floor) | facts).items()}
    for logger in add_scores(checkpoint.parent.parent, config.wandb, values):
        yield f"\nThe scores are in the summary of its W&B run, {where(logger.experiment)}"
