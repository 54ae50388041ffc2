import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from pytorch_lightning import Callback, Trainer
from torch.testing import assert_close

from lightning_gan.__main__ import main
from lightning_gan.callbacks import LastCheckpoint, StopOnSignal, Walks
from lightning_gan.callbacks import walks as module
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]


def fit(make_trainer: MakeTrainer, gan: GAN, digits: DataModule, *callbacks: Any, steps: int = 5) -> None:
    make_trainer(max_steps=steps, callbacks=list(callbacks), enable_checkpointing=len(callbacks) > 1).fit(gan, digits)


@pytest.mark.parametrize("num_classes", [0, 10])
def test_the_last_film_is_the_one_that_interpolate_makes(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path, num_classes: int
) -> None:
    digits.conditional = num_classes > 0
    walks = Walks(64, rows=6, num=3, steps=5, fps=8)
    fit(make_trainer, make_gan(num_classes, seed=3), digits, walks, LastCheckpoint(0))
    films = sorted(path.name for path in (tmp_path / "walks").iterdir())
    assert films == ["000000064.gif", "000000128.gif", "000000160.gif"]

    again = tmp_path / "again.gif"
    options = "--seed 3 --num 3 --rows 6 --steps 5 --fps 8 --batch_size 64 --device cpu"
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    assert main(["interpolate", "--ckpt_path", checkpoint, "--output", str(again), *options.split()]) == 0
    assert again.read_bytes() == (tmp_path / "walks" / "000000160.gif").read_bytes()

    with Image.open(again) as film:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 15
    assert frames[0].shape == (2 + 2 * 66, 2 + 3 * 66)  # two rows of three, enlarged to 64
    assert all(not np.array_equal(a, b) for a, b in pairwise([*frames, frames[0]]))


def test_films_do_not_change_training(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule) -> None:
    with_films, without = make_gan(), make_gan()
    fit(make_trainer, with_films, digits, Walks(32))
    make_trainer(max_steps=5).fit(without, digits)
    for name, tensor in without.state_dict().items():
        assert torch.equal(tensor, with_films.state_dict()[name]), name


def test_a_run_that_is_stopped_does_not_wait_for_one(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    class Signal(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                signal.raise_signal(signal.SIGTERM)

    fit(make_trainer, make_gan(), digits, StopOnSignal(), Signal(), Walks(64, rows=1), LastCheckpoint(0))
    assert [path.name for path in (tmp_path / "walks").iterdir()] == ["000000064.gif"]
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_large_images_are_reduced_by_a_whole_factor(make_gan: MakeGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    walks, gan = Walks(rows=2), make_gan()
    (whole,) = walks._images(gan, 4)
    assert whole.shape == (4, 1, 8, 8)
    monkeypatch.setattr(module, "MAX_SIZE", 5)
    (reduced,) = walks._images(gan, 4)
    means = whole.double().unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    assert reduced.dtype == torch.uint8
    assert_close(reduced.double(), means, rtol=0, atol=0.5)


def test_there_need_be_none(make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path) -> None:
    fit(make_trainer, make_gan(), digits, Walks(32, rows=0))
    assert not (tmp_path / "walks").exists()


def test_a_full_disk_costs_a_film_and_not_the_run(
    make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, tmp_path: Path
) -> None:
    (tmp_path / "walks").write_text("")
    with pytest.warns(UserWarning, match=r"The film .*000000160\.gif could not be written: "):
        fit(make_trainer, make_gan(), digits, Walks(0))


@pytest.mark.parametrize("options", [{"rows": -1}, {"num": 1}, {"steps": 0}, {"fps": 51}, {"every_images": -1}])
def test_what_cannot_be_a_film_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"a film needs rows|cannot act every -1"):
        Walks(**options)
