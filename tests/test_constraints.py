import pytest
import torch
from torch.testing import assert_close

from lightning_gan.constraints import WeightClipping


def test_weights_beyond_the_limit_are_moved_to_it_and_others_stay() -> None:
    layer = torch.nn.Linear(3, 1)
    layer.load_state_dict({"weight": torch.tensor([[-0.5, 0.005, 0.02]]), "bias": torch.tensor([-0.01])})
    WeightClipping(0.01)(layer)
    assert_close(layer.weight.data, torch.tensor([[-0.01, 0.005, 0.01]]))
    assert_close(layer.bias.data, torch.tensor([-0.01]))


def test_the_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="limit"):
        WeightClipping(0)
