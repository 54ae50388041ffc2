import copy
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan.callbacks import Acceleration
from lightning_gan.callbacks.acceleration import quick_precision, settle
from lightning_gan.data import DataModule, Digits
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from lightning_gan.networks.base import Network
from lightning_gan.penalties import R1, GradientPenalty

MakeGAN = Callable[..., GAN]
MakeTrainer = Callable[..., Trainer]
SGD = partial(torch.optim.SGD, lr=0.01)
SHAPE = (1, 16, 16)
FAMILIES: dict[str, tuple[Callable[[], Network], Callable[[], Network]]] = {
    "DCGAN": (
        partial(DCGANGenerator, SHAPE, latent_dim=4, width=8),
        partial(DCGANDiscriminator, SHAPE, width=8),
    ),
    "ResNet": (
        partial(ResNetGenerator, SHAPE, latent_dim=4, width=8),
        partial(ResNetDiscriminator, SHAPE, width=8),
    ),
    "StyleGAN2": (
        partial(StyleGAN2Generator, SHAPE, latent_dim=4, max_channels=16),
        partial(StyleGAN2Discriminator, SHAPE, max_channels=16),
    ),
    "R3GAN": (
        partial(R3GANGenerator, SHAPE, latent_dim=4, channels=[32, 32, 32]),
        partial(R3GANDiscriminator, SHAPE, channels=[32, 32, 32]),
    ),
}


def trained(gan: GAN, make_trainer: MakeTrainer, **arguments: Any) -> dict[str, Tensor]:
    digits = Digits(image_size=16, batch_size=16, conditional=False)
    make_trainer(max_steps=3, enable_checkpointing=False, **arguments).fit(gan, digits)
    return {name: parameter.detach() for name, parameter in gan.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_last_trains_the_same_networks(make_gan: MakeGAN, make_trainer: MakeTrainer, family: str) -> None:
    results = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        generator, discriminator = (build() for build in FAMILIES[family])
        gan = make_gan(
            generator=generator,
            discriminator=discriminator,
            penalties={"r1": R1(every=2)},
            generator_optimizer=SGD,
            discriminator_optimizer=SGD,
        )
        results.append(trained(gan, make_trainer, callbacks=[Acceleration(channels_last=channels_last)]))
    assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)
    convolutions = [x for x in results[1].values() if x.ndim == 4 and min(x.shape[1:]) > 1]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in convolutions)
    assert any(not x.is_contiguous() for x in convolutions)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_checkpoint_of_the_other_layout_is_gone_on_with(
    make_gan: MakeGAN, make_trainer: MakeTrainer, tmp_path: Path, channels_last: bool
) -> None:
    # Adam's fused kernel went through its averages in the order of the checkpoint and through the weights in another.
    slow = partial(torch.optim.Adam, lr=0.01, eps=0.01)  # without it Adam makes much of a gradient that is rounding alone
    results = []
    for layouts in ((channels_last, channels_last), (not channels_last, channels_last)):
        torch.manual_seed(0)
        generator, discriminator = (build() for build in FAMILIES["DCGAN"])
        gan = make_gan(generator=generator, discriminator=discriminator, generator_optimizer=slow, discriminator_optimizer=slow)
        checkpoint = tmp_path / f"{layouts[0]}.ckpt"
        for layout, steps, start in zip(layouts, (3, 6), (None, checkpoint), strict=True):
            gan = copy.deepcopy(gan)
            trainer = make_trainer(max_steps=steps, callbacks=[Acceleration(channels_last=layout)], enable_checkpointing=False)
            trainer.fit(gan, Digits(image_size=16, batch_size=16, conditional=False), ckpt_path=start)
            trainer.save_checkpoint(checkpoint)
        results.append({name: parameter.detach() for name, parameter in gan.named_parameters()})
    assert_close(results[1], results[0], rtol=1e-3, atol=1e-6)


