"""The contract between networks and everything else.

A network is built from plain constructor arguments. The data decides two of them: `image_shape` (C, H, W) and `num_classes`,
where 0 means unconditional. It keeps a record of the arguments it was built with, so that a checkpoint can rebuild it without
the configuration, the data or the trainer.
"""

import functools
import importlib
import inspect
import itertools
import sys
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

MAX_PARAMETERS = 3000
"""Tensors in a network that is built from a record; the largest of this project's have some hundred."""


class Network(nn.Module):
    """A network that remembers how it was built."""

    record: dict[str, Any]
    """`class_path` and `init_args`, enough for `build`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]  # the only way to see the arguments of any subclass


def _recording(init: Any) -> Any:
    signature = inspect.signature(init)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        raise TypeError(f"{init.__qualname__} takes *args, which cannot be set by name in a configuration")
    keywords = next((name for name, parameter in signature.parameters.items() if parameter.kind is parameter.VAR_KEYWORD), "")

    @functools.wraps(init)
    def recorded(self: Network, *args: Any, **kwargs: Any) -> None:
        if "record" not in vars(self):  # the outermost constructor is the one to call again
            call = signature.bind(self, *args, **kwargs)
            call.apply_defaults()
            _, *named = call.arguments.items()
            init_args = dict(named)
            init_args |= init_args.pop(keywords, {})
            self.record = {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": init_args}
        init(self, *args, **kwargs)

    return recorded


def build(record: dict[str, Any]) -> Network:
    """Build a network, with fresh weights, from its record.

    A record may come from a stranger, and to import a module is to run it. So nothing is imported on its word but what is ours:
    the class must be one of this project's networks or, like one that the user's configuration names, be there already.

    Raises:
        ValueError: the record does not name such a class, or not the arguments it takes.
    """
    module, _, name = record["class_path"].rpartition(".")
    importlib.import_module("lightning_gan.networks")
    cls = getattr(sys.modules.get(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, Network)):
        raise ValueError(
            f"{record['class_path']} is no network of lightning_gan; if it is one of yours, import its module (--module) first"
        )
    counter = itertools.count()

    def count(*_: Any) -> None:
        if next(counter) == MAX_PARAMETERS:
            raise ValueError(f"it would have more than {MAX_PARAMETERS:,} parameters")

    counting = register_module_parameter_registration_hook(count)
    try:
        return cls(**record["init_args"])
    except Exception as error:  # whatever the arguments of a stranger lead it to
        raise ValueError(f"{record['class_path']} cannot be built from {record['init_args']}: {error}") from error
    finally:
        counting.remove()


class Generator(Network):
    """Latents, and labels where conditional, to images.

    Args:
        image_shape: (C, H, W).
        num_classes: 0 = unconditional.
        latent_dim: length of z.
        latent_distribution: standard normal, or uniform in [-1, 1].
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        latent_dim: int = 100,
        latent_distribution: Literal["normal", "uniform"] = "normal",
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, not {latent_dim}")
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.latent_distribution = latent_distribution

    def latents(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw z: (n, latent_dim), on the device of `rng`."""
        z = torch.empty(n, self.latent_dim, device=rng.device)
        return z.normal_(generator=rng) if self.latent_distribution == "normal" else z.uniform_(-1, 1, generator=rng)

    @abstractmethod
    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate images in [-1, 1], or about it if there is no tanh: (N, latent_dim), int64 (N,) or None -> (N, C, H, W)."""


class StyleGenerator(Generator):
    """A generator that maps its latents to styles first, Karras et al. 2019: what truncation and path length act on.

    In evaluation mode it draws nothing: an image is a function of its latent and its label.

    Attributes:
        mean_style: moving average of the styles of random latents, a buffer of shape (style_dim,).
    """

    mean_style: Tensor

    @abstractmethod
    def styles(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Map latents to a style for each layer: (N, latent_dim), int64 (N,) or None -> (N, layers, style_dim)."""

    @abstractmethod
    def synthesize(self, styles: Tensor) -> Tensor:
        """Generate images in about [-1, 1] from styles: (N, layers, style_dim) -> (N, C, H, W)."""


class Discriminator(Network):
    """Images, and labels where conditional, to logits: high for real.

    Args:
        image_shape: (C, H, W).
        num_classes: 0 = unconditional.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int = 0) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Judge images in [-1, 1]: (N, C, H, W), int64 (N,) or None -> (N,)."""


def check_labels(network: Generator | Discriminator, y: Tensor | None) -> None:
    """Refuse labels without classes, and classes without labels.

    Raises:
        ValueError: `y` is None in a conditional network, or given to an unconditional one.
    """
    if (y is not None) != (network.num_classes > 0):
        kind = f"is conditional on {network.num_classes} classes" if network.num_classes else "is unconditional"
        raise ValueError(f"{type(network).__name__} {kind}, but labels were {'not ' * (y is None)}given")


def call_frozen(network: nn.Module, *args: Tensor | None) -> Tensor:
    """Call a network as a fixed function: its parameters get no gradient and its buffers keep their values.

    Gradients still flow through it to its inputs. This is how D looks at G's images in D's step and how G looks through D in
    G's, so that each step changes its own network alone: weights, gradients, running statistics and power iterations.

    It is `torch.func.functional_call` with detached parameters and copied buffers, without the names that it looks up, which
    cost a small network as much as the call itself.
    """
    originals: list[tuple[dict[str, Any], str, Tensor]] = []
    copies: dict[Tensor, Tensor] = {}  # what modules share they go on sharing
    try:
        for module in network.modules():
            kinds: list[tuple[dict[str, Any], Callable[[Tensor], Tensor]]]
            kinds = [(module._parameters, Tensor.detach), (module._buffers, Tensor.clone)]
            for tensors, copy in kinds:
                for name, tensor in tensors.items():
                    if tensor is not None:
                        originals.append((tensors, name, tensor))
                        tensors[name] = copies.setdefault(tensor, copy(tensor))
        return network(*args)  # type: ignore[no-any-return]  # torch types it as Any
    finally:
        for tensors, name, tensor in originals:
            tensors[name] = tensor
