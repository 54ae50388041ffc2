import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
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

    def test_it_equals_functional_call_also_twice_differentiated(self) -> None:
        """The plain way, which goes by the names of the tensors."""
        network, x = Normalized().double(), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

        def plain(*args: Tensor) -> Tensor:
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
            return functional_call(network, parameters | buffers, args)  # type: ignore[no-any-return]

        def derivatives(call: Callable[..., Tensor]) -> tuple[Tensor, ...]:
            (first,) = torch.autograd.grad(call(x).pow(3).sum(), x, create_graph=True)
            return call(x), first, *torch.autograd.grad(first.square().sum(), x)

        assert_close(derivatives(partial(call_frozen, network)), derivatives(plain))

    def test_parameters_get_no_gradient_when_the_inputs_gradient_is_differentiated(self) -> None:
        network, x = Normalized(), torch.randn(5, 3, requires_grad=True)
        (gradient,) = torch.autograd.grad(call_frozen(network, x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_the_gradient_of_an_earlier_call_is_not_lost(self) -> None:
        """D's own pass may wait for its backward while D is also called frozen."""
        network, x = Normalized(), torch.randn(5, 3)
        again = copy.deepcopy(network)
        waiting = network(x).square().sum()
        call_frozen(network, x)
        waiting.backward()
        again(x).square().sum().backward()
        assert_close([p.grad for p in network.parameters()], [p.grad for p in again.parameters()])

    def test_a_failure_inside_leaves_the_network_as_it_was(self) -> None:
        network = Normalized()
        before = [*network.parameters(), *network.buffers()]
        values = copy.deepcopy(network.state_dict())
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            call_frozen(nn.Sequential(network, nn.Linear(5, 5)), torch.randn(5, 3))
        assert all(now is then for now, then in zip([*network.parameters(), *network.buffers()], before, strict=True))
        assert_close(network.state_dict(), values, rtol=0, atol=0)

    def test_hooks_are_called_and_see_frozen_parameters(self) -> None:
        network, seen = Normalized(), []
        network.dense.register_forward_hook(lambda module, *_: seen.append(module.parametrizations.weight.original))
        call_frozen(network, torch.randn(5, 3))
        assert [tensor.requires_grad for tensor in seen] == [False]
        assert seen[0].data_ptr() == network.get_parameter("dense.parametrizations.weight.original").data_ptr()

    def test_buffers_that_modules_share_stay_shared(self) -> None:
        first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        second.running_mean = first.running_mean
        means: list[Tensor] = []
        for module in (first, second):
            module.register_forward_hook(lambda module, *_: means.append(module.running_mean))
        call_frozen(nn.Sequential(first, second), torch.randn(5, 3))
        assert means[0] is means[1]
        assert first.running_mean is second.running_mean
        assert not first.running_mean.any()  # type: ignore[union-attr]  # it has one


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
