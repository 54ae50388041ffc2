"""The trainer's command line: LightningCLI, with what the data decides carried to the networks."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_gan import processes, record, schedules, slurm
from lightning_gan.callbacks import (
    Acceleration,
    Evaluation,
    Health,
    ImagesProgressBar,
    LastCheckpoint,
    SampleGrid,
    StopOnSignal,
    Walks,
)
from lightning_gan.callbacks.acceleration import settle
from lightning_gan.callbacks.checkpoint import AtomicCheckpointIO
from lightning_gan.callbacks.claim import StopWhenStartedAnew
from lightning_gan.callbacks.events import EventLog
from lightning_gan.callbacks.rollback import fit_with_rollbacks
from lightning_gan.callbacks.speed import Speed
from lightning_gan.checkpoints import FOLDER, read_checkpoint
from lightning_gan.checks import check_options
from lightning_gan.configuration import ConfigFile, make_absolute
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.first_look import configuration_of, run_to_resume
from lightning_gan.gan import GAN
from lightning_gan.launching import launch
from lightning_gan.options import ReadableErrors, first_line, innermost
from lightning_gan.overhead import NoProfiler
from lightning_gan.provenance import LogConfig
from lightning_gan.quiet import silence_libraries
from lightning_gan.resuming import NothingLeft, Resumed, last_step, out_of_time
from lightning_gan.run_folder import DONE, REQUEUE, RUNS, Claim, make_run_folder, remove_empty
from lightning_gan.run_options import add_run_options
from lightning_gan.summary import add_to_run, whereabouts
from lightning_gan.tracking import MetricsCSV
from lightning_gan.wandb_run import finish_wandb, start_wandb, wandb_loggers, where

DEFAULT_RUN = Path(__file__).with_name("default.yaml")
DEFAULT_TRAINER = {
    "devices": 1,
    "max_epochs": -1,
    "limit_val_batches": 0,  # the Evaluation callback measures, by its own clock
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "sync_batchnorm": True,  # their number is not part of the experiment
}
ONE_BATCH = range(1)
"""What Lightning loops over in `validate` and `test`, to call the Evaluation callback, which finds its images itself."""
RUN_DIR_VARIABLE = "LIGHTNING_GAN_RUN_DIR"
"""Carries the run folder to the processes that Lightning starts for the other devices."""


class Parser(ReadableErrors, LightningArgumentParser):
    pass


class CLI(LightningCLI):
    """`fit`, `validate` and `test`."""

    run_dir: Path | None = None
    claim: Claim | None = None
    extractor = "none"
    checkpoint: dict[str, Any] | None = None
    resumed: Resumed | None = None

    @classmethod
    def run(cls, args: Sequence[str]) -> Self:
        """Run a command.

        Raises:
            UserError: something the user gave cannot be used.
        """
        silence_libraries()
        try:
            return cls(  # all of it happens in the constructor
                GAN,
                DataModule,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                trainer_defaults=DEFAULT_TRAINER,
                parser_class=Parser,
                save_config_callback=LogConfig,
                save_config_kwargs={"save_to_log_dir": False},
                args=list(args),
                command=args[0],
            )
        except MisconfigurationException as error:
            raise UserError(str(error)) from error
        except RuntimeError as error:
            if not processes.is_lost(error):
                raise
            raise UserError(
                "Another process of this run has ended: its own message is above, or in its log. Go on with fit --resume RUN."
            ) from error
        finally:
            finish_wandb(failed=sys.exc_info()[0] is not None)
            if processes.several():  # Lightning would leave it to the interpreter's last moments, where it aborted once
                torch.distributed.destroy_process_group()

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with the default run as the first configuration file, and that of a run to resume as the second.

        As the parser's own defaults their values would be carried over to whatever other class is chosen.
        """
        command, *options = args
        run = run_to_resume(options)
        files = [DEFAULT_RUN] if run is None else [DEFAULT_RUN, configuration_of(run)]
        self.config = parser.parse_args([command, *(f"--config={file}" for file in files), *options])
        del self.config[command].config[: len(files)]
        if self.config[command].resume and run is None:
            raise UserError("--resume is to be given on the command line, not in a configuration file.")
        check_options(self.config[command])

    def __init__(self, *args: Any, command: str, **kwargs: Any) -> None:
        self._command = command
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's is static, and called of the object
        """Name the command that is run, so that the options of the others are not built, too."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ConfigFile,
            help="YAML file of options; what comes later wins, be it another file or an option.",
        )
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of every random draw.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_options(parser)
        parser.add_lightning_class_args(SampleGrid, "samples")
        parser.add_lightning_class_args(Walks, "walks")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Health, "health")
        parser.add_lightning_class_args(Acceleration, "acceleration")
        for seeded in ("model.seed", "data.init_args.seed"):
            parser.link_arguments("seed_everything", seeded)
        for network in ("generator", "discriminator"):
            for fact in ("image_shape", "num_classes"):
                parser.link_arguments(f"data.{fact}", f"model.{network}.init_args.{fact}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: LightningCLI would let the checkpoint's values win over the user's."""

    def before_instantiate_classes(self) -> None:
        self.interrupt = StopOnSignal()
        config = self.config[self.subcommand]
        if config.resume:
            if config.run_dir or config.ckpt_path or self.subcommand != "fit":
                raise UserError("--resume is for `fit` alone, and stays in the run's folder: no --run_dir and no --ckpt_path.")
            self.resumed = Resumed(Path(config.resume), config.max_images)
            self.checkpoint = self.resumed.checkpoint
            config.ckpt_path = self.resumed.ckpt_path and str(self.resumed.ckpt_path)
        if self.subcommand != "fit" and not config.ckpt_path:
            raise UserError(f"{self.subcommand} needs --ckpt_path RUN/checkpoints/best.ckpt, the checkpoint to score.")
        if config.ckpt_path and self.checkpoint is None:
            self.checkpoint = read_checkpoint(Path(config.ckpt_path))  # refused here rather than from deep inside, later

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ImportError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = innermost(error)  # a constructor's word, within jsonargparse's if it lies deep
            what = "The networks cannot be built: " if isinstance(reason, RuntimeError | IndexError) else ""
            raise reason if isinstance(reason, UserError) else UserError(f"{what}{first_line(reason)}.") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        schedules.stretch(self.model, self._get(self.config, "max_images"))
        if self.checkpoint is not None:
            record.check_fits(self.model, self.checkpoint)
        bar = [] if config.enable_progress_bar is False else [ImagesProgressBar()]
        config.callbacks = [*(config.callbacks or []), *bar]
        evaluation = self._get(self.config_init, "evaluation")
        arguments, plugins = launch(config)
        kwargs |= arguments
        plugins += config.plugins or []
        if self.subcommand != "fit":
            self.extractor = evaluation.prepare(self.datamodule)
            config.limit_val_batches = None
            return super().instantiate_trainer(logger=config.logger or False, plugins=plugins, **kwargs)
        config.callbacks = [self.interrupt, *config.callbacks]
        config.profiler = config.profiler or NoProfiler()
        settle(self.config_init[self.subcommand], self.config[self.subcommand], resumed=self.resumed is not None)
        limits = self._get(self.config, "max_images"), config.max_steps, config.max_epochs
        kwargs["max_steps"], self.nothing_left = last_step(limits, self.datamodule.batch_size, self.checkpoint, self.resumed)
        if self.nothing_left:
            config.max_epochs = -1
            config.callbacks.append(NothingLeft())
        if config.fast_dev_run:
            return super().instantiate_trainer(logger=False, plugins=plugins, **kwargs)
        _ = self.datamodule.prepared  # what is wrong with the data or the extractor is said before there is a run folder
        if self.resumed is not None:
            self.resumed.check_data(self.datamodule)
        if evaluation.num_samples:
            self.extractor = evaluation.prepare(self.datamodule)
        return self._instantiate_with_run_dir(config.logger, plugins, **kwargs)

    def _instantiate_with_run_dir(self, loggers: Any, plugins: list[Any], **kwargs: Any) -> Trainer:
        config = self.config[self.subcommand]
        config.name = config.name or "-".join(Path(file).stem for file in config.config or []) or "digits-dcgan"
        chosen = config.run_dir
        for place in ("run_dir", "ckpt_path", "resume"):
            del config[place]  # the saved configuration repeats the run elsewhere, and from the start
        if self.resumed is not None:
            self.run_dir = self.resumed.folder
        elif _rank() == 0:
            self.run_dir = make_run_folder(config.name, chosen)
        else:  # only rank 0 writes
            self.run_dir = Path(chosen or os.environ.get(RUN_DIR_VARIABLE, RUNS))
        self.claim = Claim(self.run_dir)
        theirs = loggers if isinstance(loggers, list) else [loggers] if isinstance(loggers, Logger) else []
        metrics = MetricsCSV(self.run_dir, claim=self.claim)
        speed = Speed(self.run_dir, self.claim)
        callbacks = [StopWhenStartedAnew(self.claim), EventLog(self.run_dir, self.claim, self.resumed), speed]
        self._get(self.config_init, "trainer").callbacks += callbacks
        try:
            trainer = super().instantiate_trainer(
                default_root_dir=self.run_dir,
                logger=[metrics, speed, *theirs],
                plugins=[AtomicCheckpointIO(self.claim), *plugins],
                **kwargs,
            )
            self.datamodule.check_share(trainer.world_size, self.model.accumulate)
        except Exception:
            if _rank() == 0 and self.resumed is None and chosen is None:
                remove_empty(self.run_dir)
            raise
        if _rank() == 0:
            os.environ[RUN_DIR_VARIABLE] = str(self.run_dir)
            make_absolute(config)
            self.claim.take(self._parser(self.subcommand).dump(config, skip_none=False))
            repeated = 0
            if self.resumed is not None:
                self.checkpoint, metrics.rows, repeated = self.resumed.take_over()
                self.config_init[self.subcommand].ckpt_path = self.resumed.ckpt_path
                metrics.cut_back()
            if not any(isinstance(logger, WandbLogger) for logger in theirs):
                started = start_wandb(self.run_dir, config.name, config.wandb, repeated, config.wandb_artifacts)
                trainer.loggers = [*trainer.loggers, *started]
        return trainer

    def fit(self, model: GAN, datamodule: DataModule, **kwargs: Any) -> None:
        """Train, with a word about it before and after."""
        evaluation, health = self._get(self.config_init, "evaluation"), self._get(self.config_init, "health")
        started = time.monotonic()
        fit_with_rollbacks(self.trainer, model, datamodule, health, **kwargs)
        seconds = time.monotonic() - started - evaluation.seconds
        images = model.images_seen - (self.checkpoint["lightning_gan"]["images_seen"] if self.checkpoint else 0)
        verb = "Stopped after" if self.interrupt.received else "Trained on"
        self._say(f"\n{verb} {images:,} images in {timedelta(seconds=round(seconds))} ({images / seconds:,.0f} images/s).")
        if self.run_dir is not None and self.trainer.is_global_zero:
            for logger in wandb_loggers(self.trainer) * (self.interrupt.received is None):
                logger.ended(self.run_dir / FOLDER)
            for line in whereabouts(self.run_dir, evaluation, self.trainer.loggers):
                self._say(line)
        if self.claim is not None and self.trainer.is_global_zero and self.interrupt.received != signal.SIGINT:
            if self.interrupt.received is not None:
                self.claim.mark(REQUEUE)
            elif not out_of_time(self.trainer):
                self.claim.mark(DONE)

    def validate(self, model: GAN, datamodule: DataModule, **kwargs: Any) -> None:
        self._score(self.trainer.validate, model, **kwargs)

    def test(self, model: GAN, datamodule: DataModule, **kwargs: Any) -> None:
        self._score(self.trainer.test, model, **kwargs)

    def _score(self, score: Callable[..., Any], model: GAN, **kwargs: Any) -> None:
        self._say(self.extractor)
        score(model, ONE_BATCH, **kwargs)
        if self.trainer.is_global_zero:
            for line in add_to_run(self._get(self.config_init, "evaluation"), self.config[self.subcommand], self._command):
                self._say(line)

    def before_fit(self) -> None:
        self._say(f"data           {self.datamodule.description}")
        for name in ("generator", "discriminator"):
            network = getattr(self.model, name)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            self._say(f"{name:<14} {type(network).__name__}, {parameters:,} parameters")
        steps, batch_size = self.trainer.max_steps, self.datamodule.batch_size
        if self.checkpoint is not None:
            steps -= self.checkpoint["global_step"]
        if self.resumed is not None:
            self._say(f"resumed        {self.resumed.describe(self.trainer.world_size)}")
        elif self.checkpoint is not None:
            self._say(f"resumed        after {self.checkpoint['lightning_gan']['images_seen']:,} images")
        left = f"{steps * batch_size:,} images in {steps:,} steps of {batch_size}"
        self._say(f"training       {'all done' if self.nothing_left else left}")
        self._say(f"precision      {self._get(self.config_init, 'acceleration').describe(self.trainer.precision)}")
        if self.run_dir:
            self._say(f"scores         {self.extractor}")
            self._say(f"run folder     {self.run_dir}")
        for logger in wandb_loggers(self.trainer):
            if not logger.experiment.offline:
                self._say(f"W&B            {where(logger.experiment)}")

    @property
    def exit_status(self) -> int:
        """What the process ends with; under SLURM a run that is to be started again is no failure."""
        received = self.interrupt.received
        if received is None or not self.trainer.is_global_zero:  # Lightning kills the first process when another fails
            return 0
        return 0 if received != signal.SIGINT and slurm.under_slurm() else 128 + received

    def _say(self, line: str) -> None:
        if self.trainer.is_global_zero:
            print(line, flush=True)


def _rank() -> int:
    """This process' rank, before there is a trainer to ask."""
    return getattr(rank_zero_only, "rank", 0)
