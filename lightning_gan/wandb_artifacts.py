"""Checkpoints and generators as W&B's artifacts, for those who ask for it."""

import io
import os
from contextlib import redirect_stdout
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Literal

from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from lightning_gan.checkpoints import read_checkpoint
from lightning_gan.errors import UserError

WandbArtifacts = Literal["none", "best", "all"]


class Artifacts:
    """Logs `checkpoint-<id>`, and at the end `generator-<id>`: the best one as `export` writes it.

    Its versions have the aliases `best` or `last`, and `images-<images seen>`. What is logged already is not logged
    again when a run is gone on with: a file in the folder of W&B's records has the digests.

    Args:
        run: W&B's.
        folder: that of its records.
        which: `best` = at the end, the best checkpoint; `all` = each one that is saved, as it is.
    """

    PATIENCE = 30.0
    """Seconds to wait for the server at the end."""

    def __init__(self, run: Any, folder: Path, which: WandbArtifacts) -> None:
        self._run = run
        self._known = folder / "artifacts.txt"
        self._which = which
        self._pending: list[Thread] = []
        if which != "none":
            os.environ.setdefault("WANDB_DATA_DIR", str((folder / "data").absolute()))  # copies are big, and homes often small

    def saved(self, checkpoint: Path, images_seen: int) -> None:
        """Be told that a checkpoint has been saved."""
        if self._which == "all":
            self._log("checkpoint", checkpoint, checkpoint, images_seen, alias=checkpoint.stem)

    def ended(self, checkpoints: Path) -> None:
        """Be told that training has come to its end; where nothing was scored its last checkpoint is the best."""
        checkpoint = next((path for path in (checkpoints / "best.ckpt", checkpoints / "last.ckpt") if path.exists()), None)
        if self._which == "none" or checkpoint is None:
            return
        images_seen = read_checkpoint(checkpoint)["lightning_gan"]["images_seen"]
        self._log("checkpoint", checkpoint, checkpoint, images_seen, alias=checkpoint.stem)
        with TemporaryDirectory() as folder:
            try:
                from lightning_gan.artefacts.export import export

                generator = Path(folder, "generator")
                with redirect_stdout(io.StringIO()):
                    export(checkpoint, generator, onnx=False)
            except UserError as error:
                rank_zero_warn(f"The generator is not among W&B's artifacts: {error}")
                return
            self._log("generator", generator, generator / "generator.safetensors", images_seen, alias=checkpoint.stem)
        for thread in self._pending:
            thread.join(self.PATIENCE / len(self._pending))

    def _log(self, kind: str, path: Path, decisive: Path, images_seen: int, alias: str) -> None:
        """Log a file or folder, if what is decisive in it is new."""
        import wandb

        try:
            with decisive.open("rb") as file:
                entry = f"{kind} {file_digest(file, 'sha256').hexdigest()}\n"
            if self._known.exists() and entry in self._known.read_text():
                return
            metadata = {"images_seen": images_seen}
            artifact = wandb.Artifact(f"{kind}-{self._run.id}", "model" if kind == "generator" else kind, metadata=metadata)
            for part in sorted(path.iterdir()) if path.is_dir() else [path]:
                artifact.add_file(str(part), skip_cache=True)  # which copies it: the next one of its name takes its place
            with self._known.open("a") as known:
                known.write(entry)
        except Exception as error:  # a full disk, or whatever is wrong with W&B
            rank_zero_warn(f"{path} is not among W&B's artifacts: {error}.")
            return
        thread = Thread(target=self._hand_over, args=(artifact, [alias, f"images-{images_seen}"]), daemon=True)
        thread.start()  # it asks the server something, which may be away
        self._pending.append(thread)

    def _hand_over(self, artifact: Any, aliases: list[str]) -> None:
        try:
            self._run.log_artifact(artifact, aliases=aliases)
        except Exception as error:
            rank_zero_warn(f"{artifact.name} is not among W&B's artifacts: {error}.")
