"""What a training step costs, in counts and never in seconds, and that what makes it cheap does not change it.

Three gates: no step waits for a GPU; a step does hardly more on the device than a hand-written loop's; and Python's share of it
does not grow. Each is shown to notice what it is there for.
"""

import platform
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import pytorch_lightning
import torch
from packaging.version import Version
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.testing import assert_close

from lightning_gan import penalties
from lightning_gan.callbacks import Health
from lightning_gan.data import DataModule
from lightning_gan.gan import GAN
from lightning_gan.networks import StyleGAN2Discriminator, StyleGAN2Generator, stylegan2
from lightning_gan.penalties import R1, PathLength
from tests.counting import STEPS, Calls, Operations, in_both
from tests.nowhere import NOWHERE, Waits, Watch, train
from tests.test_conf import CONF, IMAGE_SHAPES, RUNS, SLIM

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]


@pytest.fixture(autouse=True)
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # runs go into it


PENALTIES = ["R1", "R2", "GradientPenalty", "ZeroCentredGradientPenalty", "DRAGAN", "LeCam", "Consistency"]
OPTIONS = {  # what no named run has
    "DiffAugment": "--model.augment=DiffAugment",
    "all penalties": " ".join(f"--model.penalties.{name.lower()}={name}" for name in PENALTIES)
    + " --model.penalties.consistency.transform=DiffAugment",
    "parts": "--model.accumulate=2 --model.generator_clip_norm=1 --model.discriminator_clip_norm=1",
    "averages": "--model.further_half_lives=[500,1000] --model.ema_half_life=0",
    "one pass of G": "--model.reuse_fakes=true --model.discriminator.dropout=0.2",
    "a schedule": "--model.generator_schedules.lr=Cosine --model.generator_schedules.lr.start=1e-3 "
    "--model.generator_schedules.lr.end=0",
}


since_2_15 = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.15"), reason="torch does it out of a dispatch mode's sight before 2.15"
)


class TestNoStepWaitsForTheDevice:
    @pytest.mark.parametrize("name", RUNS)
    def test_of_a_named_run(self, name: str) -> None:
        size = min(32, IMAGE_SHAPES[name.removesuffix(".yaml").split("-")[0]][1])
        # At the first step all penalties are due, and at the second no lazy one is.
        options = ["-c", str(CONF / name), "--data=Digits", f"--data.image_size={size}", *SLIM.get(name, [])]
        assert "loss/generator" in train(options, steps=2)

    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_whatever_it_is_told_to_do(self, options: str) -> None:
        assert "loss/generator" in train(options.split(), steps=2)

    @pytest.mark.parametrize(
        "wait",
        [
            lambda x: x.sum().item(),
            lambda x: float(x[0]),
            lambda x: bool(x[0] > 0),
            lambda x: x.tolist(),
            lambda x: x.cpu(),
            lambda x: x[x > 0],
            lambda x: x.nonzero(),
            lambda x: torch.equal(x, x),
            lambda x: x[: x[0].int()],
            pytest.param(lambda x: torch.tensor(1.0, device=x.device), marks=since_2_15),
            lambda x: torch.ones(3).to(x.device),
            lambda x: x.copy_(torch.ones(3)),
            lambda x: x.index_put_((x > 0,), x[0]),
            pytest.param(lambda x: x[[0, 1]], marks=since_2_15),
        ],
    )
    def test_one_that_does_is_noticed(self, wait: Callable[[Tensor], Any]) -> None:
        with pytest.raises((Waits, RuntimeError)), Watch():
            wait(torch.zeros(3, device=NOWHERE))

    def test_and_so_is_one_in_the_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        step = GAN.discriminator_step

        def slow(*args: Any) -> dict[str, Tensor]:
            return {name: scalar / scalar.item() for name, scalar in step(*args).items()}

        monkeypatch.setattr(GAN, "discriminator_step", slow)
        with pytest.raises(RuntimeError, match=r"item\(\) cannot be called"):
            train([], steps=1)

    def test_and_one_of_a_callback_after_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        look = Health.on_train_start

        def too_often(health: Health, *args: Any) -> None:
            look(health, *args)
            health._every = 1

        monkeypatch.setattr(Health, "on_train_start", too_often)
        with pytest.raises(RuntimeError, match="Cannot copy out of meta tensor"):
            train([], steps=1)