def test_graphs_and_fakes_that_are_kept_exclude_each_other(make_gan: MakeGAN, make_trainer: MakeTrainer) -> None:
    gan, acceleration = make_gan(reuse_fakes=True), Acceleration(compile="reduce-overhead")
    with pytest.raises(UserError, match="leave out one of them"):
        acceleration.setup(make_trainer(), gan, "fit")


@pytest.mark.parametrize("penalty", [R1(every=2), GradientPenalty(every=2)], ids=lambda penalty: type(penalty).__name__)
def test_a_compiled_step_is_the_eager_one(make_gan: MakeGAN, make_trainer: MakeTrainer, penalty: nn.Module) -> None:
    # Compiled code has no second derivative, and its update of running statistics invalidated the penalty's graph.
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        generator, discriminator = (build() for build in FAMILIES["DCGAN"])
        gan = make_gan(
            generator=generator,
            discriminator=discriminator,
            penalties={"only": penalty},
            generator_optimizer=SGD,
            discriminator_optimizer=SGD,
        )
        if compiled:  # the back end that generates code takes half a minute
            generator.compile(backend="aot_eager")
            discriminator.compile(backend="aot_eager")
        results.append(trained(gan, make_trainer))
    assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_both_networks_are_compiled_in_place(
    monkeypatch: pytest.MonkeyPatch, make_gan: MakeGAN, make_trainer: MakeTrainer, digits: DataModule
) -> None:
    gan = make_gan()
    modes: list[str] = []
    names = set(gan.state_dict())

    def note(mode: str) -> None:  # to compile takes half a minute
        modes.append(mode)

    monkeypatch.setattr(gan.generator, "compile", note)
    monkeypatch.setattr(gan.discriminator, "compile", note)
    make_trainer(max_steps=1, callbacks=[Acceleration(compile="max-autotune")], enable_checkpointing=False).fit(gan, digits)
    assert modes == ["max-autotune"] * 2
    assert set(gan.state_dict()) == names


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "avx2": True}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_a_cpu_is_quick_in_bfloat16_if_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert quick_precision("cpu") == expected


@pytest.mark.parametrize(
    ("kind", "supported", "expected"), [("cuda", True, "bf16-mixed"), ("cuda", False, "32-true"), ("mps", True, "32-true")]
)
def test_a_gpu_is_asked(monkeypatch: pytest.MonkeyPatch, kind: str, supported: bool, expected: str) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device(kind))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert quick_precision("auto") == expected


class TestSettle:
    @pytest.mark.parametrize(
        ("precision", "channels_last", "resumed", "expected"),
        [
            (None, None, False, ("bf16-mixed", True)),
            ("32-true", None, False, ("32-true", False)),
            ("16-mixed", None, False, ("16-mixed", True)),
            (None, False, False, ("bf16-mixed", False)),
            # A run from before there was a choice was in full precision, and stays in it.
            (None, None, True, ("32-true", False)),
            ("bf16-mixed", None, True, ("bf16-mixed", False)),
            ("bf16-mixed", True, True, ("bf16-mixed", True)),
        ],
    )
    def test_what_is_chosen_is_saved(
        self,
        monkeypatch: pytest.MonkeyPatch,
        precision: str | None,
        channels_last: bool | None,
        resumed: bool,
        expected: tuple[str, bool],
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
        config, saved = (
            Namespace(
                trainer=Namespace(precision=precision, accelerator="cpu"),
                acceleration=Namespace(channels_last=channels_last),
            )
            for _ in range(2)
        )
        settle(config, saved, resumed)
        for options in (config, saved):
            assert (options.trainer.precision, options.acceleration.channels_last) == expected


def test_it_says_what_it_does() -> None:
    assert Acceleration().describe("32-true") == "32-true"
    assert (
        Acceleration(channels_last=True, compile="default").describe("bf16-mixed")
        == "bf16-mixed, channels last, compiled (default)"
    )
