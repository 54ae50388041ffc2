import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_gan.__main__ import main
from lightning_gan.data import DataModule
from lightning_gan.errors import UserError
from lightning_gan.gan import GAN
from lightning_gan.networks import DCGANGenerator
from lightning_gan.networks.base import Network, StyleGenerator, build
from lightning_gan.sampling import check_truncation, read_generator, truncated, truncated_normal


class TinyStyleGenerator(StyleGenerator):
    def __init__(self, latent_dim: int = 4) -> None:
        super().__init__((1, 2, 2), latent_dim=latent_dim)
        self.mapping = nn.Linear(latent_dim, 3)
        self.synthesis = nn.Linear(3, 4)
        self.register_buffer("mean_style", torch.tensor([0.1, -0.2, 0.3]))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.synthesize(self.styles(z, y))

    def styles(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.mapping(z).unsqueeze(1).repeat(1, 2, 1)  # type: ignore[no-any-return]  # (N, 2, 3)

    def synthesize(self, styles: Tensor) -> Tensor:
        return self.synthesis(styles).mean(1).view(-1, 1, 2, 2)  # type: ignore[no-any-return]  # (N, 1, 2, 2)


@pytest.fixture(params=[0, 10], ids=["unconditional", "conditional"])
def checkpoint(
    request: pytest.FixtureRequest,
    make_gan: Callable[..., GAN],
    make_trainer: Callable[..., Trainer],
    digits: DataModule,
    tmp_path: Path,
) -> Path:
    digits.conditional = request.param > 0
    trainer = make_trainer(max_steps=3)
    trainer.fit(make_gan(request.param), digits)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def sample(checkpoint: Path, output: Path, *options: str) -> Any:
    assert main(["sample", "--ckpt_path", str(checkpoint), "--output", str(output), *options]) == 0
    return (
        np.load(output)
        if output.suffix.lower() == ".npz"
        else [np.asarray(Image.open(path)) for path in sorted(output.iterdir())]
    )


def test_a_sample_depends_on_its_seed_number_and_label_alone(checkpoint: Path, tmp_path: Path) -> None:
    plain = sample(checkpoint, tmp_path / "plain.npz", "--num", "300")
    assert plain["arr_0"].shape == (300, 8, 8, 1)
    assert plain["arr_0"].dtype == np.uint8
    small_batches = sample(checkpoint, tmp_path / "small.npz", "--num", "300", "--batch_size", "7")
    assert np.array_equal(small_batches["arr_0"], plain["arr_0"])
    fewer = sample(checkpoint, tmp_path / "fewer.npz", "--num", "5")
    assert np.array_equal(fewer["arr_0"], plain["arr_0"][:5])
    other_seed = sample(checkpoint, tmp_path / "other.npz", "--num", "5", "--seed", "1")
    assert not np.array_equal(other_seed["arr_0"], fewer["arr_0"])
    pictures = sample(checkpoint, tmp_path / "pictures", "--num", "5")
    assert np.array_equal(np.stack(pictures), fewer["arr_0"][..., 0])


def test_it_is_the_averaged_generator_that_is_sampled(
    make_gan: Callable[..., GAN], make_trainer: Callable[..., Trainer], digits: DataModule, tmp_path: Path
) -> None:
    trainer, gan = make_trainer(max_steps=3), make_gan()
    trainer.fit(gan, digits)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    z = torch.randn(4, gan.generator.latent_dim)
    with torch.no_grad():
        assert torch.equal(read_generator(tmp_path / "last.ckpt")(z), gan.average(z))
        assert not torch.equal(gan.generator.eval()(z), gan.average(z))


@pytest.mark.parametrize("checkpoint", [10], indirect=True)
@pytest.mark.parametrize(
    ("option", "labels"), [([], [0, 1, 2, 3, 4, 5]), (["--labels", "3"], [3] * 6), (["--labels", "[7,1]"], [7, 1] * 3)]
)
def test_labels(checkpoint: Path, tmp_path: Path, option: list[str], labels: list[int]) -> None:
    samples = sample(checkpoint, tmp_path / "s.npz", "--num", "6", *option)
    assert samples["labels"].tolist() == labels
    if option == []:
        assert not np.array_equal(
            samples["arr_0"], sample(checkpoint, tmp_path / "t.npz", "--num", "6", "--labels", "3")["arr_0"]
        )


class TestTruncatedNormal:
    def test_values_by_hand(self) -> None:
        # 0.67449 is the upper quartile of the normal distribution. Truncated to [-1, 1], which hold 0.68269 of it, that one's
        # lies where the normal distribution reaches 0.5 + 0.68269 / 4 = 0.67067.
        z = torch.tensor([0.0, 0.67449, -0.67449, torch.inf, -torch.inf])
        assert_close(truncated_normal(z, 1.0), torch.tensor([0.0, 0.44177, -0.44177, 1.0, -1.0]), atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("psi", "variance"), [(0.5, 0.080589), (1.0, 0.291125), (2.0, 0.773741)])
    def test_range_order_and_variance(self, psi: float, variance: float) -> None:
        # The variance is 1 - 2 psi pdf(psi) / (1 - 2 cdf(-psi)).
        quantiles = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
        z = truncated_normal(torch.special.ndtri(quantiles), psi)
        assert -psi <= z.min() < -0.99 * psi
        assert 0.99 * psi < z.max() <= psi
        assert (z.diff() > 0).all()
        assert_close(z.var().item(), variance, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("psi", [1e-6, 0.3, 0.7, 1.0])
    def test_no_rounding_leads_out_of_the_range(self, psi: float) -> None:
        z = truncated_normal(torch.linspace(-10, 10, 10_001), psi)
        assert z.dtype == torch.float32
        assert z.abs().max() <= torch.tensor(psi)
        assert (z.diff() >= 0).all()

    def test_far_away_it_changes_nothing(self) -> None:
        z = torch.linspace(-8, 8, 1001)  # 8: the upper tail, 6e-16, is a few steps of float64 from 1
        assert_close(truncated_normal(z, 12.0), z, atol=1e-4, rtol=0)


class TestTruncation:
    def test_styles_are_moved_to_their_mean(self) -> None:
        torch.manual_seed(0)
        generator = TinyStyleGenerator().requires_grad_(False)
        z = torch.randn(5, 4)
        plain = generator(z)
        assert torch.equal(truncated(generator, z, None, None), plain)
        assert torch.equal(truncated(generator, z, None, 1.0), plain)  # not merely close
        mean = generator.synthesize(generator.mean_style.expand(1, 2, 3))
        assert_close(truncated(generator, z, None, 0.25), mean + 0.25 * (plain - mean))  # everything here is affine
        assert_close(truncated(generator, z, None, 1e-8), mean.expand(5, 1, 2, 2))

    def test_the_latents_of_any_other_generator_are_truncated(self) -> None:
        generator = DCGANGenerator((1, 8, 8), 3, latent_dim=4, width=4).eval().requires_grad_(False)
        z, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
        assert torch.equal(truncated(generator, z, y, 0.5), generator(truncated_normal(z, 0.5), y))
        assert torch.equal(truncated(generator, z, y, None), generator(z, y))

    @pytest.mark.parametrize("checkpoint", [10], indirect=True)
    def test_a_truncated_sample_depends_on_its_seed_number_and_label_alone(self, checkpoint: Path, tmp_path: Path) -> None:
        full = sample(checkpoint, tmp_path / "full.npz", "--num", "300")["arr_0"]
        many = sample(checkpoint, tmp_path / "many.npz", "--num", "300", "--truncation", "0.5")["arr_0"]
        few = sample(checkpoint, tmp_path / "few.npz", "--num", "25", "--batch_size", "7", "--truncation", "0.5")["arr_0"]
        assert np.array_equal(few, many[:25])
        assert not np.array_equal(many, full)
        assert many[::10].std(0).mean() < 0.8 * full[::10].std(0).mean()  # of the same class, more alike

    def test_uniform_latents_have_no_tails(self) -> None:
        generator = DCGANGenerator((1, 8, 8), latent_dim=4, latent_distribution="uniform", width=4)
        check_truncation(generator, None)
        with pytest.raises(UserError, match="this generator's latents are uniform"):
            check_truncation(generator, 0.5)

    @pytest.mark.parametrize("truncation", [0.0, -1.0, float("inf"), float("nan")])
    def test_values_that_mean_nothing_to_latents(self, truncation: float) -> None:
        with pytest.raises(UserError, match="The truncation must be positive and finite, not"):
            check_truncation(DCGANGenerator((1, 8, 8), width=4), truncation)

    def test_a_style_has_an_opposite(self) -> None:
        # Karras et al. 2019, Figure 8: as far on the other side of the mean.
        generator, z = TinyStyleGenerator(), torch.randn(3, 4)
        check_truncation(generator, -1.0)
        opposite = generator.synthesize(2 * generator.mean_style - generator.styles(z))
        assert_close(truncated(generator, z, None, -1.0), opposite)
        for truncation in (-11.0, float("inf"), float("nan")):
            with pytest.raises(UserError, match="The truncation of styles must lie between -10 and 10, not at"):
                check_truncation(generator, truncation)


class TestErrors:
    def fails(self, capsys: pytest.CaptureFixture[str], *options: str) -> str:
        assert main(["sample", *options]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        return error

    def test_nothing_that_exists_is_overwritten(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.npz").write_text("precious")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "0.png").write_text("precious")
        for output in (tmp_path / "mine.npz", tmp_path / "mine"):
            assert "exists already" in self.fails(capsys, "--ckpt_path", str(checkpoint), "--output", str(output))
        assert (tmp_path / "mine.npz").read_text() == (tmp_path / "mine" / "0.png").read_text() == "precious"

    @pytest.mark.parametrize("checkpoint", [0], indirect=True)
    def test_labels_of_an_unconditional_generator(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "unconditional" in self.fails(capsys, "--ckpt_path", str(checkpoint), "--labels", "3")

    @pytest.mark.parametrize("checkpoint", [10], indirect=True)
    def test_a_label_that_is_not_there(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "classes are 0 to 9" in self.fails(capsys, "--ckpt_path", str(checkpoint), "--labels", "10")

    @pytest.mark.parametrize("checkpoint", [0], indirect=True)
    def test_a_truncation_to_nothing(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        error = self.fails(capsys, "--ckpt_path", str(checkpoint), "--truncation", "0")
        assert error == "error: The truncation must be positive and finite, not 0.0."

    @pytest.mark.parametrize("checkpoint", [0], indirect=True)
    def test_a_device_that_is_not_there(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for device in ("cuda:99", "warp", "meta"):
            assert device in self.fails(capsys, "--ckpt_path", str(checkpoint), "--device", device)

    def test_a_checkpoint_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "There is no checkpoint nowhere.ckpt" in self.fails(capsys, "--ckpt_path", "nowhere.ckpt")

    def test_options_that_are_wrong(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "Did you mean --ckpt_path?" in self.fails(capsys, "--chkpt_path", "x")
        assert "--truncation" in self.fails(capsys, "--ckpt_path", "x", "--truncation", "much")
        assert "--num must be" in self.fails(capsys, "--ckpt_path", "x", "--num", "0")
        assert "--ckpt_path" in self.fails(capsys)

    def test_a_number_that_is_a_slip(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        error = self.fails(capsys, "--ckpt_path", str(checkpoint), "--num", "1000000000000")
        assert error == "error: 1,000,000,000,000 images are too many: at most a billion can be made in one go."

    def test_a_name_that_is_too_long(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        error = self.fails(capsys, "--ckpt_path", str(checkpoint), "--output", "x" * 300)
        assert error.endswith("x cannot be used: File name too long.")

    @pytest.mark.parametrize("checkpoint", [0], indirect=True)
    def test_a_generator_that_has_diverged(self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = torch.load(checkpoint, weights_only=True)
        content["state_dict"]["average.generator.dense.weight"].fill_(float("nan"))
        torch.save(content, tmp_path / "nan.ckpt")
        output = tmp_path / "s.npz"
        assert "not finite" in self.fails(capsys, "--ckpt_path", str(tmp_path / "nan.ckpt"), "--output", str(output))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "nan.ckpt"]

    @pytest.mark.parametrize("record", [None, {"class_path": 3, "init_args": {}}, {"class_path": "json.JSONDecoder"}])
    def test_a_record_that_is_none(self, tmp_path: Path, record: Any) -> None:
        torch.save({"lightning_gan": {"generator": record}, "state_dict": {}}, tmp_path / "odd.ckpt")
        with pytest.raises(UserError, match=r"odd\.ckpt is not a whole checkpoint"):
            read_generator(tmp_path / "odd.ckpt")

    @pytest.mark.parametrize("checkpoint", [0], indirect=True)
    def test_a_size_is_not_believed(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = torch.load(checkpoint, weights_only=True)
        content["lightning_gan"]["generator"]["init_args"]["width"] = 100
        torch.save(content, checkpoint)
        built: list[Network] = []

        def noted(record: dict[str, Any]) -> Network:
            built.append(build(record))
            return built[-1]

        monkeypatch.setattr("lightning_gan.artefacts.trained.build", noted)
        with pytest.raises(UserError, match=r"size mismatch for dense\.weight"):
            read_generator(checkpoint)
        assert {x.device.type for network in built for x in network.state_dict().values()} == {"meta"}

    def test_a_png_of_five_channels(
        self, make_gan: Callable[..., GAN], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generator = make_gan(generator=DCGANGenerator((5, 8, 8), width=4, latent_dim=4)).average.generator
        state = {f"average.generator.{name}": tensor for name, tensor in generator.state_dict().items()}
        record = {"generator": generator.record, "discriminator": generator.record, "images_seen": 0}
        lightning = {"optimizer_states": [{}, {}], "global_step": 0, "callbacks": {}, "loops": {}}
        torch.save({"lightning_gan": record, "state_dict": state} | lightning, tmp_path / "five.ckpt")
        error = self.fails(capsys, "--ckpt_path", str(tmp_path / "five.ckpt"), "--output", str(tmp_path / "pictures"))
        assert error == "error: A PNG has 1 or 3 channels, and these images 5: name an .npz instead."
        samples = sample(tmp_path / "five.ckpt", tmp_path / "s.NPZ", "--num", "2")
        assert samples["arr_0"].shape == (2, 8, 8, 5)

    @pytest.mark.parametrize("checkpoint", [0], indirect=True)
    def test_a_truncated_checkpoint(self, checkpoint: Path) -> None:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
        with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
            read_generator(checkpoint)

    def test_a_checkpoint_of_something_else(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=r"other\.ckpt is not a checkpoint of lightning_gan"):
            read_generator(tmp_path / "other.ckpt")

    def test_a_malicious_pickle_is_not_executed(self, tmp_path: Path) -> None:
        class Malicious:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "executed",)

        torch.save({"lightning_gan": Malicious()}, tmp_path / "zip.ckpt")
        (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Malicious()))
        for name in ("zip.ckpt", "plain.ckpt"):
            with pytest.raises(UserError, match="not a checkpoint"):
                read_generator(tmp_path / name)
        assert not (tmp_path / "executed").exists()


def test_a_full_disk_leaves_nothing_behind(
    make_gan: Callable[..., GAN],
    make_trainer: Callable[..., Trainer],
    digits: DataModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_gan(), digits)
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    read = zipfile.ZipFile.open

    def full(archive: Any, name: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "w":
            raise OSError(28, "No space left on device")
        return read(archive, name, mode, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    assert main(["sample", "--ckpt_path", str(tmp_path / "last.ckpt"), "--output", str(tmp_path / "s.npz")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt"]
