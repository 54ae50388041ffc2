"""The web page of a generator, in a real browser where there is one, with the real runtime where it can be had."""

import io
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from lightning_gan.artefacts import web
from lightning_gan.artefacts.export import export
from lightning_gan.data.cache import default_folder
from lightning_gan.errors import UserError
from lightning_gan.images import to_uint8
from lightning_gan.interpolation import slerp
from lightning_gan.networks import DCGANGenerator
from lightning_gan.networks.base import Generator
from lightning_gan.sampling import truncated, truncated_normal
from tests.artefacts.generators import save_checkpoint, trained
from tests.browser import browser, opened  # noqa: F401  # the fixture

USERS_CACHE, USERS_HOME = default_folder(), os.environ.get("HOME", "")  # before the tests are kept off them
HOSTILE = ["zero", "</script><img src=x onerror=throw>", "&lt;two"]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with the real runtime: the user's if it is there, or else npm's."""
    cache = tmp_path_factory.mktemp("runtime")
    there = USERS_CACHE / f"onnxruntime-web-{web.version()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_GAN_CACHE", str(cache))
        if there.is_dir():
            shutil.copytree(there, cache / there.name)
        else:
            patch.setenv("HOME", USERS_HOME)  # where npm is told of its registry
            patch.setenv("npm_config_fetch_retries", "0")
            try:
                web.runtime()
            except UserError as error:
                pytest.skip(str(error))
        yield cache


def exported(folder: Path, generator: Generator, class_names: list[str]) -> Path:
    facts = {"class_names": class_names, "description": "Tests & trials: 3 images"}
    export(save_checkpoint(folder / "last.ckpt", generator, **facts), folder / "export", licence="cc0-1.0", web=True)
    return folder / "export" / "index.html"


@contextmanager
def running(browser: Any, page: Path, **context: Any) -> Iterator[Any]:  # noqa: F811  # the fixture's value
    with opened(browser, page, **context) as tab:
        tab.evaluate("async () => { while (!window.generator) await new Promise(requestAnimationFrame) }")
        yield tab


def evaluate(tab: Any, expression: str, *arguments: Any) -> Any:
    """Call a function of the page with lists for tensors."""
    plain = [x.tolist() if isinstance(x, Tensor) else x for x in arguments]
    return tab.evaluate(f"async (x) => {{ const y = await ({expression})(...x); return y?.map ? Array.from(y) : y }}", plain)


def shown(tab: Any) -> Tensor:
    """The pixels of the large image, uint8 (H, W, 3)."""
    size, pixels = tab.evaluate(
        "() => { const c = document.getElementById('image');"
        "return [[c.height, c.width], Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)] }"
    )
    return torch.tensor(pixels, dtype=torch.uint8).view(*size, 4)[..., :3]


def settled(tab: Any, generator: Generator) -> Tensor:
    """Wait until the page shows the image of what it is set to, as PyTorch makes it, and return it."""
    state = evaluate(tab, "() => { const s = generator.current(); return { ...s, z: Array.from(s.z) } }")
    z, y = torch.tensor([state["z"]]), torch.tensor([state["y"]]) if generator.num_classes else None
    expected = to_uint8(truncated(generator, z, y, state["truncation"]))[0].expand(3, -1, -1).permute(1, 2, 0)
    for _ in range(200):
        if (expected.int() - shown(tab).int()).abs().max() <= 1:
            return shown(tab)
        tab.wait_for_timeout(10)
    raise AssertionError("the page shows another image")


@pytest.fixture(scope="module")
def plain(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Path]:
    generator = trained("dcgan", shape=(1, 8, 8))
    return generator, exported(tmp_path_factory.mktemp("plain"), generator, [])


@pytest.fixture(scope="module")
def styled(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Path]:
    generator = trained("stylegan2", 3, (3, 8, 8))
    return generator, exported(tmp_path_factory.mktemp("styled"), generator, HOSTILE)


class TestPage:
    def test_its_images_are_those_of_pytorch(self, browser: Any, plain: Any, styled: Any) -> None:  # noqa: F811
        call = "(z, y, psi) => generator.images(z, y, psi)"
        for (generator, page), truncations in [(plain, [None, 0.7]), (styled, [None, 0.4, 0.0])]:
            z, y = torch.randn(3, generator.latent_dim), torch.tensor([2, 0, 1])
            with running(browser, page) as tab:
                for psi in truncations:
                    images = torch.tensor(evaluate(tab, call, z, y, psi)).view(3, *generator.image_shape)
                    expected = truncated(generator, z, y if generator.num_classes else None, psi)
                    assert_close(images, expected, atol=1e-5, rtol=1e-4)

    def test_mathematics(self, browser: Any, plain: Any) -> None:  # noqa: F811
        _, page = plain
        with running(browser, page) as tab:
            z = torch.cat([torch.linspace(-6, 6, 101), torch.tensor([-50.0, 50])])
            for psi in (0.05, 0.7, 2.0, 3.0):
                got = evaluate(tab, "(z, psi) => generator.truncatedNormal(z, psi)", z, psi)
                assert_close(torch.tensor(got), truncated_normal(z, psi), atol=1e-6, rtol=1e-5)
            for a, b in torch.tensor([[[3.0, 4, 0], [0, 0, 1]], [[1, 2, 3], [-1, -2, -3]], [[1, 2, 3], [2, 4, 6]]]):
                for t in (0.0, 0.3, 1.0):
                    got = evaluate(tab, "(a, b, t) => generator.slerp(a, b, t)", a, b, t)
                    assert_close(torch.tensor([got], dtype=torch.float32), slerp(a[None], b[None], torch.tensor([[t]])))

    def test_latents_are_normal_or_uniform_and_unrelated(self, browser: Any, plain: Any) -> None:  # noqa: F811
        _, page = plain
        draw = "(kind) => [0, 1, 2].flatMap(s => [0, 1].map(i => Array.from(generator.drawLatent(s, i, 4000, kind))))"
        with running(browser, page) as tab:
            for kind, std in (("normal", 1.0), ("uniform", 3**-0.5)):
                z = torch.tensor(evaluate(tab, draw, kind))
                assert_close(z.mean(1), torch.zeros(6), atol=0.08, rtol=0)
                assert_close(z.std(1), torch.full((6,), std), atol=0.05, rtol=0)
                assert_close(torch.corrcoef(z), torch.eye(6), atol=0.08, rtol=0)
            assert z.abs().max() <= 1

    def test_sliders_truncation_and_walk_change_the_image(self, browser: Any, plain: Any) -> None:  # noqa: F811
        generator, page = plain
        with running(browser, page) as tab:
            first = settled(tab, generator)
            slider = tab.get_by_label("Direction 1", exact=True)
            before = float(slider.input_value())
            slider.press("End")
            moved = settled(tab, generator)
            assert abs(float(slider.input_value()) - 3) < 1e-5
            assert not torch.equal(moved, first)
            tab.get_by_role("button", name="Reset").click()
            assert torch.equal(settled(tab, generator), first)
            assert abs(float(slider.input_value()) - before) < 1e-6

            tab.get_by_label("Truncation").press("Home")
            assert not torch.equal(settled(tab, generator), first)
            tab.get_by_label("Truncation").press("End")
            assert torch.equal(settled(tab, generator), first)

            tab.get_by_role("button", name="Walk").click()
            tab.wait_for_timeout(300)
            tab.get_by_role("button", name="Pause").click()
            paused = settled(tab, generator)
            assert not torch.equal(paused, first)
            tab.wait_for_timeout(100)
            assert torch.equal(settled(tab, generator), paused)

    def test_samples(self, browser: Any, plain: Any) -> None:  # noqa: F811
        generator, page = plain
        with running(browser, page) as tab:
            samples = tab.locator("#grid button")
            assert samples.count() == 36
            first = settled(tab, generator)
            tab.get_by_role("button", name="Sample 7", exact=True).click()
            seventh = settled(tab, generator)
            assert not torch.equal(seventh, first)
            assert tab.locator("[aria-pressed=true]").get_attribute("aria-label") == "Sample 7"
            tab.get_by_label("Images").fill("9")
            tab.get_by_label("Images").blur()
            assert samples.count() == 9
            assert torch.equal(settled(tab, generator), seventh)  # latent 7 is the same whatever their number
            tab.get_by_text("Next seed").click()
            assert tab.get_by_label("Seed").input_value() == "1"
            second = settled(tab, generator)
            assert not torch.equal(second, first)
            tab.get_by_label("Images").fill("0")
            tab.get_by_text("Next seed").click()
            assert samples.count() == 9
            assert torch.equal(settled(tab, generator), second)

    def test_classes(self, browser: Any, styled: Any) -> None:  # noqa: F811
        generator, page = styled
        with running(browser, page) as tab:
            first = settled(tab, generator)
            assert tab.get_by_role("radio").count() == 3
            for name in HOSTILE[1:]:
                tab.get_by_role("radio", name=name, exact=True).check()
                assert not torch.equal(settled(tab, generator), first)
            tab.get_by_label("Truncation").press("Home")  # the mean style: classes no longer count
            mean = settled(tab, generator)
            tab.get_by_role("radio", name="zero").check()
            assert torch.equal(settled(tab, generator), mean)
            tab.get_by_role("combobox").select_option(label=HOSTILE[1])
            assert tab.get_by_role("button", name="Sample 5").get_attribute("aria-label") == f"Sample 5, class {HOSTILE[1]}"

    def test_what_is_saved_is_what_is_shown(self, browser: Any, styled: Any) -> None:  # noqa: F811
        _, page = styled
        with running(browser, page) as tab:
            with tab.expect_download() as download:
                tab.get_by_text("Save as PNG").click()
            assert download.value.suggested_filename == "seed-0-sample-1.png"
            saved = Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB")
            assert torch.equal(torch.frombuffer(bytearray(saved.tobytes()), dtype=torch.uint8).view(8, 8, 3), shown(tab))
            assert shown(tab).float().std() > 10

    def test_uniform_latents_stay_where_they_are_drawn(self, browser: Any, runtime: Path, tmp_path: Path) -> None:  # noqa: F811
        generator = trained("mlp", shape=(1, 6, 5), latent_dim=3, latent_distribution="uniform")
        with running(browser, exported(tmp_path, generator, [])) as tab:
            assert tab.get_by_label("Truncation").count() == 0 or not tab.get_by_label("Truncation").is_visible()
            beyond = torch.tensor([[2.0, -0.5, -3.0]])
            images = torch.tensor(evaluate(tab, "(z) => generator.images(z, [0])", beyond)).view(1, 1, 6, 5)
            assert_close(images, generator(beyond.clamp(-1, 1)), atol=1e-5, rtol=1e-4)

    def test_it_asks_for_nothing_and_fits_a_phone(self, browser: Any, styled: Any) -> None:  # noqa: F811
        _, page = styled
        assert "://" not in page.read_text()
        with running(browser, page, viewport={"width": 360, "height": 700}) as tab:
            assert tab.evaluate("document.documentElement.scrollWidth") <= 360
            loaded = tab.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
            assert all(name.startswith("blob:") for name in loaded)
            assert tab.title() == tab.get_by_role("heading", level=1).inner_text() == "StyleGAN2 trained on Tests & trials"
            nameless = "e => !(e.ariaLabel || e.labels?.length || e.textContent.trim())"
            assert (
                tab.evaluate(f"Array.from(document.querySelectorAll('button, input, select')).filter({nameless}).length") == 0
            )


class Ridge(Generator):
    """Each pixel is a ridge: a function of one and the same coordinate of z."""

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return (z @ torch.tensor([[0.6], [-0.8], [0.0]]) * torch.tensor([1.0, 2, 3, 4])).sin().view(-1, 1, 2, 2)


class Stretch(Generator):
    """The derivative of the image by z has singular values 9, 3 and 1, along the axes 2, 0 and 1."""

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.nn.functional.pad(z * torch.tensor([3.0, 1, 9]), (0, 1)).view(-1, 1, 2, 2)


class TestDirections:
    def test_a_ridge_has_one(self) -> None:
        first = web.directions(Ridge((1, 2, 2), latent_dim=3))[0]
        assert_close(first, torch.tensor([-0.6, 0.8, 0.0]))  # its largest number is positive

    def test_they_come_in_the_order_of_what_they_change(self) -> None:
        found = web.directions(Stretch((1, 2, 2), latent_dim=3), probes=2048)
        assert_close(found, torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), atol=0.1, rtol=0)
        assert_close(found @ found.T, torch.eye(3), atol=1e-6, rtol=0)

    def test_classes_are_gone_through(self) -> None:
        generator = DCGANGenerator((1, 8, 8), 3, latent_dim=4, width=4).eval()
        assert web.directions(generator, count=2).shape == (2, 4)
        assert torch.equal(web.directions(generator), web.directions(generator))


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that takes a while, notes that it was called, and installs made-up files."""
    log, tools = tmp_path / "log", tmp_path / "tools"
    tools.mkdir()
    (tools / "npm").write_text(
        f'#!/bin/sh\necho "$@" $(cat package.json) >> {log}\nsleep 0.2\nD=node_modules/onnxruntime-web/dist\nmkdir -p $D\n'
        f"for f in {' '.join(web.RUNTIME)} other.js; do echo $f > $D/$f; done\n"
    )
    (tools / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("LIGHTNING_GAN_CACHE", str(tmp_path / "cache"))
    return log


class TestRuntime:
    def test_npm_is_asked_once_even_by_two(self, npm: Path) -> None:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: web.runtime(), range(2))
        assert first == second == web.runtime()
        assert [path.read_text() for path in first] == [f"{name}\n" for name in web.RUNTIME]
        (call,) = npm.read_text().splitlines()
        assert f'"onnxruntime-web": "{web.version()}"' in call
        assert "--ignore-scripts" in call
        kept = sorted(path.name for path in first[0].parent.parent.rglob("*") if path.is_file() and path.suffix != ".lock")
        assert kept == sorted(web.RUNTIME)

    def test_without_npm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIGHTNING_GAN_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match=r"npm, which is not there: install Node\.js, or copy .*/cache/onnxruntime-web-"):
            web.runtime()

    def test_a_failing_npm(self, npm: Path, tmp_path: Path) -> None:
        (tmp_path / "tools" / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
        with pytest.raises(UserError, match=r"could not install onnxruntime-web .* \(code ENOTFOUND\): see that it"):
            web.runtime()
        assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []

    def test_an_npm_that_brings_something_else(self, npm: Path, tmp_path: Path) -> None:
        (tmp_path / "tools" / "npm").write_text("#!/bin/sh\nmkdir -p node_modules/onnxruntime-web/dist\n")
        with pytest.raises(UserError, match=r"could not install onnxruntime-web .* \(status 0\)"):
            web.runtime()

    def test_a_cache_that_cannot_be_written(self, npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("LIGHTNING_GAN_CACHE", str(tmp_path / "file"))
        with pytest.raises(UserError, match=r"cannot be kept in .*/file: .* LIGHTNING_GAN_CACHE"):
            web.runtime()

    def test_a_runtime_that_is_not_whole(self, npm: Path) -> None:
        _, wasm = web.runtime()
        wasm.unlink()
        with pytest.raises(UserError, match=r"is not whole, as .*\.wasm is missing: remove the folder"):
            web.runtime()

    def test_a_generator_too_large_for_a_page(self, tmp_path: Path) -> None:
        with (tmp_path / "generator.onnx").open("wb") as file:
            file.truncate(web.LIMIT + 1)
        with pytest.raises(UserError, match=r"generator\.onnx is larger than the 256 MiB"):
            web.write(tmp_path, {}, tmp_path / "generator.onnx")
