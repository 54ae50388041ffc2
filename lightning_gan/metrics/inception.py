"""The Inception network of the published scores, from its weights file."""

import os
import pickle
from hashlib import file_digest
from pathlib import Path

import torch
from torch import nn

from lightning_gan.errors import UserError
from lightning_gan.files import expanded

FILE = "weights-inception-2015-12-05-6726825d.pth"
DIGEST = "6726825d"
"""How the SHA-256 of the published weights starts, which as usual is part of the file's name."""

VARIABLE = "LIGHTNING_GAN_INCEPTION"


def weights_file(weights: str | None = None) -> Path:
    """Say where the weights are to be: as given, $LIGHTNING_GAN_INCEPTION, or where torch-fidelity keeps its download."""
    chosen = weights or os.environ.get(VARIABLE)
    return expanded(chosen) if chosen else Path(torch.hub.get_dir(), "checkpoints", FILE)


def at_hand() -> bool:
    """Say whether the weights are where they are looked for; a variable that names a file that is not there counts as yes."""
    return bool(os.environ.get(VARIABLE)) or weights_file().is_file()


def load(path: Path, digest: str) -> nn.Module:
    """Build torch-fidelity's network, which gives the features before the last layer and its logits without the bias.

    Args:
        path: its weights file.
        digest: how the file's SHA-256 is to start.

    Raises:
        UserError: the file is missing, not the expected one, damaged or of another network.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3  # takes seconds

    if not path.is_file():
        raise UserError(
            f"The Inception weights {path} are not there. Download {URL_INCEPTION_V3} and put it there, or say where it is "
            f"with the extractor's option weights or the environment variable {VARIABLE}."
        )
    try:
        with path.open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"The Inception weights {path} cannot be read: {error.strerror}.") from error
    if not found.startswith(digest):
        raise UserError(
            f"{path} is damaged, or not the expected Inception weights: its SHA-256 starts with {found[:8]}, not {digest}. "
            f"Download {URL_INCEPTION_V3} again."
        )
    try:
        # torch-fidelity unpickles whatever is in the file, which could be a program. This refuses all but tensors.
        torch.load(path, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            network: nn.Module = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path))
    except (RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} does not hold the weights of torch-fidelity's Inception network.") from error
    return network
