"""How fast images of CelebA's shape are converted, and read in later epochs, beside torchvision and PyTorch's DataLoader.

The pictures are made up: coloured noise with a spectrum that falls as f^-1.6, saved as JPEGs of 178x218 pixels at quality 75.
So they are as large as CelebA's (7 kB) and cost as much to decode. All ways read them from the page cache, cut out 178x178,
resize that to 64x64 with Pillow, and yield float32 in [-1, 1], half of it mirrored, in shuffled batches of 128.

Conversion: all that `fit` does with new files (list, digest, decode, write to disk), on one core and on two, beside a bare
loop over the files with Pillow, which writes as many bytes. Starting processes is in it, so there are more files than pictures
(--convert), hard links to them.

Later epochs: batches as the training step receives them. Ours come from a cache of as many rows as the last of --rows.
torchvision's `ImageFolder` and `CelebA` are tried with each number of workers, which stay from epoch to epoch; the second
epoch is timed. Ours reads each epoch in an order that it has yet to draw, too.

Memory: the most anonymous memory (the page cache, which the system takes back at will, is not in it) of a process that
converts, with those that it starts, and of another that reads an epoch, with all that they import. It is sampled every 5 ms.
The files are hard links, too.

    uv run python -m benchmarks.data_rate
"""

import argparse
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, features
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lightning_gan.data import DataModule, ImageFolder

BATCH_SIZE = 128
ATTRIBUTES = 40


def picture(rng: torch.Generator) -> Image.Image:
    height, width = 218, 178
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    frequency[0, 0] = torch.inf
    noise = torch.randn(4, height, width, generator=rng)
    noise = torch.fft.irfft2(torch.fft.rfft2(noise) * frequency**-1.6, s=(height, width))
    noise /= noise.std((1, 2), keepdim=True)
    pixels = ((noise[:1] + 0.3 * noise[1:]) * 45 + 128).clamp(0, 255).byte()  # mostly grey, as pictures are
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def make_celeba(root: Path, n: int) -> Path:
    """Lay out n pictures, and the tables that torchvision reads, as CelebA's authors do; return the folder of the pictures."""
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    for name in names:
        picture(rng).save(folder / name, quality=75)
    tables = {
        "list_eval_partition.txt": ([], "0"),
        "identity_CelebA.txt": ([], "1"),
        "list_bbox_celeba.txt": ([str(n), "image_id x y w h"], "0 0 1 1"),
        "list_landmarks_align_celeba.txt": ([str(n), "x y"], "0 0"),
        "list_attr_celeba.txt": ([str(n), " ".join(f"a{i}" for i in range(ATTRIBUTES))], " ".join(["1"] * ATTRIBUTES)),
    }
    for table, (head, row) in tables.items():
        (root / "celeba" / table).write_text("\n".join([*head, *(f"{name} {row}" for name in names)]) + "\n")
    return folder


class TheirCelebA(torchvision.datasets.CelebA):
    def _check_integrity(self) -> bool:
        return True  # these are not the files whose digests it knows


def transform() -> Callable[[Image.Image], Tensor]:
    steps = [transforms.CenterCrop(178), transforms.Resize(64), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])


def bare_loop(pictures: Path, folder: Path) -> None:
    with (folder / "bare").open("wb") as file:
        for path in sorted(pictures.iterdir()):
            with Image.open(path) as image:
                small = image.convert("RGB").crop((0, 20, 178, 198)).resize((64, 64), Image.Resampling.BILINEAR)
            file.write(np.asarray(small).transpose(2, 0, 1).tobytes())
        os.fsync(file.fileno())


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def epoch(data: DataModule, number: int) -> None:
    """Read an epoch as the training step does."""
    loader = data.train_dataloader()
    loader.current_step = lambda: number * len(loader)
    for batch in loader:
        data.on_after_batch_transfer(batch, 0)


def seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def convert(folder: Path, cache: Path) -> None:
    data_of(folder, cache).prepare_data()


def conversion(root: Path, pictures: Path, n: int, repeats: int) -> None:
    folder = root / "conversion"
    links(pictures, folder, n)
    first, *others = sorted(os.sched_getaffinity(0))
    ways: dict[str, tuple[set[int], Callable[[Path], None]]] = {
        "bare loop with Pillow, one core": ({first}, partial(bare_loop, folder)),
        "ours, one core": ({first}, partial(convert, folder)),
    }
    if others:
        ways["ours, two cores"] = ({first, others[0]}, partial(convert, folder))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (cores, way) in ways.items():
            with on_cores(cores), tempfile.TemporaryDirectory(dir=root) as cache:
                taken[name].append(seconds(partial(way, Path(cache))))
    print(f"\n| conversion of {n} images | images/s, best of {repeats} |\n|---|---|")
    for name, times in taken.items():
        print(f"| {name} | {n / min(times):,.0f} |")
    if others:
        one, two = min(taken["ours, one core"]), min(taken["ours, two cores"])
        print(f"\nParallel efficiency: {one / two / 2:.2f}.")


