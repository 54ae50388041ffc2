"""Networks that turn images into features and class scores, by which generated images are compared with real ones.

What a score says depends on the extractor, so its name is part of the score's and its digest is kept beside it.
"""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gan.errors import UserError
from lightning_gan.metrics import inception, store
from lightning_gan.metrics.classifier import RECIPE, SmallNetwork, train
from lightning_gan.metrics.real import RealImages
from lightning_gan.randomness import generator

logger = logging.getLogger(__name__)


class Extractor(nn.Module, ABC):
    """Images to features.

    One's own is a subclass, named by its class path in the configuration:

        class AlexNet(Extractor):
            name = "alexnet"

            def __init__(self) -> None:
                super().__init__()
                self.network = torchvision.models.alexnet(weights="DEFAULT")

            def forward(self, x):
                x = F.interpolate(x.expand(-1, 3, -1, -1) / 255, size=224, mode="bilinear")
                return self.network.features(x).mean((2, 3)), None

    Attributes:
        name: becomes part of the scores' names, such as fid_alexnet.
        classifies: whether the logits are over the data set's own classes.
    """

    name: str
    classifies: bool = False

    def prepare(self, real: RealImages) -> None:  # most of one's own have nothing to do
        """Get ready for a data set, on the CPU.

        Raises:
            UserError: that cannot be done.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Look at images: uint8 (N, C, H, W) -> features (N, D), logits (N, K) or None."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its output beside its weights: by default its public attributes that are numbers or strings."""
        return {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, str | int | float) and not name.startswith("_") and name not in ("training", "name")
        }

    @property
    def digest(self) -> str:
        """Two extractors of the same digest give the same features: 16 hexadecimal digits, over code, settings and weights.

        Of our own extractors the class is enough to name the code; a user's may change between two runs.
        """
        cls = type(self)
        code = "" if cls.__module__ == __name__ else _source(cls)
        facts = [f"{cls.__module__}.{cls.__qualname__}", code, sorted(self.settings.items()), store.digest(self.state_dict())]
        return sha256(repr(facts).encode()).hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where it is, and what `extract` returns."""
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))


def _source(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):  # not from a file
        return ""


@contextmanager
def exact() -> Iterator[None]:
    """Compute in float32 as it is meant: no autocast and no TF32 or bfloat16 in disguise, whatever training uses."""
    operations = attrgetter("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")(torch.backends)
    before = [operation.fp32_precision for operation in operations]
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        try:
            for operation in operations:
                operation.fp32_precision = "ieee"
            yield
        finally:
            for operation, precision in zip(operations, before, strict=True):
                operation.fp32_precision = precision


@torch.no_grad()
def extract(extractor: Extractor, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Look at images: uint8 (N, C, H, W), anywhere -> float32 features (N, D), logits (N, K) or None, on its device.

    The only way in which features are computed: in evaluation mode and exact float32, so that they depend on image and
    extractor alone.

    Raises:
        TypeError: the images are not uint8; floats would leave open how they are to be rounded.
        UserError: the extractor, one of the user's own, returns something else.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
    if any(module.training for module in extractor.modules()):  # to look takes a tenth of the time that setting takes
        extractor.eval()
    images = images.to(extractor.device)
    # A single image would take another path through oneDNN, with other roundings.
    batch = torch.cat([images, images]) if len(images) == 1 else images
    with exact():
        output = extractor(batch)
    if not (isinstance(output, tuple) and len(output) == 2):
        raise UserError(f"{type(extractor).__name__} must return features and logits, the latter None if it has none.")
    features, logits = output
    return _checked(extractor, "features", features, len(batch))[: len(images)], (
        None if logits is None else _checked(extractor, "logits", logits, len(batch))[: len(images)]
    )


def _shape(real: RealImages) -> tuple[int, int, int]:
    _, channels, height, width = real.train.shape
    return channels, height, width


def _checked(extractor: Extractor, what: str, values: Any, num: int) -> Tensor:
    who = type(extractor).__name__
    if not (isinstance(values, Tensor) and values.ndim == 2 and len(values) == num):
        kind = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(f"The {what} of {who} must be a tensor (N, D), one row for each of N images, not {kind}.")
    if not values.isfinite().all():
        raise UserError(f"The {what} of {who} are not finite: no score can be computed from them.")
    return values.float()


class Inception(Extractor):
    """The network of the published scores, Szegedy et al. 2016, as torch-fidelity carried it over from TensorFlow.

    Its scores compare with published ones only for the published weights and the resize of TensorFlow 1; with others, which
    then are part of its name, they compare with each other.

    Args:
        weights: its file; null = $LIGHTNING_GAN_INCEPTION or, without that, where torch-fidelity keeps its download. Nothing
            is ever downloaded.
        digest: how the file's SHA-256 is to start, at least 8 hexadecimal digits.
        resize: how images come to 299x299: "tf1" takes single pixels for large images, "antialias" averages.
    """

    def __init__(
        self, weights: str | None = None, digest: str = inception.DIGEST, resize: Literal["tf1", "antialias"] = "tf1"
    ) -> None:
        super().__init__()
        if len(digest) < 8 or set(digest) - set("0123456789abcdef"):
            raise UserError(f"The digest of the Inception weights must be at least 8 hexadecimal digits, not '{digest}'.")
        self.weights = weights
        self.expected = digest
        self.resize = resize
        variant = [] if digest.startswith(inception.DIGEST) else [digest[:8]]
        self.name = "_".join(["inception", *variant, *([resize] if resize != "tf1" else [])])

    def prepare(self, real: RealImages) -> None:
        self.network = inception.load(inception.weights_file(self.weights), self.expected)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.resize == "antialias":  # what comes in as 299x299 is left as it is
            x = F.interpolate(x.float(), (299, 299), mode="bilinear", antialias=True).round_().clamp_(0, 255).to(torch.uint8)
        features, logits = self.network(x)
        return features, logits

    @property
    def settings(self) -> dict[str, Any]:
        return {"resize": self.resize, "weights": self.expected[:8]}


class Classifier(Extractor):
    """A small network trained to tell the data's own classes apart: for grey or small images, for which Inception is not made.

    Binkowski et al. 2018 score MNIST by a LeNet. It is trained once for a data set, on the CPU, and kept. Its scores compare
    under one digest.

    Args:
        min_accuracy: share of the held-out images of which it must be right to be trusted.
        images: training images seen.
    """

    name = "classifier"
    classifies = True

    def __init__(self, min_accuracy: float = 0.9, images: int = 120_000) -> None:
        super().__init__()
        self.min_accuracy = min_accuracy
        self.images = images
        self.accuracy = 0.0

    def prepare(self, real: RealImages) -> None:
        if real.train_labels is None or real.held_out_labels is None:
            raise UserError("The classifier needs labels, and this data has none: choose another extractor, such as Random.")
        if len(real.held_out) == 0:
            raise UserError("The classifier is tested on held-out images, of which there are none: hold some out.")
        spec = {"fingerprint": real.fingerprint, "images": self.images, **RECIPE}
        tensors, facts = store.stored(real.cache / "classifiers", self.name, spec, lambda: self._trained(real))
        self.accuracy = facts["accuracy"]
        if self.accuracy < self.min_accuracy:
            raise UserError(
                f"The classifier is right about {self.accuracy:.1%} of the held-out images, less than its min_accuracy="
                f"{self.min_accuracy}: choose another extractor, such as Inception or Random."
            )
        self.network = SmallNetwork(_shape(real), real.num_classes)
        self.network.fold()
        self.network.load_state_dict(tensors)

    def _trained(self, real: RealImages) -> store.Content:
        assert real.train_labels is not None
        assert real.held_out_labels is not None
        logger.info("Training a classifier of %d classes for the scores, once.", real.num_classes)
        with torch.inference_mode(False), exact():  # which is with gradients, whatever the caller does without
            network = SmallNetwork(_shape(real), real.num_classes)
            train(network, real.train, real.train_labels, self.images)
        right = 0
        with torch.no_grad(), exact():
            for x, y in zip(real.held_out.split(256), real.held_out_labels.split(256), strict=True):
                right += int((network(x)[1].argmax(1) == y).sum())
        return network.state_dict(), {"accuracy": right / len(real.held_out)}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network(x)  # type: ignore[no-any-return]  # torch types it as Any

    @property
    def settings(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy}


class Random(Extractor):
    """The classifier's network as it is before training: for data without labels, where there are no Inception weights.

    Random features tell distributions apart (Naeem et al. 2020), but their scores compare with nothing but each other, under
    one digest: even their order of magnitude means nothing.
    """

    name = "random"

    def prepare(self, real: RealImages) -> None:
        rows = torch.randperm(len(real.train), generator=generator("random extractor"))[:1000]
        self.network = SmallNetwork(_shape(real), num_classes=0)
        with torch.no_grad(), exact():
            self.network.calibrate(real.train[rows])
        self.network.fold()

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.network(x)[0], None


def choose(extractor: Extractor | None, real: RealImages) -> tuple[Extractor, str]:
    """Get an extractor ready for a data set, and say in a sentence which it is and why.

    Args:
        extractor: None = Inception if its weights are at hand, the images have colours and there is a GPU, on which it takes
            seconds and not minutes, else a classifier if there are labels and it is good enough, else random features.
        real: the data set.

    Raises:
        UserError: the extractor cannot be used.
    """
    if extractor is not None:
        _check_name(extractor)
        extractor.prepare(real)
        reason = "as chosen"
    elif real.train.shape[1] == 3 and inception.at_hand() and torch.cuda.is_available():
        extractor, reason = Inception(), "its weights are at hand and the images have colours"
        extractor.prepare(real)
    else:
        extractor, reason = _without_inception(real)
    if isinstance(extractor, Classifier):
        reason += f"; {extractor.accuracy:.1%} of the held-out images right"
    extractor.eval().requires_grad_(False)
    return extractor, f"{extractor.name}: {reason}"


def _without_inception(real: RealImages) -> tuple[Extractor, str]:
    classifier, random = Classifier(), Random()
    if real.train_labels is None or len(real.held_out) == 0:
        lack = "no labels" if real.train_labels is None else "no held-out images"
    else:
        try:
            classifier.prepare(real)
            return classifier, "the data has labels"
        except UserError:
            lack = f"no classes that a classifier tells apart well enough ({classifier.accuracy:.1%} right)"
    random.prepare(real)
    inceptions = "Inception would take minutes without a GPU" if inception.at_hand() else "the Inception weights are not here"
    colours = f", and {inceptions}" if real.train.shape[1] == 3 else ""
    return random, f"the data has {lack}{colours}; its scores compare only with each other"


def _check_name(extractor: Extractor) -> None:
    """Keep a score from going by a name that would have it compared with what it does not compare with."""
    name = getattr(extractor, "name", "")
    if not name.isidentifier() or (name in ("inception", "classifier", "random") and type(extractor).__module__ != __name__):
        raise UserError(
            f"{type(extractor).__name__} needs a name of its own, of letters, digits and underscores: it becomes part of its "
            "scores' names."
        )
