import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from lightning_gan.data.decode import Preprocessing
from lightning_gan.errors import UserError

GREY = Preprocessing(size=2, channels=1)
COLOUR = Preprocessing(size=1, channels=3)


def reopened(image: Image.Image, format: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(file)


def colour(preprocessing: Preprocessing, image: Image.Image) -> list[int]:
    return [int(value) for value in preprocessing(image)[:, 0, 0]]


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_an_image_of_the_right_size_is_unchanged() -> None:
    grey, rgb = noise(8, 8), noise(8, 8, 3)
    np.testing.assert_array_equal(Preprocessing(8, 1)(Image.fromarray(grey)), grey[None])
    np.testing.assert_array_equal(Preprocessing(8, 3)(Image.fromarray(rgb)), rgb.transpose(2, 0, 1))


def test_the_central_square_is_cut_out() -> None:
    wide = np.arange(2 * 6, dtype=np.uint8).reshape(2, 6)
    np.testing.assert_array_equal(GREY(Image.fromarray(wide))[0], [[2, 3], [8, 9]])
    np.testing.assert_array_equal(GREY(Image.fromarray(wide.T.copy()))[0], [[2, 8], [3, 9]])
    square = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(Preprocessing(2, 1, crop=2)(Image.fromarray(square))[0], [[5, 6], [9, 10]])


def test_a_crop_larger_than_the_image_takes_what_there_is() -> None:
    pixels = noise(2, 2)
    np.testing.assert_array_equal(Preprocessing(2, 1, crop=178)(Image.fromarray(pixels))[0], pixels)


def test_resizing_averages() -> None:
    pixels = np.array([[0, 100], [100, 200]], dtype=np.uint8)
    assert Preprocessing(1, 1, resample="box")(Image.fromarray(pixels)).item() == 100


@pytest.mark.parametrize("shape", [(218, 178), (217, 178), (300, 401)])
def test_agrees_with_torchvision(shape: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*shape, 3))
    theirs = v2.Compose([v2.CenterCrop(178), v2.Resize(64)])(image)
    np.testing.assert_array_equal(Preprocessing(64, 3, crop=178)(image), np.asarray(theirs).transpose(2, 0, 1))


def test_orientation_is_applied() -> None:
    image = Image.fromarray(np.array([[10, 20], [30, 40]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    np.testing.assert_array_equal(GREY(reopened(image, "PNG", exif=exif))[0], [[30, 10], [40, 20]])


def test_transparency_shows_the_background() -> None:
    invisible_red = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert colour(COLOUR, invisible_red) == [255, 255, 255]
    assert colour(Preprocessing(1, 3, background="#0000ff"), invisible_red) == [0, 0, 255]
    half_black = Image.new("LA", (1, 1), (0, 128))
    assert colour(COLOUR, half_black) == [127, 127, 127]
    palette = reopened(Image.new("P", (1, 1), 0), "PNG", transparency=0)
    assert palette.mode == "P"
    assert colour(COLOUR, palette) == [255, 255, 255]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    pixels = np.array([[0, 256], [32896, 65535]], dtype=np.uint16)  # 32896 = 128 * 257
    for image in (reopened(Image.fromarray(pixels), "PNG"), Image.fromarray(pixels.astype(np.int32))):
        assert image.mode.startswith("I")
        np.testing.assert_array_equal(GREY(image)[0], [[0, 1], [128, 255]])


def test_other_modes() -> None:
    assert colour(COLOUR, Image.new("CMYK", (1, 1), (0, 255, 255, 0))) == [255, 0, 0]
    assert colour(COLOUR, Image.new("1", (1, 1), 1)) == [255, 255, 255]
    assert colour(COLOUR, Image.new("L", (1, 1), 7)) == [7, 7, 7]
    assert GREY(Image.new("RGB", (2, 2), (255, 255, 255))).tolist() == [[[255, 255], [255, 255]]]


def test_the_first_frame_of_an_animation() -> None:
    red, blue = Image.new("RGB", (1, 1), "red"), Image.new("RGB", (1, 1), "blue")
    assert colour(COLOUR, reopened(red, "GIF", save_all=True, append_images=[blue])) == [255, 0, 0]


@pytest.mark.parametrize("pixels", [np.zeros((2, 2), np.float32), np.full((2, 2), 70_000, np.int32)])
def test_pixels_of_unknown_range_are_refused(pixels: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="unknown range"):
        GREY(Image.fromarray(pixels))


def test_impossible_options() -> None:
    with pytest.raises(UserError, match=r"--data\.image_size must be at least 1, not 0"):
        Preprocessing(0, 3)
    with pytest.raises(UserError, match=r"--data\.crop must be at least 1, not -1"):
        Preprocessing(64, 3, crop=-1)
    with pytest.raises(UserError, match=r"--data\.background=mauvish is not a colour"):
        Preprocessing(64, 3, background="mauvish")
