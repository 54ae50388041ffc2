import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lightning_gan.networks import PixelShuffleDiscriminator, PixelShuffleGenerator


@pytest.mark.parametrize(("image_shape", "quarter"), [((1, 28, 28), 7), ((3, 32, 32), 8)])
def test_parameter_counts(image_shape: tuple[int, int, int], quarter: int) -> None:
    channels, pixels = 4 * image_shape[0], quarter**2
    generator = 65 * 64 * pixels + 2 * 64 + 64 * 32 * 16 + 2 * 32 + 32 * 32 * 9 + 2 * 32 + (32 * 9 + 1) * channels
    discriminator = (channels * 9 + 1) * 16 + (16 * 16 + 1) * 64 + (64 * pixels + 1) * 256 + 257
    assert sum(p.numel() for p in PixelShuffleGenerator(image_shape).parameters()) == generator
    assert sum(p.numel() for p in PixelShuffleDiscriminator(image_shape).parameters()) == discriminator


def test_a_judgement_by_hand() -> None:
    discriminator = PixelShuffleDiscriminator((1, 8, 8), 2, fine=3, coarse=5, hidden=6)
    weights = dict(discriminator.named_parameters())
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 1, 0])
    h = torch.cat([x, weights["embed.weight"][y].view(4, 1, 8, 8)], 1)  # a label is one more channel of the image
    h = torch.stack([h[:, :, i::2, j::2] for i in range(2) for j in range(2)], 2).flatten(1, 2)  # (4, 8, 4, 4)
    h = F.leaky_relu(F.conv2d(h, weights["layers.1.weight"], weights["layers.1.bias"], padding=1), 0.2)
    h = F.leaky_relu(F.conv2d(h, weights["layers.3.weight"], weights["layers.3.bias"], 2, 1), 0.2)  # (4, 5, 2, 2)
    h = F.leaky_relu(h.permute(0, 2, 3, 1).reshape(4, 20) @ weights["dense.0.weight"].T + weights["dense.0.bias"], 0.2)
    assert_close(discriminator(x, y), (h @ weights["dense.2.weight"].T + weights["dense.2.bias"])[:, 0])


def test_blocks_of_pixels_come_from_four_channels() -> None:
    generator = PixelShuffleGenerator((1, 8, 8), latent_dim=4, coarse=4, fine=4).eval()
    *_, last, _, _ = generator.layers
    with torch.no_grad():
        last.weight.zero_()  # type: ignore[operator]  # a convolution
        last.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))  # type: ignore[operator]  # as above
    expected = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).repeat(4, 4).tanh().expand(2, 1, 8, 8)
    assert_close(generator(torch.randn(2, 4)), expected)


def test_the_size_must_be_a_multiple_of_4() -> None:
    with pytest.raises(ValueError, match="multiple of 4 px, not 30x30"):
        PixelShuffleGenerator((1, 30, 30))