SMALL = ["--model.reuse_fakes=true", "--data.conditional=false"]
MLP = "--model.generator.latent_dim=32 --model.generator.hidden=[64] --model.discriminator.hidden=[64]"
DCGAN = "--model.generator.width=8 --model.discriminator.width=8"
NETWORKS = {
    "MLP": ["-c", str(CONF / "model/mlp.yaml"), *MLP.split(), "--model.discriminator.dropout=0"],
    "DCGAN": ["-c", str(CONF / "model/dcgan.yaml"), *DCGAN.split()],
}
MORE_OPERATIONS = {  # a step of `fit` than one of the plain loop; all are of single numbers or vectors but where it is said
    ("MLP", "32-true"): (
        5  # the rows of a batch and its latents are functions of its number
        + 4  # D's parameters are detached in G's step
        + 1  # a loss per sample, averaged later
        + 7  # what is logged is averaged and detached
        + 1  # of the size of G: its average
        + 1  # Health looks, as it does at every step on a CPU
    ),
    ("DCGAN", "32-true"): 19
    + 3  # D's normalization has two parameters more, and ...
    + 3  # ... three buffers, copied lest G's step change them
    + 2,  # the average copies the counts of G's
    ("MLP", "bf16-mixed"): 19
    + 2  # of the size of a batch: G's images are made float32 for penalties, and bfloat16 again
    + 8,  # D's four weights are cast for either of its passes: Lightning does not let autocast keep them
    ("DCGAN", "bf16-mixed"): 27 + 2 + 8,
}
COUNTED_WITH = ("3.11", "2.15", "2.6")
INSTALLED = (platform.python_version(), torch.__version__, pytorch_lightning.__version__)
VERSIONS = tuple(".".join(version.split(".")[:2]) for version in INSTALLED)
CALLS = {"MLP": 4.1, "DCGAN": 3.4}
"""Calls of functions in a step of `fit`, for one of the plain loop's; a tenth above what was counted when this was written."""


