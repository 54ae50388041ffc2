from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from lightning_gan.errors import UserError
from lightning_gan.metrics import inception
from lightning_gan.metrics.extractors import Inception, choose, extract
from lightning_gan.metrics.real import RealImages

COLOURS = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
GREY = COLOURS[:, :1]


class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity has no types
    """Theirs with random weights, in which the magnitude of features is kept from layer to layer."""

    def load_state_dict(self, *_: object) -> None:
        rng = torch.Generator().manual_seed(0)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
                nn.init.normal_(layer.running_mean, std=0.1, generator=rng)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, but for its weights."""
    path = tmp_path_factory.mktemp("weights") / "some.pth"
    torch.save({}, path)
    state = Untrained("untrained", ["2048"], str(path)).state_dict()
    assert len(state) == 566  # as many as in the published file
    torch.save(state, path)
    return path


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:8]


@pytest.fixture(scope="module")
def theirs(weights: Path) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], str(weights))


@pytest.fixture
def real(tmp_path: Path) -> RealImages:
    return RealImages(COLOURS, None, COLOURS, None, 0, "fingerprint", tmp_path)


@pytest.fixture(scope="module")
def ours(weights: Path) -> Inception:
    extractor = Inception(str(weights), digest(weights))
    extractor.prepare(RealImages(COLOURS, None, COLOURS, None, 0, "fingerprint", weights.parent))
    return extractor


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LIGHTNING_GAN_INCEPTION", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


class TestOutputs:
    @pytest.mark.parametrize(("images", "seen_as"), [(COLOURS, COLOURS), (GREY, GREY.repeat(1, 3, 1, 1))])
    def test_they_are_torch_fidelitys_to_the_last_bit(
        self, images: Tensor, seen_as: Tensor, ours: Inception, theirs: FeatureExtractorInceptionV3
    ) -> None:
        features, logits = extract(ours, images)
        assert logits is not None
        assert features.shape == (2, 2048)
        assert logits.shape == (2, 1008)
        expected = theirs(seen_as)
        assert torch.equal(features, expected[0])
        assert torch.equal(logits, expected[1])
        assert (features[0] - features[1]).abs().mean() > 1e-3 * features.abs().mean() > 0  # it looks at the images

    def test_autocast_and_the_batch_change_nothing(self, ours: Inception) -> None:
        expected = extract(ours, COLOURS)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(extract(ours, COLOURS)[0], expected)
        assert torch.equal(extract(ours, COLOURS[:1])[0], expected[:1])

    def test_antialiased_resizing_averages_what_tensorflow_skips(
        self, weights: Path, ours: Inception, theirs: FeatureExtractorInceptionV3, real: RealImages
    ) -> None:
        averaging = Inception(str(weights), digest(weights), resize="antialias")
        averaging.prepare(real)
        resized = F.interpolate(COLOURS.float(), (299, 299), mode="bilinear", antialias=True).round().to(torch.uint8)
        assert torch.equal(extract(averaging, COLOURS)[0], theirs(resized)[0])  # rounded, as any image is
        # Stripes of a pixel, four times too fine: single pixels are all black, averages are grey.
        stripes = torch.tensor([0, 255, 255, 255], dtype=torch.uint8).repeat(299).expand(1, 3, 4 * 299, -1).contiguous()
        resized = F.interpolate(stripes.float(), (299, 299), mode="bilinear", antialias=True).round().to(torch.uint8)
        assert resized.float().mean() > 180
        assert torch.equal(extract(averaging, stripes)[0], theirs(resized.repeat(2, 1, 1, 1))[0][:1])
        assert torch.equal(extract(ours, stripes)[0], extract(ours, torch.zeros_like(resized))[0])
        assert averaging.digest != ours.digest


class TestNames:
    def test_only_the_published_weights_and_resize_go_by_the_plain_name(self, weights: Path) -> None:
        assert Inception().name == Inception(digest="6726825d0000").name == "inception"
        assert Inception(digest="0123456789").name == "inception_01234567"
        assert Inception(resize="antialias").name == "inception_antialias"
        assert Inception(digest="01234567", resize="antialias").name == "inception_01234567_antialias"

    def test_settings_and_digest_do_not_depend_on_where_the_file_is(
        self, weights: Path, ours: Inception, real: RealImages, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy.pth"
        copy.write_bytes(weights.read_bytes())
        other = Inception(str(copy), digest(weights))
        other.prepare(real)
        assert other.digest == ours.digest
        assert other.settings == ours.settings == {"resize": "tf1", "weights": digest(weights)}

    @pytest.mark.parametrize("value", ["", "6726825", "6726825D", "not hexadecimal"])
    def test_a_digest_that_is_none_is_refused(self, value: str) -> None:
        with pytest.raises(UserError, match="at least 8 hexadecimal digits"):
            Inception(digest=value)


class TestWeightsFile:
    def test_the_option_comes_before_the_variable_before_the_download_folder(
        self, nothing_at_hand: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert inception.weights_file() == nothing_at_hand
        monkeypatch.setenv("LIGHTNING_GAN_INCEPTION", "~/inception.pth")
        assert inception.weights_file() == Path("~/inception.pth").expanduser()
        assert inception.weights_file("other.pth") == Path("other.pth")

    def test_a_missing_file_is_named_with_all_ways_out(self, nothing_at_hand: Path, real: RealImages) -> None:
        with pytest.raises(UserError) as error:
            Inception().prepare(real)
        assert str(error.value) == (
            f"The Inception weights {nothing_at_hand} are not there. Download {URL_INCEPTION_V3} and put it there, or say "
            "where it is with the extractor's option weights or the environment variable LIGHTNING_GAN_INCEPTION."
        )

    def test_their_file_has_the_name_we_look_for(self) -> None:
        assert URL_INCEPTION_V3.rpartition("/")[2] == inception.FILE
        assert inception.DIGEST in inception.FILE

    def test_another_file_than_expected_is_refused(self, weights: Path, real: RealImages) -> None:
        with pytest.raises(
            UserError, match=f"SHA-256 starts with {digest(weights)}, not 6726825d. Download .*{inception.FILE}"
        ):
            Inception(str(weights)).prepare(real)

    def test_a_program_is_not_run(self, real: RealImages, tmp_path: Path) -> None:
        """torch-fidelity itself would: it unpickles without `weights_only`."""

        class Program:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "it ran",)

        path = tmp_path / "evil.pth"
        torch.save({"fc.weight": Program()}, path)
        with pytest.raises(UserError, match=r"evil\.pth does not hold the weights of torch-fidelity's Inception network"):
            Inception(str(path), digest(path)).prepare(real)
        assert not (tmp_path / "it ran").exists()
        with pytest.raises((AttributeError, TypeError, RuntimeError)):
            FeatureExtractorInceptionV3("theirs", ["2048"], str(path))
        assert (tmp_path / "it ran").exists()

    def test_text_and_other_networks_are_refused(self, real: RealImages, tmp_path: Path) -> None:
        text, other = tmp_path / "text.pth", tmp_path / "other.pth"
        text.write_text("not weights")
        torch.save(nn.Linear(2, 3).state_dict(), other)
        for path in (text, other):
            with pytest.raises(UserError, match=f"{path.name} does not hold the weights"):
                Inception(str(path), digest(path)).prepare(real)

    def test_files_of_before_torch_1_6_are_read(self, weights: Path, real: RealImages, ours: Inception, tmp_path: Path) -> None:
        old = tmp_path / "old.pth"
        torch.save(torch.load(weights, weights_only=True), old, _use_new_zipfile_serialization=False)
        extractor = Inception(str(old), digest(old))
        before = torch.get_rng_state()
        extractor.prepare(real)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(*pair) for pair in zip(extractor.state_dict().values(), ours.state_dict().values(), strict=True))


class TestChoose:
    @pytest.fixture(autouse=True)
    def accept(self, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Inception.__init__, "__defaults__", (None, digest(weights), "tf1"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def test_weights_at_hand_and_colours_make_it_inception(
        self, weights: Path, real: RealImages, nothing_at_hand: Path, ours: Inception
    ) -> None:
        nothing_at_hand.parent.mkdir(parents=True)
        nothing_at_hand.symlink_to(weights)
        chosen, reason = choose(None, real)
        assert isinstance(chosen, Inception)
        assert chosen.digest == ours.digest
        assert not chosen.training
        assert not any(parameter.requires_grad for parameter in chosen.parameters())
        assert reason == f"{chosen.name}: its weights are at hand and the images have colours"

    def test_without_a_gpu_it_would_take_too_long(
        self, weights: Path, real: RealImages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LIGHTNING_GAN_INCEPTION", str(weights))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        _, reason = choose(None, real)
        assert reason.startswith("random: the data has no labels, and Inception would take minutes without a GPU")

    def test_without_weights_it_says_so(self, real: RealImages) -> None:
        _, reason = choose(None, real)
        assert reason == (
            "random: the data has no labels, and the Inception weights are not here; its scores compare only with each other"
        )

    def test_grey_images_are_not_for_inception(self, weights: Path, real: RealImages, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIGHTNING_GAN_INCEPTION", str(weights))
        chosen, _ = choose(None, replace(real, train=GREY, held_out=GREY))
        assert chosen.name == "random"

    def test_a_variable_that_names_no_file_is_not_passed_over(self, real: RealImages, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIGHTNING_GAN_INCEPTION", "missing.pth")
        with pytest.raises(UserError, match=r"weights missing\.pth are not there"):
            choose(None, real)
