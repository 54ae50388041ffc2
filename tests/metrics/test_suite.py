import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group

from lightning_gan.metrics.distances import frechet_distance, kernel_distance, label_divergence, matrix_root
from lightning_gan.metrics.extractors import Extractor
from lightning_gan.metrics.manifold import (
    copy_rate,
    copy_threshold,
    duplicates,
    nearest_distances,
    neighbour_radii,
    precision_recall_density_coverage,
)
from lightning_gan.metrics.real import RealImages
from lightning_gan.metrics.reference import random_order
from lightning_gan.metrics.suite import Suite


class Quarters(Extractor):
    """Features: the means of an image's four quarters. Logits: which of them is brightest."""

    name = "quarters"
    classifies = True

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.register_buffer("scale", torch.tensor(scale))
        self.looked_at = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        self.looked_at += len(x)
        features = self.scale * self.pool(x.float()).flatten(1)
        return features, features / 10


def draw(num: int, seed: int, width: int = 8) -> Tensor:
    """Images whose quarters differ: uint8 (num, 1, width, width)."""
    rng = torch.Generator().manual_seed(seed)
    quarters = torch.randint(0, 255, (num, 1, 2, 2), generator=rng, dtype=torch.uint8)
    return quarters.repeat_interleave(width // 2, 2).repeat_interleave(width // 2, 3)


@pytest.fixture
def real(tmp_path: Path) -> RealImages:
    train, held_out = draw(600, 0), draw(200, 1)
    return RealImages(train, torch.zeros(600), held_out, torch.zeros(200), 4, "fingerprint", tmp_path)


def batches(images: Tensor, size: int = 50) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(images), size):
        yield first, images[first : first + size]


def scores_of(images: Tensor, real: RealImages) -> dict[str, float]:
    return Suite(Quarters(), real).score(batches(images), len(images))


def test_the_training_images_score_as_perfect_copies(real: RealImages) -> None:
    scores = scores_of(real.train, real)
    assert scores["fid"] == pytest.approx(0, abs=1e-6)
    assert scores["copy_rate"] == 1
    assert scores["nn_ratio"] == 0
    for name in ("precision", "recall", "coverage"):
        assert scores[name] == 1
    assert scores["label_kl"] == pytest.approx(0, abs=1e-12)
    assert scores["modes"] == 4


def test_images_of_the_same_distribution_are_near_the_floor(real: RealImages) -> None:
    suite = Suite(Quarters(), real)
    scores, floor = suite.score(batches(draw(200, 2)), 200), suite.floor(200)
    assert floor.keys() == scores.keys() - {"copy_rate", "nn_ratio"}  # their threshold was made from these very images
    assert scores["copy_rate"] < 0.05
    assert scores["fid"] < 3 * floor["fid"]
    assert abs(scores["kid"]) < 4 * scores["kid_se"]


def test_worse_images_score_worse(real: RealImages) -> None:
    good = draw(400, 2)
    dark = (good.float() * 0.5).byte()
    few = good[:4].repeat(100, 1, 1, 1)
    one_class = good.clone()
    one_class[:, :, 4:], one_class[:, :, :, 4:] = 0, 0
    as_good, as_dark, as_few, as_one = (scores_of(images, real) for images in (good, dark, few, one_class))
    assert as_good["fid"] < as_dark["fid"]
    assert as_good["kid"] < as_dark["kid"]
    assert as_dark["recall"] < as_good["recall"]
    assert as_few["duplicates"] == 1 > as_good["duplicates"]
    assert as_few["coverage"] < 0.1 < as_good["coverage"]
    assert as_one["modes"] == 1
    assert as_one["label_kl"] > 1 > as_good["label_kl"]
    assert as_one["score"] < as_good["score"]


def test_each_image_is_looked_at_once(real: RealImages) -> None:
    extractor = Quarters()
    suite = Suite(extractor, real)
    before = extractor.looked_at
    suite.score(batches(draw(130, 2)), 130)
    suite.floor(130)
    assert extractor.looked_at - before == 130


def test_scores_do_not_depend_on_batches_or_their_order(real: RealImages) -> None:
    images = draw(130, 2)
    suite = Suite(Quarters(), real)
    one = suite.score(batches(images, 130), 130)
    assert one == pytest.approx(suite.score(reversed(list(batches(images, 7))), 130), rel=1e-12)


