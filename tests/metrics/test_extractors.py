from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan.data import Digits
from lightning_gan.errors import UserError
from lightning_gan.metrics import extractors
from lightning_gan.metrics.classifier import SmallNetwork
from lightning_gan.metrics.extractors import Classifier, Extractor, Random, choose, exact, extract
from lightning_gan.metrics.real import RealImages

IMAGES = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

OPERATIONS = (torch.backends.cuda.matmul, *attrgetter("cudnn.conv", "mkldnn.matmul", "mkldnn.conv")(torch.backends))


def precisions() -> list[str]:
    return [operation.fp32_precision for operation in OPERATIONS]


class Own(Extractor):
    """A user's own, which does as it is told."""

    name = "own"

    def __init__(self, does: Callable[[Tensor], Any] = lambda h: (h, None)) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Dropout(0.5))
        self.does = does

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.does(self.layer(x / 255))  # type: ignore[no-any-return]  # which is what is tested


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealImages:
    data = Digits(image_size=16, cache_dir=str(tmp_path_factory.mktemp("data")))
    return RealImages(*data.images("train"), *data.images("test"), 10, data.fingerprint, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def classifier(real: RealImages) -> Classifier:
    classifier = Classifier(images=15_000)
    classifier.prepare(real)
    return classifier


def unlabelled(real: RealImages) -> RealImages:
    return replace(real, train_labels=None, held_out_labels=None, num_classes=0)


class TestExtract:
    def test_it_is_in_evaluation_mode_and_without_gradient(self) -> None:
        own = Own()
        assert own.training
        features, logits = extract(own, IMAGES)
        assert not features.requires_grad
        assert logits is None
        weights = own.layer[1]
        assert isinstance(weights, nn.Linear)
        assert_close(features, (IMAGES.flatten(1) / 255 @ weights.weight.T + weights.bias).detach())  # so without dropout

    @pytest.mark.parametrize("images", [IMAGES.float(), IMAGES[0], IMAGES.flatten(1)])
    def test_anything_but_a_batch_of_uint8_is_refused(self, images: Tensor) -> None:
        with pytest.raises(TypeError, match=r"uint8 \(N, C, H, W\)"):
            extract(Own(), images)

    def test_autocast_changes_nothing(self, classifier: Classifier) -> None:
        expected = extract(classifier, IMAGES)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(extract(classifier, IMAGES), expected, rtol=0, atol=0)
            assert torch.is_autocast_enabled("cpu")
            heeding, exact = classifier(IMAGES)[1], expected[1]
        assert heeding is not None
        assert exact is not None
        assert not torch.equal(heeding, exact)

    @pytest.mark.parametrize("precision", ["highest", "high", "medium", "new"])
    def test_tf32_is_off_inside_and_as_it_was_outside(self, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
        inside: list[str] = []

        def look(h: Tensor) -> tuple[Tensor, None]:
            inside.extend(precisions())
            return h, None

        before = precisions()
        try:
            if precision == "new":
                torch.backends.cuda.matmul.fp32_precision = "tf32"  # after which the old functions only raise
            else:
                torch.set_float32_matmul_precision(precision)
            chosen = precisions()
            extract(Own(look), IMAGES)
            assert precisions() == chosen
            if precision != "new":
                assert torch.get_float32_matmul_precision() == precision
        finally:
            torch.set_float32_matmul_precision("highest")
            for operation, value in zip(OPERATIONS, before, strict=True):
                operation.fp32_precision = value
        assert inside == ["ieee"] * 4

    def test_precisions_are_restored_after_an_error(self) -> None:
        before = precisions()
        with pytest.raises(ZeroDivisionError), exact():
            _ = 1 / 0
        assert precisions() == before

    def test_features_do_not_depend_on_the_batch(self, classifier: Classifier, real: RealImages) -> None:
        images = real.held_out[:7]
        features, logits = extract(classifier, images)
        assert logits is not None
        for size in (1, 2, 3):
            parts = [extract(classifier, part) for part in images.split(size)]
            assert torch.equal(torch.cat([part[0] for part in parts]), features)
            assert_close(torch.cat([part[1] for part in parts if part[1] is not None]), logits)

    def test_no_images_have_no_features(self, classifier: Classifier) -> None:
        features, logits = extract(classifier, IMAGES[:0])
        assert features.shape == (0, 64)
        assert logits is not None
        assert logits.shape == (0, 10)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_features_come_as_float32(self, dtype: torch.dtype) -> None:
        features, logits = extract(Own(lambda h: (h.to(dtype), h.to(dtype))), IMAGES)
        assert logits is not None
        assert features.dtype == logits.dtype == torch.float32

    @pytest.mark.parametrize(
        ("does", "message"),
        [
            (lambda h: h, "Own must return features and logits"),
            (lambda h: (h[:, :, None], None), r"features of Own must be a tensor \(N, D\).* not \(6, 5, 1\)"),
            (lambda h: (h[:3], None), r"features of Own .* not \(3, 5\)"),
            (lambda h: (h, h.argmax(1)), r"logits of Own .* not \(6,\)"),
            (lambda h: (h.tolist(), None), "features of Own .* not list"),
            (lambda h: (h / 0, None), "features of Own are not finite"),
            (lambda h: (h, h.log()), "logits of Own are not finite"),
        ],
    )
    def test_what_is_no_extractor_is_refused(self, does: Callable[[Tensor], Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            extract(Own(does), IMAGES)


class TestDigest:
    def test_it_knows_class_settings_and_weights(self) -> None:
        class Other(Own):
            pass

        class Set(Own):
            @property
            def settings(self) -> dict[str, Any]:
                return {"resize": self.resize}

        torch.manual_seed(0)
        own, other, a, b = Own(), Other(), Set(), Set()
        for copy in (other, a, b):
            copy.load_state_dict(own.state_dict())
        a.resize, b.resize = "tf1", "antialias"  # type: ignore[assignment]  # torch expects modules
        assert len({own.digest, other.digest, a.digest, b.digest}) == 4
        assert len(own.digest) == 16

        before = own.digest
        assert own.eval().requires_grad_(False).digest == before
        next(own.parameters()).data[0, 0] += 1e-7
        assert own.digest != before


class TestClassifier:
    def test_it_tells_digits_apart(self, classifier: Classifier, real: RealImages) -> None:
        features, logits = extract(classifier, real.held_out)
        assert logits is not None
        assert features.shape == (len(real.held_out), 64)
        assert logits.shape == (len(real.held_out), 10)
        assert classifier.accuracy > 0.95
        assert real.held_out_labels is not None
        assert logits.argmax(1).eq(real.held_out_labels).double().mean().item() == classifier.accuracy
        assert classifier.settings == {"accuracy": classifier.accuracy}

    def test_training_is_a_function_of_the_data_alone(self, real: RealImages, tmp_path: Path) -> None:
        digests = []
        for i in range(2):
            torch.manual_seed(i)
            before = torch.get_rng_state()
            trained = Classifier(min_accuracy=0, images=512)
            with torch.autocast("cpu", torch.bfloat16, enabled=i == 0), torch.set_grad_enabled(i == 0):
                trained.prepare(replace(real, cache=tmp_path / str(i)))
            assert torch.equal(torch.get_rng_state(), before)
            digests.append(trained.digest)
        assert digests[0] == digests[1]

    def test_it_can_be_trained_in_inference_mode(self, real: RealImages, tmp_path: Path) -> None:
        with torch.inference_mode():
            Classifier(min_accuracy=0, images=256).prepare(replace(real, cache=tmp_path))

    def test_it_is_trained_once(self, classifier: Classifier, real: RealImages, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(extractors, "train", None)
        again = Classifier(min_accuracy=0.5, images=15_000)  # the bar does not decide the weights
        again.prepare(real)
        assert again.digest == classifier.digest
        assert torch.equal(extract(again, real.held_out)[0], extract(classifier, real.held_out)[0])
        with pytest.raises(TypeError):  # which is that it would train
            Classifier(images=14_000).prepare(real)
        with pytest.raises(TypeError):
            Classifier(images=15_000).prepare(replace(real, fingerprint="of other data"))

    def test_below_the_bar_it_is_refused(self, real: RealImages, tmp_path: Path) -> None:
        assert real.train_labels is not None
        shuffled = replace(real, train_labels=real.train_labels.roll(7), cache=tmp_path)
        with pytest.raises(
            UserError, match=r"right about \d+\.\d% of the held-out images, less than its min_accuracy=0\.9: choose"
        ):
            Classifier(images=2048).prepare(shuffled)

    def test_without_labels_or_held_out_images_it_is_refused(self, real: RealImages) -> None:
        with pytest.raises(UserError, match="needs labels, and this data has none: choose another"):
            Classifier().prepare(unlabelled(real))
        none = replace(real, held_out=real.held_out[:0], held_out_labels=torch.zeros(0, dtype=torch.int64))
        with pytest.raises(UserError, match="tested on held-out images, of which there are none"):
            Classifier().prepare(none)

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 48), (3, 64, 64), (1, 200, 100), (1, 3, 3)])
    def test_images_of_any_size(self, shape: tuple[int, int, int]) -> None:
        network = SmallNetwork(shape, num_classes=3)
        images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
        network.calibrate(images)
        expected = network.eval()(images)
        network.fold()
        features, logits = network(images)
        assert features.shape == (2, 64)
        assert logits is not None
        assert_close((features, logits), expected, rtol=1e-4, atol=1e-4)  # with normalisation as a step of its own

    def test_large_images_are_averaged_down(self) -> None:
        network = SmallNetwork((1, 128, 128), num_classes=0)
        network.fold()
        small = torch.randint(1, 255, (2, 1, 64, 64), dtype=torch.uint8)
        checkers = torch.tensor([[1, -1], [-1, 1]]).repeat(64, 64)  # no more, once averaged
        large = (small.repeat_interleave(2, 2).repeat_interleave(2, 3) + checkers).to(torch.uint8)
        assert_close(network(large)[0], network(small)[0], rtol=1e-5, atol=1e-5)


class TestRandom:
    def test_normalisation_is_by_the_images_it_is_calibrated_on(self, real: RealImages) -> None:
        once, twice = (SmallNetwork((1, 16, 16), num_classes=0) for _ in range(2))
        twice.calibrate(255 - real.train[:50])
        for network in (once, twice):
            network.calibrate(real.train[:50])
            network.fold()
        assert_close(once.state_dict(), twice.state_dict())

    def test_features_without_logits_in_a_useful_range(self, real: RealImages) -> None:
        random = Random()
        random.prepare(unlabelled(real))
        features, logits = extract(random, real.held_out)
        assert logits is None
        assert features.shape == (len(real.held_out), 64)
        # Half of a normalised response, averaged over 2x2 places: 0.4 where it is normal.
        assert 0.2 < features.mean() < 0.8

    def test_it_is_a_function_of_the_data_alone(self, real: RealImages) -> None:
        digests = []
        for i in range(2):
            torch.manual_seed(i)
            before = torch.get_rng_state()
            random = Random()
            random.prepare(real)
            assert torch.equal(torch.get_rng_state(), before)
            digests.append(random.digest)
        assert digests[0] == digests[1]

    def test_noise_moves_its_features_the_further_the_more_there_is(self, real: RealImages) -> None:
        random = Random()
        random.prepare(real)
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(real.held_out.shape, generator=rng)
        mean = extract(random, real.held_out)[0].mean(0)
        moved = [
            (extract(random, (real.held_out + noise * sigma).clamp(0, 255).to(torch.uint8))[0].mean(0) - mean).norm().item()
            for sigma in (5, 20, 80)
        ]
        assert moved == sorted(moved)


class TestChoose:
    @pytest.fixture(autouse=True)
    def no_inception_and_little_training(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LIGHTNING_GAN_INCEPTION", raising=False)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setattr(Classifier.__init__, "__defaults__", (0.9, 15_000))

    def test_labels_make_it_a_classifier(self, real: RealImages, classifier: Classifier) -> None:
        chosen, reason = choose(None, real)
        assert isinstance(chosen, Classifier)
        assert chosen.digest == classifier.digest
        assert not chosen.training
        assert not any(parameter.requires_grad for parameter in chosen.parameters())
        assert reason == f"classifier: the data has labels; {classifier.accuracy:.1%} of the held-out images right"

    def test_without_labels_it_is_random_features(self, real: RealImages) -> None:
        chosen, reason = choose(None, unlabelled(real))
        assert isinstance(chosen, Random)
        assert not chosen.training
        assert reason == "random: the data has no labels; its scores compare only with each other"

    def test_without_held_out_images_too(self, real: RealImages) -> None:
        _, reason = choose(None, replace(real, held_out=real.held_out[:0]))
        assert reason == "random: the data has no held-out images; its scores compare only with each other"

    def test_where_the_classifier_fails_too(self, real: RealImages, tmp_path: Path) -> None:
        assert real.train_labels is not None
        chosen, reason = choose(None, replace(real, train_labels=real.train_labels.roll(7), cache=tmp_path))
        assert isinstance(chosen, Random)
        assert "no classes that a classifier tells apart well enough" in reason

    def test_what_is_given_is_prepared(self, real: RealImages) -> None:
        random = Random()
        chosen, reason = choose(random, real)
        assert chosen is random
        assert extract(random, real.held_out)[0].shape == (len(real.held_out), 64)
        assert reason == "random: as chosen"
        own, _ = choose(Own(), real)
        assert not own.training
        assert not any(parameter.requires_grad for parameter in own.parameters())

    def test_a_refusal_of_what_is_given_is_not_passed_over(self, real: RealImages) -> None:
        with pytest.raises(UserError, match="needs labels"):
            choose(Classifier(), unlabelled(real))

    @pytest.mark.parametrize("name", ["", "my/own", "inception", "classifier"])
    def test_ones_own_extractor_has_a_name_of_its_own(self, name: str, real: RealImages) -> None:
        own = Own()
        own.name = name
        with pytest.raises(UserError, match="Own needs a name of its own"):
            choose(own, real)
