"""Going on with a run, from its folder alone."""

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_gan.checkpoints import newest
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.run_folder import CONFIG, DONE


class Resumed:
    """A run that is gone on with.

    Args:
        folder: the run folder.
        max_images: the length of training.

    Attributes:
        checkpoint: the newest whole one, or None if the run was killed before it had saved any.
        ckpt_path: its file.

    Raises:
        UserError: none of its checkpoints is whole, or it is complete.
    """

    def __init__(self, folder: Path, max_images: int) -> None:
        self.folder = folder
        found = newest(folder)
        self.ckpt_path = found[0] if found else None
        self.checkpoint = found[1] if found else None
        self._passed_over = found[2] if found else []
        if (folder / DONE).exists() and max_images <= self.images_seen:
            raise UserError(
                f"{folder} is complete, after {self.images_seen:,} images. Raise --max_images={max_images} to go on."
            )

    @property
    def images_seen(self) -> int:
        return int(self.checkpoint["lightning_gan"]["images_seen"]) if self.checkpoint else 0

    @property
    def metrics_rows(self) -> int:
        """Rows of `metrics.csv` that stand: what came after the checkpoint is trained again."""
        return int(self.checkpoint.get("metrics_rows", 0)) if self.checkpoint else 0

    def clear_away(self) -> None:
        """Put checkpoints that are damaged out of the way, with a word about them."""
        for path, reason in self._passed_over:
            aside = path.with_stem(f"{path.stem}-damaged")
            path.replace(aside)
            print(f"{reason} It is {aside} now, and the run goes on from {self.ckpt_path}.", flush=True)

    def check_data(self, data: DataModule) -> None:
        """Refuse data that would make it another run.

        Raises:
            UserError: other images, another order of them or another batch size.
        """
        if self.checkpoint is None:
            return
        now, before = data.state_dict(), self.checkpoint.get(type(data).__qualname__, {})
        for name, value in before.items():
            if now.get(name, value) != value:
                what = f"The data {data.name} have" if name == "fingerprint" else f"--data.{name} is {now[name]}, and has"
                raise UserError(
                    f"{what} changed since {self.folder} was started{'' if name == 'fingerprint' else f' with {value}'}, which "
                    f"would make it another run. To start one from its weights, use -c and --ckpt_path {self.ckpt_path}."
                )

    def describe(self, processes: int) -> str:
        """One line for people.

        Args:
            processes: that train it now.
        """
        if self.checkpoint is None:
            return "from the start: no checkpoint had been saved"
        record = self.checkpoint["lightning_gan"]
        line = f"after {record['images_seen']:,} images"
        if (before := record.get("processes", processes)) != processes:
            line += f"; {before} processes then, {processes} now: the same images and latents, sums in another order"
        return line


class NothingLeft(Callback):
    """Ends a training that has no more steps to take where it starts, so that what is due at its end is done."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def run_to_resume(options: Sequence[str]) -> Path | None:
    """Find `--resume RUN` among the options of a command, before they can be parsed: RUN's configuration goes before them."""
    for option, value in zip(options, [*options[1:], ""], strict=False):
        if option == "--resume" and value:
            return Path(value)
        if option.startswith("--resume="):
            return Path(option.partition("=")[2])
    return None


def configuration_of(run: Path) -> Path:
    """Find the configuration that a run has kept.

    Raises:
        UserError: there is no such run.
    """
    if not (run / CONFIG).is_file():
        known = "has no config.yaml in it" if run.is_dir() else "does not exist"
        raise UserError(f"--resume {run}: that folder {known}, so there is no run to go on with. Start one without --resume.")
    return run / CONFIG
