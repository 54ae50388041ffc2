from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_gan.networks import MLPDiscriminator, MLPGenerator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts() -> None:
    # The default: 100 -> 256 -> 256 -> 256 -> 128 -> 784 and 784 -> 256 -> 256 -> 1.
    assert count(MLPGenerator((1, 28, 28))) == 101 * 256 + 257 * 256 + 257 * 256 + 257 * 128 + 129 * 784
    assert count(MLPDiscriminator((1, 28, 28))) == 785 * 256 + 257 * 256 + 257
    # 100 -> 128 -> 256 -> 784 with a sigmoid.
    generator = MLPGenerator((1, 28, 28), hidden=[128, 256], negative_slope=0.2, output="sigmoid")
    assert count(generator) == 101 * 128 + 129 * 256 + 257 * 784
    # Ten labels: an embedding as long as the latent, and one as large as the image.
    assert count(MLPGenerator((1, 28, 28), 10)) == count(MLPGenerator((1, 28, 28))) + 10 * 100 + 100 * 256
    assert count(MLPDiscriminator((3, 8, 8), 10)) == count(MLPDiscriminator((3, 8, 8))) + 10 * 64 + 64 * 256


def test_images_need_not_be_square_and_no_hidden_layer_is_a_linear_map() -> None:
    generator, discriminator = MLPGenerator((2, 3, 5), hidden=[]), MLPDiscriminator((2, 3, 5), hidden=[])
    z = torch.randn(4, 100)
    x = generator(z)
    linear, critic = generator.dense, discriminator.dense
    assert_close(x, (z @ linear.weight.T + linear.bias).tanh().view(4, 2, 3, 5))
    assert_close(discriminator(x), (x.reshape(4, 30) @ critic.weight.T + critic.bias)[:, 0])


def test_a_sigmoid_is_stretched_to_the_range_of_images() -> None:
    generator = MLPGenerator((1, 1, 3), latent_dim=1, hidden=[], output="sigmoid")
    with torch.no_grad():
        generator.dense.weight.zero_()
        generator.dense.bias.copy_(torch.tensor([-100.0, 0.0, 2.0]))
    # 2 s(a) - 1 = tanh(a / 2)
    expected = torch.tensor([-1.0, 0.0, 0.7615942]).view(1, 1, 1, 3)
    assert_close(generator(torch.ones(1, 1)), expected)


def test_another_output_is_refused() -> None:
    output: Any = "softmax"
    with pytest.raises(ValueError, match="tanh or sigmoid, not softmax"):
        MLPGenerator((1, 28, 28), output=output)


def test_a_label_is_one_more_channel_of_the_image() -> None:
    discriminator = MLPDiscriminator((1, 2, 2), 2, hidden=[3], negative_slope=0.2)
    x, y = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1])
    joined = torch.cat([x.view(3, 4), discriminator.get_parameter("embed.weight")[y]], 1)
    hidden = joined @ discriminator.get_parameter("hidden.0.weight").T + discriminator.get_parameter("hidden.0.bias")
    by_hand = torch.where(hidden > 0, hidden, 0.2 * hidden) @ discriminator.dense.weight.T + discriminator.dense.bias
    assert_close(discriminator(x, y), by_hand[:, 0])


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    discriminator, x = MLPDiscriminator((1, 4, 4), dropout=0.5), torch.randn(8, 1, 4, 4)
    assert not torch.equal(discriminator(x), discriminator(x))
    discriminator.eval()
    assert torch.equal(discriminator(x), discriminator(x))


def test_hidden_layers_keep_the_second_moment_of_their_input() -> None:
    # From torch's own start it falls sixfold in each layer: 1/3 for the weights and 1/2 for the rectifier.
    torch.manual_seed(0)
    generator = MLPGenerator((1, 8, 8), latent_dim=256, hidden=[512] * 4)
    with torch.no_grad():
        hidden = generator.hidden(torch.randn(512, 256))
    assert_close(hidden.square().mean(), torch.tensor(1.0), rtol=0, atol=0.25)
