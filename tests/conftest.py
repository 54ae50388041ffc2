from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_gan.callbacks.checkpoint import AtomicCheckpointIO
from lightning_gan.data import DataModule, Digits
from lightning_gan.gan import GAN
from lightning_gan.losses import NonSaturating
from lightning_gan.networks import DCGANDiscriminator, DCGANGenerator
from lightning_gan.quiet import UNHELPFUL_WARNINGS

torch.set_num_threads(1)  # the networks are tiny: threads would only wait for each other

Adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))


def pytest_configure(config: pytest.Config) -> None:
    """Let through the warnings that the command line withholds, each with its reason there; any other is an error."""
    for message in UNHELPFUL_WARNINGS:
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests off the user's files and off the network."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("LIGHTNING_GAN_CACHE", str(home / "cache"))
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_API_KEY", "WANDB_PROJECT", "LIGHTNING_GAN_RUN_DIR"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def digits() -> DataModule:
    return Digits(image_size=8, batch_size=32, conditional=False)


@pytest.fixture
def make_gan() -> Callable[..., GAN]:
    """Build a small GAN for 8x8 digits; keyword arguments replace parts of it."""

    def make(num_classes: int = 0, **parts: Any) -> GAN:
        torch.manual_seed(0)
        defaults: dict[str, Any] = {
            "generator": DCGANGenerator((1, 8, 8), num_classes, latent_dim=4, width=4),
            "discriminator": DCGANDiscriminator((1, 8, 8), num_classes, width=4, dropout=0.2),
            "loss": NonSaturating(),
            "generator_optimizer": Adam,
            "discriminator_optimizer": Adam,
        }
        return GAN(**(defaults | parts))

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Build a silent trainer that writes into the test's own folder; keyword arguments go to it."""

    def make(**arguments: Any) -> Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_checkpointing": None if "callbacks" in arguments else False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "max_epochs": -1,
            "plugins": [AtomicCheckpointIO()],
        }
        return Trainer(**(defaults | arguments))

    return make
