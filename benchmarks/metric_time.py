"""How long all scores of 10,000 MNIST images take, beside the usual way: torchmetrics' FID, IS and KID, and the package prdc.

Both compare 10,000 samples with MNIST's 60,000 training images (prdc, whose memory grows with the square, with 10,000 of them)
through the same classifier. The samples are MNIST's test images, which costs the same as any others. The usual way gives each
metric the images, as one does, prdc their features, and runs the network as it was written: convolution, batch normalization,
ReLU and pooling, in PyTorch's default layout; beside it stands the same with our extractor, which runs the network folded and
channels last. Ours has further scores, and looks at 10,000 held-out images too. It is timed cold, when nothing is known of the
real images, and warm, when another run has left what it knows on disk. Seconds are those of user CPU time, all ways in turn.

    OMP_NUM_THREADS=1 uv run python benchmarks/metric_time.py --root FOLDER
"""

import argparse
import copy
import resource
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import torch
import torch.nn.functional as F
from prdc import compute_prdc
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_gan.data import MNIST
from lightning_gan.images import to_float
from lightning_gan.metrics.extractors import Classifier, choose
from lightning_gan.metrics.real import RealImages
from lightning_gan.metrics.reference import BANK_ROWS, random_order
from lightning_gan.metrics.suite import Suite

BATCH_SIZE = 128


class Plain(nn.Module):
    """The classifier as it was written, before batch normalization was folded into its convolutions."""

    def __init__(self, extractor: Classifier) -> None:
        super().__init__()
        network = copy.deepcopy(extractor.network).to(memory_format=torch.contiguous_format)
        self.convolutions, self.head = network.convolutions, network.head
        norms = [nn.BatchNorm2d(convolution.out_channels) for convolution in self.convolutions]
        self.norms = nn.ModuleList(norms).eval()
        for norm in norms:  # folded already: what is left of it changes nothing
            norm.running_var.fill_(1 - norm.eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = to_float(x)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x)).relu()
            if i + 1 < len(self.norms):
                x = F.max_pool2d(x, 2, ceil_mode=True)
        features = x.mean((2, 3))
        return features, self.head(features)


class Half(nn.Module):
    """One of a network's two outputs, as torchmetrics asks for it."""

    def __init__(self, network: nn.Module, output: int, num_features: int) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self.num_features = num_features

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        half: Tensor = self.network(x)[self.output]
        return half


def usual(real: Tensor, bank: Tensor, fake: Tensor, network: nn.Module) -> dict[str, float]:
    """Score images with the packages that people use, each as its documentation says."""
    features, logits = Half(network, 0, 64), Half(network, 1, 10)
    fid, kid, score = FrechetInceptionDistance(features), KernelInceptionDistance(features), InceptionScore(logits)
    for images in real.split(BATCH_SIZE):
        fid.update(images, real=True)
        kid.update(images, real=True)
    for images in fake.split(BATCH_SIZE):
        fid.update(images, real=False)
        kid.update(images, real=False)
        score.update(images)
    banks = [torch.cat([features(images) for images in side.split(BATCH_SIZE)]).numpy() for side in (bank, fake)]
    with redirect_stdout(StringIO()):
        scores = compute_prdc(*banks, nearest_k=5)
    return scores | {"fid": fid.compute().item(), "kid": kid.compute()[0].item(), "score": score.compute()[0].item()}


def ours(real: RealImages, fake: Tensor, extractor: Classifier) -> dict[str, float]:
    def numbered() -> Iterator[tuple[int, Tensor]]:
        for first in range(0, len(fake), BATCH_SIZE):
            yield first, fake[first : first + BATCH_SIZE]

    return Suite(extractor, real).score(numbered(), len(fake))


def timed(way: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    scores = way()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - before, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where MNIST is")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    data = MNIST(options.root)
    (train, labels), (test, test_labels) = data.images("train"), data.images("test")
    bank = train[random_order(len(train)).argsort()[:BANK_ROWS]]  # the same as ours
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        classifier = Classifier()
        choose(classifier, RealImages(train, labels, test, test_labels, 10, "MNIST", Path(folder)))
        plain = Plain(classifier)
        for repeat in range(options.repeats):
            real = RealImages(train, labels, test, test_labels, 10, "MNIST", Path(folder, str(repeat)))
            ways: dict[str, Callable[[], dict[str, float]]] = {
                "usual": partial(usual, train, bank, test, plain),
                "usual, with our extractor": partial(usual, train, bank, test, classifier),
                "ours, cold": partial(ours, real, test, classifier),
                "ours, warm": partial(ours, real, test, classifier),
            }
            results = {}
            for name, way in ways.items():
                taken, results[name] = timed(way)
                seconds.setdefault(name, []).append(taken)

    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    print(f"| | user CPU seconds, least of {options.repeats} | usual takes |\n|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {min(times):.2f} | {min(seconds['usual']) / min(times):.1f} times as long |")
    print("\n| score | usual | ours |\n|---|---|---|")
    for name, value in results["usual"].items():
        print(f"| {name} | {value:.6f} | {results['ours, warm'][name]:.6f} |")


if __name__ == "__main__":
    main()