def test_scores_hardly_depend_on_how_a_file_is_sorted(real: RealImages) -> None:
    images = draw(400, 2)
    by_label = images[images.flatten(1)[:, [0, 4, 32, 36]].argmax(1).argsort()]
    assert scores_of(by_label, real)["score"] == pytest.approx(scores_of(images, real)["score"], rel=0.05)


def test_the_floor_of_few_held_out_images_is_brought_to_that_of_many(real: RealImages) -> None:
    def floor(held_out: Tensor, num: int) -> float:
        few = RealImages(real.train, None, held_out, None, 4, f"{len(held_out)} {held_out.sum()}", real.cache)
        return Suite(Quarters(), few).floor(num)["fid"]

    seeds = range(10, 22)
    raw = [floor(draw(40, seed), 40) for seed in seeds]
    brought = [floor(draw(40, seed), 2_000) for seed in seeds]
    true = floor(draw(2_000, 1), 2_000)
    assert min(brought) > 0
    assert true < sum(raw) / len(raw) / 5
    assert sum(brought) / len(brought) == pytest.approx(true, abs=sum(raw) / len(raw) / 20)


@pytest.mark.parametrize("held_out", [1, 2, 30])
def test_a_handful_of_held_out_images_is_no_reason_to_fail(held_out: int, real: RealImages) -> None:
    few = RealImages(real.train, None, draw(held_out, 1), None, 4, f"{held_out}", real.cache)
    suite = Suite(Quarters(), few)
    assert ("fid" in suite.floor(100)) == (held_out > 1)
    assert "copy_rate" not in suite.score(batches(draw(100, 2)), 100)  # too few to say what is suspicious