def by_name(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {n / STEPS:g}" for name, n in counted.most_common())


class TestTheStepAgainstThePlainLoop:
    @pytest.mark.parametrize(("networks", "precision"), MORE_OPERATIONS)
    def test_it_does_hardly_more(self, networks: str, precision: str) -> None:
        ours, theirs = in_both(Operations, [*NETWORKS[networks], *SMALL, f"--trainer.precision={precision}"])
        more = round((ours.total() - theirs.total()) / STEPS)  # rarer than at each step: an epoch's order
        assert more <= MORE_OPERATIONS[networks, precision], by_name(ours - theirs)

    @pytest.mark.skipif(VERSIONS != COUNTED_WITH, reason=f"calls were counted with Python, torch and Lightning {COUNTED_WITH}")
    @pytest.mark.parametrize("networks", CALLS)
    def test_it_calls_only_so_many_times_as_many_functions(self, networks: str) -> None:
        ours, theirs = in_both(Calls, [*NETWORKS[networks], *SMALL, "--trainer.precision=32-true"])
        assert ours.total() / theirs.total() <= CALLS[networks], by_name(ours - theirs)

    def test_another_pass_of_the_generator_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        step = GAN.training_step

        def slow(gan: GAN, batch: Any, batch_idx: int) -> Any:
            gan.generator(torch.zeros(len(batch.images), gan.generator.latent_dim))
            return step(gan, batch, batch_idx)

        monkeypatch.setattr(GAN, "training_step", slow)
        with pytest.raises(AssertionError, match="addmm"):
            self.test_it_does_hardly_more("MLP", "32-true")

    def test_six_values_logged_at_each_step_are_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        step = GAN.training_step

        def slow(gan: GAN, *args: Any) -> Any:
            scalars = step(gan, *args)
            for number in range(6):
                gan.log(f"value/{number}", scalars["loss/generator"])
            return scalars

        monkeypatch.setattr(GAN, "training_step", slow)
        with pytest.raises(AssertionError, match="isinstance"):
            self.test_it_calls_only_so_many_times_as_many_functions("MLP")


class Losses(Callback):
    def __init__(self) -> None:
        self.of_d: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.of_d.append(outputs["loss/discriminator"])


class TestWhatIsQuickIsTheSame:
    @pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD], ids=lambda kind: kind.__name__)
    def test_a_run_with_fused_optimizers(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, kind: Callable[..., torch.optim.Optimizer]
    ) -> None:
        runs = []
        for fused in (False, None):  # None: as the GAN chooses
            optimizer = partial(kind, lr=1e-3, fused=fused)
            gan = make_gan(generator_optimizer=optimizer, discriminator_optimizer=optimizer, penalties={"r1": R1(every=4)})
            trainer = make_trainer(max_steps=20, enable_checkpointing=False)
            trainer.fit(gan, digits)
            assert all(group["fused"] == (fused is None) for each in trainer.optimizers for group in each.param_groups)
            runs.append(gan.state_dict())
        assert_close(runs[1], runs[0], rtol=1e-4, atol=1e-6)

    def test_a_run_in_mixed_precision_up_to_rounding(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        optimizer = partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.999))
        runs = []
        for precision in ("32-true", "bf16-mixed"):
            losses = Losses()
            gan = make_gan(penalties={"r1": R1(0.1, every=4)}, generator_optimizer=optimizer, discriminator_optimizer=optimizer)
            trainer = make_trainer(max_steps=10, precision=precision, callbacks=[losses], enable_checkpointing=False)
            trainer.fit(gan, digits)
            runs.append(torch.stack(losses.of_d))
        assert_close(runs[1], runs[0], rtol=0.01, atol=0)
        assert not torch.equal(runs[1], runs[0])
        assert runs[0].max() > 1.1 * runs[0].min()  # far enough to tell

    @pytest.mark.parametrize("kind", ["unconditional", "conditional", "StyleGAN2"])
    def test_a_run_that_reuses_its_fakes_if_they_are_from_the_same_latents(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draw = GAN.latents
        monkeypatch.setattr(GAN, "latents", lambda gan, purpose, *args: draw(gan, "the same", *args))
        for module in (stylegan2, penalties):  # noise and mixed styles are to be the same in either pass
            monkeypatch.setattr(module, "randn", lambda *shape, device: torch.ones(shape).cumsum(-1) - shape[-1] / 2)
        digits.conditional = kind == "conditional"
        runs: list[dict[str, Tensor]] = []
        passes: list[list[bool]] = []
        for reuse_fakes in (False, True):
            parts: dict[str, Any] = {"critic_steps": 3, "reuse_fakes": reuse_fakes, "penalties": {"r1": R1(every=2)}}
            if kind == "StyleGAN2":
                torch.manual_seed(0)
                generator = partial(StyleGAN2Generator, latent_dim=4, style_dim=8, mapping_layers=2, style_mixing=0)
                parts["generator"] = generator((1, 8, 8), channel_base=64)
                parts["discriminator"] = StyleGAN2Discriminator((1, 8, 8), channel_base=64)
                parts["generator_penalties"] = {"path_length": PathLength(every=2)}
            gan = make_gan(10 if digits.conditional else 0, **parts)
            passes.append([])
            gan.generator.register_forward_hook(lambda *_: passes[-1].append(torch.is_grad_enabled()))
            make_trainer(max_steps=12).fit(gan, digits)
            runs.append(gan.state_dict())
        assert_close(runs[1], runs[0], rtol=0, atol=0)
        assert passes == [[False, False, False, True] * 4, [False, False, True] * 4]  # kept for G's step alone

    def test_a_resumed_run_that_reuses_its_fakes(
        self, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
    ) -> None:
        runs, saved = [], None
        for before, steps in pairwise([0, 16, 7, 16]):
            trainer, gan = make_trainer(max_steps=steps), make_gan(reuse_fakes=True, critic_steps=3)
            trainer.fit(gan, digits, ckpt_path=saved if steps > before > 0 else None, weights_only=True)
            saved = f"{steps}.ckpt"
            trainer.save_checkpoint(saved)
            runs.append(gan.state_dict())
        whole, _, resumed = runs
        assert_close(resumed, whole, rtol=0, atol=0)
