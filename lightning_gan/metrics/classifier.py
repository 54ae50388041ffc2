"""A small convolutional network that learns to tell a data set's classes apart, and the features it looks at for that."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from lightning_gan.images import to_float
from lightning_gan.randomness import batch_order, generator

WIDTHS = [16, 32, 64, 64]
BATCH_SIZE = 256
LEARNING_RATE = 2e-2
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05

RECIPE = {
    "version": 1,  # to be raised whenever `train` would give other weights
    "widths": WIDTHS,
    "batch_size": BATCH_SIZE,
    "learning_rate": LEARNING_RATE,
    "weight_decay": WEIGHT_DECAY,
    "label_smoothing": LABEL_SMOOTHING,
}
"""What decides the trained weights, beside the data and their number."""

LARGEST = 64
"""Larger images are averaged down to this many pixels a side."""


class SmallNetwork(nn.Module):
    """Four convolutions with pooling between, whose responses are averaged over the image; He initialisation, a fixed seed.

    Args:
        image_shape: (C, H, W), of images of any size; of more than 32 pixels a side, it looks at every second place only.
        num_classes: 0 = features only.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        strides = [2 if max(sides) > 32 else 1, 1, 1, 1]
        with torch.random.fork_rng(devices=[]):  # layers draw weights, which are not kept, from the global generator
            self.convolutions = nn.ModuleList(
                nn.Conv2d(before, after, 3, stride, padding=1)
                for (before, after), stride in zip(pairwise([channels, *WIDTHS]), strides, strict=True)
            )
            self.head = nn.Linear(WIDTHS[-1], num_classes) if num_classes else None
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in WIDTHS)
        self.folded = False
        rng = generator("small network")
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # three times as fast on a CPU

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Look at images: uint8 (N, C, H, W) -> features (N, 64), logits (N, num_classes) or None."""
        h = to_float(x).contiguous(memory_format=torch.channels_last)
        if max(h.shape[2:]) > LARGEST:
            h = F.adaptive_avg_pool2d(h, (min(h.shape[2], LARGEST), min(h.shape[3], LARGEST)))
        blocked = self.folded and h.device.type == "cpu" and torch.backends.mkldnn.is_available()
        h = self._blocked(h) if blocked else self._any(h)
        features = h.mean((2, 3))  # (N, 64)
        return features, None if self.head is None else self.head(features)

    def _any(self, h: Tensor) -> Tensor:
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h = norm(convolution(h))
            if i + 1 < len(WIDTHS):
                h = _halve(h)
            h = h.relu_()  # after pooling it comes to the same, and costs a quarter
        return h

    def _blocked(self, h: Tensor) -> Tensor:
        """Do the same with tensors laid out as oneDNN likes them, which takes a fifth less time, once nothing is trained."""
        h = h.to_mkldnn()
        for i, layer in enumerate(self.convolutions):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            h = F.conv2d(h, layer.weight.to_mkldnn(), layer.bias.to_mkldnn(), layer.stride, 1)
            if i + 1 < len(WIDTHS):
                h = F.max_pool2d(h, 2, ceil_mode=True)
            h = h.relu_()
        return h.to_dense()

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Take the statistics of batch normalisation from uint8 (N, C, H, W)."""
        for norm in self.norms:
            assert isinstance(norm, nn.BatchNorm2d)
            norm.momentum = 1.0  # so that the first look replaces what is there
        self.train()(images)

    def fold(self) -> None:
        """Make batch normalisation part of the convolutions, where it costs nothing: from now on, for evaluation only."""
        self.eval().requires_grad_(False)
        self.folded = True
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            self.convolutions[i] = fuse_conv_bn_eval(convolution, norm)
            self.norms[i] = nn.Identity()


def _halve(h: Tensor) -> Tensor:
    """Take the greatest of 2x2 values, of fewer at an odd edge: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
    if h.shape[2] % 2 or h.shape[3] % 2:
        return F.max_pool2d(h, 2, ceil_mode=True)
    rows = torch.maximum(h[:, :, 0::2], h[:, :, 1::2])  # max_pool2d also notes where it was, which takes four times as long
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def train(network: SmallNetwork, images: Tensor, labels: Tensor, images_seen: int) -> None:
    """Train on uint8 (N, C, H, W) and int64 (N,), and fold."""
    steps = max(1, images_seen // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        rows = batch_order(0, step, BATCH_SIZE, len(images))
        _, logits = network(images[rows])
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.fold()
