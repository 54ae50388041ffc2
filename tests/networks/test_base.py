import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan.networks import DCGANDiscriminator, DCGANGenerator, Discriminator
from lightning_gan.networks.base import build, call_frozen


class Normalized(nn.Module):
    """One of everything that a forward pass may change: running statistics and a power iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.dense = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.norm(x))  # type: ignore[no-any-return]


class TestCallFrozen:
    def test_it_gives_what_a_plain_call_gives(self) -> None:
        network, x = Normalized(), torch.randn(5, 3)
        expected = copy.deepcopy(network)(x)
        assert torch.equal(call_frozen(network, x), expected)

    def test_it_changes_no_buffer_and_no_gradient(self) -> None:
        network = Normalized()
        before = copy.deepcopy(network.state_dict())
        x = torch.randn(5, 3, requires_grad=True)
        call_frozen(network, x).sum().backward()
        assert_close(network.state_dict(), before, rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in network.parameters())
        assert x.grad is not None

    def test_the_gradient_that_flows_through_is_the_plain_one(self) -> None:
        network, x = Normalized(), torch.randn(5, 3)
        frozen, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
        call_frozen(network, frozen).square().sum().backward()
        network(plain).square().sum().backward()
        assert_close(frozen.grad, plain.grad)


class Wrapped(Discriminator):
    """A user's own network, built upon another."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int = 0, *, scale: float = 2.0) -> None:
        super().__init__(image_shape, num_classes)
        self.inner = DCGANDiscriminator(image_shape, num_classes, width=2)
        self.scale = scale

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.scale * self.inner(x, y)  # type: ignore[no-any-return]


class TestRecord:
    def test_a_network_is_rebuilt_from_its_record(self) -> None:
        network = DCGANGenerator((1, 28, 28), 10, width=4)
        assert network.record["init_args"]["width"] == 4
        assert network.record["init_args"]["latent_dim"] == 100  # defaults too: they may change
        again = build(network.record)
        assert type(again) is DCGANGenerator
        again.load_state_dict(network.state_dict())

    def test_a_users_network_records_its_own_arguments(self) -> None:
        network = Wrapped((1, 8, 8), scale=3.0)
        assert network.record["init_args"] == {"image_shape": (1, 8, 8), "num_classes": 0, "scale": 3.0}
        assert getattr(build(network.record), "scale", None) == 3.0

    def test_keyword_arguments_of_any_name_are_recorded_by_name(self) -> None:
        class Keywords(Wrapped):
            def __init__(self, image_shape: tuple[int, int, int], **kwargs: Any) -> None:
                super().__init__(image_shape, **kwargs)

        assert Keywords((1, 8, 8), scale=3.0).record["init_args"] == {"image_shape": (1, 8, 8), "scale": 3.0}

    def test_positional_arguments_of_any_number_are_refused(self) -> None:
        with pytest.raises(TypeError, match="cannot be set by name"):

            class Positional(Discriminator):
                def __init__(self, *args: Any) -> None: ...

    def test_a_copy_keeps_the_record(self) -> None:
        network = Wrapped((1, 8, 8))
        assert copy.deepcopy(network).record == network.record

    @pytest.mark.parametrize(
        "class_path", ["no_such_module.Net", "lightning_gan.networks.NoSuchNet", "Net", "subprocess.Popen", "os.system"]
    )
    def test_a_record_that_names_no_network_is_refused(self, class_path: str) -> None:
        with pytest.raises(ValueError, match="is no network of lightning_gan"):
            build({"class_path": class_path, "init_args": {"args": ["true"]}})

    def test_a_record_with_foreign_arguments_is_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot be built"):
            build({"class_path": "lightning_gan.networks.DCGANGenerator", "init_args": {"depth": 3}})
