"""What accompanies training without changing it."""

from lightning_gan.callbacks.acceleration import Acceleration
from lightning_gan.callbacks.checkpoint import LastCheckpoint
from lightning_gan.callbacks.evaluation import Evaluation
from lightning_gan.callbacks.health import Health
from lightning_gan.callbacks.interrupt import StopOnSignal
from lightning_gan.callbacks.progress import ImagesProgressBar
from lightning_gan.callbacks.samples import SampleGrid
from lightning_gan.callbacks.walks import Walks

__all__ = [
    "Acceleration",
    "Evaluation",
    "Health",
    "ImagesProgressBar",
    "LastCheckpoint",
    "SampleGrid",
    "StopOnSignal",
    "Walks",
]