def test_more_images_than_are_kept_are_a_fair_part_of_all(real: RealImages, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reference", "suite"):
        monkeypatch.setattr(f"lightning_gan.metrics.{module}.BANK_ROWS", 100)
        monkeypatch.setattr(f"lightning_gan.metrics.{module}.COPY_QUERIES", 60)
    monkeypatch.setattr("lightning_gan.metrics.reference.FEATURE_BYTES", 300 * 16)
    extractor, generated = Quarters(), draw(150, 2)
    suite = Suite(extractor, real)
    scores = suite.score(batches(generated), 150)

    def kept(images: Tensor, rows: int) -> Tensor:
        features: Tensor = extractor(images[random_order(len(images)).argsort()[:rows]])[0]
        return features

    bank, fake, held_out, train = kept(real.train, 100), kept(generated, 100), kept(real.held_out, 100), kept(real.train, 300)
    assert torch.equal(suite.reference.features, train)
    assert torch.equal(suite.reference.held_out_logits, held_out / 10)
    (_, real_radii), (nearest, radii) = neighbour_radii(bank, 5), neighbour_radii(fake, 5)
    prdc = precision_recall_density_coverage(bank, fake, real_radii, radii, 5)
    assert {name: scores[name] for name in prdc} == prdc
    assert scores["kid"] == pytest.approx(kernel_distance(bank, fake, None)[0], rel=1e-9)
    threshold = copy_threshold(nearest_distances(held_out[:60], train))
    assert scores["copy_rate"] == copy_rate(nearest_distances(fake[:60], train), threshold)
    assert scores["duplicates"] == duplicates(nearest, real_radii)
    of_all = [extractor(images)[0].double() for images in (real.train, generated)]
    sides = [(x.mean(0), x.T.cov()) for x in of_all]
    expected = frechet_distance(*sides[0], matrix_root(sides[0][1]), *sides[1])
    assert scores["fid"] == pytest.approx(expected, rel=1e-9)
    labels = [x.argmax(1).bincount(minlength=4).double() for x in of_all]
    assert scores["label_kl"] == pytest.approx(label_divergence(labels[1], labels[0]), rel=1e-12)


def test_images_that_are_missing_are_noticed(real: RealImages) -> None:
    with pytest.raises(ValueError, match="there were to be 140 images, and there were 130"):
        Suite(Quarters(), real).score(batches(draw(130, 2)), 140)


def test_a_perfect_generator_reaches_so_much_coverage(real: RealImages) -> None:
    suite = Suite(Quarters(), real)
    for num in (20, 100, 600):
        assert suite.score(batches(draw(num, 2)), num)["coverage"] == pytest.approx(suite.reachable_coverage(num), abs=0.06)


def test_real_images_that_are_all_the_same_are_no_reason_to_fail(real: RealImages) -> None:
    grey = torch.full((60, 1, 8, 8), 128, dtype=torch.uint8)
    suite = Suite(Quarters(), RealImages(grey, None, grey[:20], None, 4, "grey", real.cache))
    assert suite.floor(100)["fid"] == pytest.approx(0, abs=1e-9)
    assert suite.score(batches(grey), 60)["coverage"] == 1


@pytest.mark.parametrize("num", [1, 2, 5, 6])
def test_a_few_images_have_the_scores_that_they_can_have(num: int, real: RealImages) -> None:
    scores = scores_of(draw(num, 2), real)
    assert scores["precision"] >= 0
    assert (scores["recall"] >= 0) == (num > 5)  # a sixth image has five neighbours
    assert (scores["fid"] >= 0) == (num > 1)


def test_without_held_out_images_there_is_no_floor_and_nothing_to_tell_copies_by(real: RealImages) -> None:
    alone = RealImages(real.train, None, real.held_out[:0], None, 4, "another", real.cache)
    suite = Suite(Quarters(), alone)
    assert suite.floor(100) == {}
    scores = suite.score(batches(draw(100, 2)), 100)
    assert not {"copy_rate", "nn_ratio"} & scores.keys()


def test_another_extractor_has_its_own_reference(real: RealImages) -> None:
    one, ten = Suite(Quarters(1), real), Suite(Quarters(10), real)
    assert len(list(real.cache.rglob("*.safetensors"))) == 2
    images = draw(100, 2)
    scores = [suite.score(batches(images), 100) for suite in (one, ten)]
    assert scores[1]["fid"] == pytest.approx(100 * scores[0]["fid"], rel=1e-6)


USERS = """
from tests.metrics.test_suite import Quarters

class Mine(Quarters):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return {formula}, None
"""


def test_how_a_users_extractor_is_written_and_made_is_part_of_its_digest(tmp_path: Path) -> None:
    def digest(formula: str, factor: float) -> str:
        path = tmp_path / f"{formula[:1]}.py"
        path.write_text(USERS.format(formula=formula))
        spec = spec_from_file_location("mine", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["mine"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
        extractor: Extractor = module.Mine(factor)
        return extractor.digest

    before, after = "self.factor * super().forward(x)[0]", "2 * self.factor * super().forward(x)[0]"
    assert digest(before, 1.0) == digest(before, 1.0)
    assert len({digest(before, 1.0), digest(before, 2.0), digest(after, 1.0)}) == 3
    del sys.modules["mine"]


def test_the_real_side_is_looked_at_once_for_all_runs(real: RealImages) -> None:
    first, second = Quarters(), Quarters()
    Suite(first, real)
    Suite(second, real)
    assert first.looked_at >= 800
    assert second.looked_at == 2  # to see whether it has logits


def _score_in_processes(rank: int, world_size: int, folder: str, shares: list[list[int]], scale: float) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous{world_size}"
    init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    train, held_out = draw(600, 0), draw(200, 1)
    real = RealImages(train, None, held_out, None, 4, "fingerprint", Path(folder))
    images = draw(130, 2)
    suite = Suite(Quarters(1 + scale * rank), real)
    mine = ((first, images[first : first + 32]) for first in shares[rank])
    torch.save([suite.score(mine, 130), suite.floor(400)], f"{folder}/{world_size}-{rank}.pt")
    destroy_process_group()


def in_processes(folder: Path, shares: list[list[int]], scale: float = 0) -> list[Any]:
    world_size = len(shares)
    mp.spawn(_score_in_processes, (world_size, str(folder), shares, scale), nprocs=world_size)
    return [torch.load(folder / f"{world_size}-{rank}.pt") for rank in range(world_size)]


@pytest.mark.parametrize(
    "shares", [[[0, 64, 128], [32, 96]], [[0, 32, 64, 96, 128], []], [[64], [0, 32, 96], [128]]], ids=["2", "empty", "3"]
)
def test_any_number_of_processes_with_any_shares_gives_the_same_scores_to_each(
    shares: list[list[int]], tmp_path: Path, real: RealImages
) -> None:
    images = draw(130, 2)
    suite = Suite(Quarters(), real)
    alone = suite.score(batches(images, 32), 130)
    results = in_processes(tmp_path, shares)
    for scores, floor in results:
        assert scores == pytest.approx(alone, rel=1e-12, abs=1e-12)
        assert floor == suite.floor(400)
    assert all(result == results[0] for result in results)


def test_processes_with_different_extractors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessRaisedException, match=r"UserError.*LIGHTNING_GAN_CACHE"):
        in_processes(tmp_path, [[0], []], scale=1)
