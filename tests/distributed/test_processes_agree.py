"""Several processes train what one does."""

import socket
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch.testing import assert_close

from lightning_gan import batch_norm
from lightning_gan.batch_norm import synchronize
from tests.distributed import runs

FLOAT_ADDITION: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-6}
"""What the order of additions changes in these runs; with batch normalization by process they differ by 4e-3."""
TOGETHER = [*((recipe, 2) for recipe in runs.RECIPES), *((recipe, 3) for recipe in runs.IN_THREE if recipe in runs.RECIPES)]
EVERY = [*((recipe, 2) for recipe in [*runs.RECIPES, *runs.DIFFERENT]), *((recipe, 3) for recipe in runs.IN_THREE)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the runs, once: to start three processes takes longer."""
    folder = tmp_path_factory.mktemp("runs")
    mp.spawn(runs.main, (str(folder), (free_port(), free_port())), nprocs=3)
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {recipe: runs.run(recipe, 1) for recipe in runs.RECIPES}


def of_ranks(folder: Path, name: str, world_size: int = 2) -> list[Any]:
    return [torch.load(folder / f"{name}.{world_size}.{rank}.pt", weights_only=True) for rank in range(world_size)]


@pytest.mark.parametrize(("recipe", "world_size"), TOGETHER)
def test_they_train_what_one_does(folder: Path, alone: dict[str, Any], recipe: str, world_size: int) -> None:
    first, *_ = of_ranks(folder, recipe, world_size)
    for what in ("state", "optimizers", "gradients"):
        assert_close(first[what], alone[recipe][what], **FLOAT_ADDITION)


@pytest.mark.parametrize(("recipe", "world_size"), EVERY)
def test_they_are_equal_bit_for_bit(folder: Path, recipe: str, world_size: int) -> None:
    first, *others = of_ranks(folder, recipe, world_size)
    for other in others:
        for what in ("state", "optimizers", "gradients", "logged"):
            assert_close(other[what], first[what], rtol=0, atol=0)


def test_the_runs_did_what_they_are_there_for(alone: dict[str, Any]) -> None:
    assert 0 < alone["conditional_ada"]["state"]["augment.p"] < 1
    assert alone["stylegan2"]["state"]["generator_penalties.path_length.mean"] > 0
    assert alone["stylegan2"]["state"]["generator.mean_style"].any()
    assert alone["other_draws"]["state"]["penalties.lecam.started"] == 1


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_sees_its_own_share_of_the_images_and_latents(folder: Path, alone: dict[str, Any], world_size: int) -> None:
    ranks = of_ranks(folder, "dcgan", world_size)
    for what in ("images", "latents"):
        for together, *shares in zip(alone["dcgan"][what], *(rank[what] for rank in ranks), strict=True):
            assert torch.equal(torch.cat(shares), together)
            assert len(together.unique(dim=0)) == runs.BATCH_SIZE


def test_each_drops_out_by_itself(folder: Path) -> None:
    for one, other in zip(*(rank["dropped"] for rank in of_ranks(folder, "dropout")), strict=True):
        assert one.any()
        assert not torch.equal(one, other)


def test_a_row_is_the_mean_over_the_processes(folder: Path) -> None:
    one, other = of_ranks(folder, "lazy_r1")
    assert {"loss/discriminator", "loss/generator", "penalty/r1"} <= one["logged"].keys()
    for name, value in one["logged"].items():
        assert_close(value, (one["scalars"][name] + other["scalars"][name]) / 2)
    assert one["scalars"]["logits/real"] != other["scalars"]["logits/real"]


def test_a_gradient_that_is_not_there_stays_away(folder: Path) -> None:
    for rank in of_ranks(folder, "unused_parameter"):
        assert rank["gradients"]["generator.unused"] is None
        assert rank["gradients"]["generator.hidden.0.weight"] is not None


class TestTraffic:
    @pytest.mark.parametrize("recipe", ["plain", "in_2_parts", "in_4_parts", "wgan_gp", "lazy_r1", "r3gan"])
    def test_each_step_sends_its_own_networks_gradients_once(self, folder: Path, recipe: str) -> None:
        for rank in of_ranks(folder, recipe):
            for network in ("generator", "discriminator"):
                steps = rank["traffic"][f"{network}_step"]
                assert len(steps) == (runs.STEPS // 2 if (recipe, network) == ("wgan_gp", "generator") else runs.STEPS)
                assert steps == [[("allreduce_", gradient_bytes(rank, network))]] * len(steps)

    def test_running_statistics_travel_with_the_gradients(self, folder: Path) -> None:
        rank, _ = of_ranks(folder, "own_batch_norm")
        for network in ("generator", "discriminator"):
            statistics = [t for name, t in rank["state"].items() if name.startswith(f"{network}.") and ".running_" in name]
            expected = gradient_bytes(rank, network) + sum(tensor.nbytes for tensor in statistics)
            assert statistics
            assert rank["traffic"][f"{network}_step"] == [[("allreduce_", expected)]] * runs.STEPS

    def test_batch_normalization_sends_one_small_message_a_pass(self, folder: Path) -> None:
        rank, _ = of_ranks(folder, "conditional_ada")
        # 2 layers in G and 1 in D. In D's step G passes once, forward only, and D twice, forward and backward; then ADA tells
        # the mean sign. In G's, both pass forward and backward.
        channels = {"generator": [8, 4], "discriminator": [8]}
        forward, backward = ({n: [8 * (2 * c + k) for c in cs] for n, cs in channels.items()} for k in (1, 0))
        both = [*forward["discriminator"], *backward["discriminator"]]
        expected = {
            "discriminator": [*forward["generator"], *2 * both, 4],
            "generator": [*forward["generator"], *backward["generator"], *both],
        }
        for network, small in expected.items():
            for messages in rank["traffic"][f"{network}_step"]:
                sizes = [size for _, size in messages]
                assert sorted(sizes) == sorted([*small, gradient_bytes(rank, network)])


def gradient_bytes(rank: dict[str, Any], network: str) -> int:
    gradients = rank["gradients"].items()
    return sum(gradient.nbytes for name, gradient in gradients if name.startswith(f"{network}.") and gradient is not None)


@pytest.mark.parametrize("recipe", ["in_2_parts", "in_4_parts"])
def test_parts_make_up_a_batch(folder: Path, alone: dict[str, Any], recipe: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = runs.run(recipe, 1, accumulate=1)
    for other in (alone[recipe], of_ranks(folder, recipe)[0]):
        for what in ("state", "optimizers", "gradients"):
            assert_close(other[what], whole[what], **FLOAT_ADDITION)
    assert_close(alone[recipe]["scalars"], whole["scalars"], **FLOAT_ADDITION)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("case", runs.normalization())
def test_batch_normalization_is_that_of_one_process(folder: Path, case: str, world_size: int) -> None:
    layer, x, y = runs.normalization()[case]
    ranks = of_ranks(folder, "normalization", world_size)
    results = [torch.cat(results) for results in zip(*(rank[case][0] for rank in ranks), strict=True)]
    # Of 1000 +- 1, one process' float32 itself has but four digits of the second derivative.
    x, y = (x.double(), y.double()) if case == "large_mean" else (x, y)
    expected = [t.float() for t in runs.normalize(layer.to(x.dtype), x, y)]
    assert_close(results, expected, rtol=1e-4 if case == "large_mean" else 1e-5, atol=1e-4 if case == "large_mean" else 2e-6)
    for rank in ranks:
        assert_close(rank[case][1], layer.float().state_dict(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("world_size", [2, 3])
def test_draws_are_those_of_one_process(folder: Path, world_size: int) -> None:
    *shared, own = zip(*of_ranks(folder, "draws", world_size), strict=True)
    *expected, _ = runs.draws(0, 12)
    for drawn, together in zip(shared, expected, strict=True):
        assert torch.equal(torch.cat(drawn), together)
    assert len(torch.cat(own).unique()) == 12


def test_batch_normalization_keeps_nothing_that_has_been_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "several", lambda: True)
    monkeypatch.setattr(batch_norm.dist, "all_reduce", lambda total: None)
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    held = weakref.ref(values)
    y = synchronize(torch.nn.BatchNorm1d(3))(torch.from_numpy(values)).square().sum()
    del values
    assert held() is not None
    y.backward()
    assert held() is None  # though y is still there, as the loss of a part of a batch is while the next one is computed


class TestSynchronize:
    def test_the_layers_share_what_they_had(self) -> None:
        network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3, eps=1e-3)))
        before = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        assert synchronize(network) is network
        after = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        assert list(after) == list(before)
        assert all(after[name] is before[name] for name in before)
        assert network.get_submodule("1.0").eps == 1e-3

    @pytest.mark.parametrize("training", [True, False])
    def test_in_a_single_process_nothing_changes(self, training: bool) -> None:
        layer, x = torch.nn.BatchNorm2d(3).train(training), torch.randn(4, 3, 2, 2)
        twin = torch.nn.BatchNorm2d(3).train(training)
        assert torch.equal(synchronize(layer)(x), twin(x))
        assert_close(layer.state_dict(), twin.state_dict(), rtol=0, atol=0)

    def test_a_layer_is_converted_once(self) -> None:
        layer = synchronize(torch.nn.BatchNorm1d(3))
        assert synchronize(layer) is layer