def later_epochs(data: DataModule, root: Path, pictures: Path, workers: list[int], repeats: int) -> None:
    sets: dict[str, Dataset[tuple[Tensor, object]]] = {
        "ImageFolder": torchvision.datasets.ImageFolder(str(pictures.parent), transform()),
        "CelebA": TheirCelebA(str(root), split="all", transform=transform()),
    }
    theirs = {
        f"torchvision {name}, {number} workers": DataLoader(
            images, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=number, persistent_workers=number > 0
        )
        for name, images in sets.items()
        for number in workers
    }
    rates: dict[str, list[float]] = {}
    epoch(data, 0)
    for repeat in range(repeats):
        for name, loader in theirs.items():
            for _ in range(2):  # workers start in the first epoch
                taken = seconds(partial(deque, loader, 0))
            rates.setdefault(name, []).append(len(loader) * BATCH_SIZE / taken)
            loader._iterator = None  # which ends them
        taken = seconds(partial(epoch, data, repeat + 1))
        rates.setdefault("ours", []).append(len(data.train_dataloader()) * BATCH_SIZE / taken)
    ours = max(rates["ours"])
    print(f"\n| later epochs | images/s, best of {repeats} | ours is |\n|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {max(found):,.0f} | {'' if name == 'ours' else f'{ours / max(found):.0f} times as fast'} |")


def links(pictures: Path, folder: Path, n: int) -> None:
    folder.mkdir()
    distinct = sorted(pictures.iterdir())
    for i in range(n):
        (folder / f"{i:06d}.jpg").hardlink_to(distinct[i % len(distinct)])


def data_of(folder: Path, cache: Path) -> DataModule:
    return ImageFolder(str(folder), batch_size=BATCH_SIZE, held_out=0, horizontal_flip=True, cache_dir=str(cache))


def anonymous() -> float:
    """Anonymous memory of this process and those that it has started, in MB."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    total = 0
    for process in ("self", *children.split()):
        with suppress(OSError):  # it has ended
            total += int((Path("/proc") / process / "status").read_text().partition("RssAnon:")[2].split()[0])
    return total * 1024 / 1e6


def peak(folder: Path, cache: Path, number: int) -> tuple[float, float]:
    """Map the cache, or make it, and read that many epochs; return the MB of anonymous memory before, and at most."""
    torch.set_num_threads(1)
    before = highest = anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    data = data_of(folder, cache)
    data.prepare_data()
    for i in range(number):
        epoch(data, i)
    done.set()
    watcher.join()
    return before, highest


def memory(pictures: Path, root: Path, rows: list[int]) -> None:
    print("\n| rows | pixels, MB | before, MB | converting, at most | reading an epoch, at most |\n|---|---|---|---|---|")
    for n in rows:
        links(pictures, root / str(n), n)
        found = []
        for number in (0, 1):  # a fresh process converts, another reads
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found.append(pool.submit(peak, root / str(n), root / "cache", number).result())
        (before, converting), (_, reading) = found
        print(f"| {n:,} | {n * 3 * 64**2 / 1e6:,.0f} | {before:.0f} | {converting:.0f} | {reading:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096, help="distinct pictures")
    parser.add_argument("--convert", type=int, default=32_768, help="files to time the conversion of")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="for the files of this run, some gigabytes")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        pictures = make_celeba(root, options.images)
        size = sum(path.stat().st_size for path in pictures.iterdir()) / options.images
        print(
            f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
            f"{torch.get_num_threads()} threads, torch {torch.__version__}, torchvision {torchvision.__version__}, "
            f"Pillow {PIL.__version__} with libjpeg-turbo {features.version('libjpeg_turbo')}; "
            f"{options.images} distinct JPEGs of {size:,.0f} bytes on average"
        )
        conversion(root, pictures, options.convert, options.repeats)
        memory(pictures, root, options.rows)
        data = data_of(root / str(options.rows[-1]), root / "cache")
        later_epochs(data, root, pictures, options.workers, options.repeats)


if __name__ == "__main__":
    main()
