import torch

from lightning_gan.data import Digits


def test_all_digits_are_there() -> None:
    data = Digits(conditional=True)
    assert data.image_shape == (1, 16, 16)
    assert data.num_classes == 10
    data.prepare_data()
    train, train_labels = data.images("train")
    test, test_labels = data.images("test")
    assert len(train) + len(test) == 1797
    assert 50 <= len(test) <= 130  # 5 % are 90
    assert train_labels is not None
    assert test_labels is not None
    assert sorted(set(train_labels.tolist())) == list(range(10))
    assert data.description == f"Digits: {len(train)} training images of 1x16x16, {len(test)} held out, 10 classes"


def test_the_range_is_black_to_white() -> None:
    images, _ = Digits(image_size=8, held_out=0).images("train")
    assert images.shape == (1797, 1, 8, 8)
    # The first digit's first lines, as scikit-learn shows it: 0 0 5 13 9 1 0 0 / 0 0 13 15 10 15 5 0, of 16.
    assert images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert images[0, 0, 1].tolist() == [0, 0, 207, 239, 159, 239, 80, 0]
    assert images.max() == 255


def test_equal_digits_are_on_the_same_side() -> None:
    """What is held out is chosen by content: a digit that is in both splits would be no test."""
    data = Digits(image_size=8, held_out=0.5)
    train, test = (torch.unique(data.images(split)[0].flatten(1), dim=0) for split in ("train", "test"))
    assert len(torch.unique(torch.cat([train, test]), dim=0)) == len(train) + len(test)
