import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lightning_gan.networks import PoolingDiscriminator


@pytest.mark.parametrize(("image_shape", "coarsest"), [((1, 28, 28), 7), ((3, 64, 64), 16)])
def test_parameter_counts(image_shape: tuple[int, int, int], coarsest: int) -> None:
    channels = image_shape[0]
    expected = (channels * 9 + 1) * 64 + (64 * 9 + 1) * 128 + (coarsest * coarsest * 128 + 1) * 128 + 128 + 1
    assert sum(p.numel() for p in PoolingDiscriminator(image_shape).parameters()) == expected


def test_one_stage_by_hand() -> None:
    discriminator = PoolingDiscriminator((1, 4, 4), 2, channels=[3], hidden=5).eval()
    weights = dict(discriminator.named_parameters())
    x, y = torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 1])
    h = torch.cat([x, weights["embed.weight"][y].view(3, 1, 4, 4)], 1)  # a label is one more channel of the image
    h = F.leaky_relu(F.conv2d(h, weights["stages.0.weight"], weights["stages.0.bias"], padding=1), 0.2)
    h = torch.stack([h[:, :, i::2, j::2] for i in range(2) for j in range(2)]).mean(0)  # (3, 3, 2, 2)
    h = F.leaky_relu(h.reshape(3, 12) @ weights["dense.0.weight"].T + weights["dense.0.bias"], 0.2)
    assert_close(discriminator(x, y), (h @ weights["dense.2.weight"].T + weights["dense.2.bias"])[:, 0])


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    discriminator, x = PoolingDiscriminator((1, 8, 8), channels=[4], dropout=0.5), torch.randn(4, 1, 8, 8)
    assert not torch.equal(discriminator(x), discriminator(x))
    discriminator.eval()
    assert torch.equal(discriminator(x), discriminator(x))


@pytest.mark.parametrize(
    ("image_shape", "channels", "message"),
    [
        ((1, 30, 30), [4, 4], "multiple of 4 px, not 30x30"),
        ((1, 32, 64), [4], "not 32x64"),
        ((1, 32, 32), [], "at least once"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(image_shape: tuple[int, int, int], channels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoolingDiscriminator(image_shape, channels=channels)
