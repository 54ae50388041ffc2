from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_gan.data import CelebA
from lightning_gan.errors import UserError

N = 24
PARTITION = "".join(f"{i:06}.jpg {0 if i <= 18 else 1 if i <= 20 else 2}\n" for i in range(1, N + 1))
ATTRIBUTES = f"{N}\nBlond_Hair Smiling Young \n" + "".join(
    f"{i:06}.jpg  1 {1 if i % 4 == 0 else -1:2} -1\n" for i in range(1, N + 1)
)
IDENTITIES = "".join(f"{i:06}.jpg {[9, 10, 2][i % 3]}\n" for i in range(1, N + 1))


def grey(i: int) -> int:
    return 10 * i


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Faces of one colour each, the i-th (from 1) of grey 10 i, with a strip above and below that the crop removes."""
    folder = tmp_path / "data" / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(1, N + 1):
        face = np.full((218, 178, 3), 255 - grey(i), dtype=np.uint8)
        face[16:202] = grey(i)  # a few lines more than are cut out, since JPEG blurs edges
        Image.fromarray(face).save(folder / f"{i:06}.jpg", quality=100, subsampling=0)
    return tmp_path / "data"


def greys(data: CelebA, split: str) -> list[int]:
    images, _ = data.images(split)  # type: ignore[arg-type]
    return [round(image) for image in images.float().mean((1, 2, 3)).tolist()]


def test_only_the_images(root: Path) -> None:
    data = CelebA(str(root))
    assert data.image_shape == (3, 64, 64)
    assert data.num_classes == 0
    assert data.horizontal_flip
    train, test = greys(data, "train"), greys(data, "test")
    assert sorted(train + test) == [grey(i) for i in range(1, N + 1)]
    assert len(test) >= 1
    assert data.images("train")[1] is None


def test_the_crop_is_178_by_default(root: Path) -> None:
    assert all(image.max() - image.min() <= 2 for image in CelebA(str(root), held_out=0).images("train")[0])
    larger, _ = CelebA(str(root), crop=218, held_out=0).images("train")  # of which there is only the width
    assert all(image.max() - image.min() <= 2 for image in larger)
    smaller, _ = CelebA(str(root), crop=16, image_size=16, held_out=0).images("train")
    assert smaller.shape == (N, 3, 16, 16)


@pytest.mark.parametrize("below", ["celeba", "celeba/img_align_celeba"])
def test_the_root_may_be_further_down(root: Path, below: str) -> None:
    (root / "celeba" / "list_eval_partition.txt").write_text(PARTITION)
    assert CelebA(str(root / below)).fingerprint == CelebA(str(root)).fingerprint
    assert len(CelebA(str(root / below)).images("train")[0]) == 18


def test_the_official_partition(root: Path) -> None:
    (root / "celeba" / "list_eval_partition.txt").write_text(PARTITION)
    assert greys(CelebA(str(root)), "train") == [grey(i) for i in range(1, 19)]
    assert greys(CelebA(str(root)), "test") == [grey(i) for i in range(21, 25)]
    everything = CelebA(str(root), split="all", held_out=0)
    assert greys(everything, "train") == [grey(i) for i in range(1, N + 1)]


def test_an_attribute_gives_two_classes(root: Path) -> None:
    (root / "celeba" / "list_attr_celeba.txt").write_text(ATTRIBUTES)
    data = CelebA(str(root), attribute="Smiling", conditional=True, held_out=0)
    assert data.num_classes == 2
    assert data.class_names == ["not Smiling", "Smiling"]
    _, labels = data.images("train")
    assert labels is not None
    assert labels.tolist() == [int(i % 4 == 0) for i in range(1, N + 1)]
    assert CelebA(str(root), attribute="Smiling").num_classes == 0


def test_kaggles_copy_of_the_tables(root: Path) -> None:
    lines = ATTRIBUTES.splitlines()[1:]
    table = "\n".join(",".join(line.split()) for line in [f"image_id {lines[0]}", *lines[1:]])
    (root / "celeba" / "list_attr_celeba.csv").write_text(table)
    (root / "celeba" / "list_eval_partition.csv").write_text("image_id,partition\n" + PARTITION.replace(" ", ","))
    data = CelebA(str(root), attribute="Smiling")
    images, labels = data.images("train")
    assert len(images) == 18
    assert labels is not None
    assert labels.tolist() == [int(i % 4 == 0) for i in range(1, 19)]


def test_identities(root: Path) -> None:
    (root / "celeba" / "identity_CelebA.txt").write_text(IDENTITIES)
    data = CelebA(str(root), attribute="identity", conditional=True, held_out=0)
    assert data.class_names == ["2", "9", "10"]
    assert data.num_classes == 3
    _, labels = data.images("train")
    assert labels is not None
    assert labels[:3].tolist() == [2, 0, 1]  # persons 10, 2, 9


def test_what_can_be_missing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CelebA is not in .*/nowhere: .* holds celeba/img_align_celeba/000001\.jpg"):
        CelebA(str(tmp_path / "nowhere")).prepare_data()
    (tmp_path / "empty" / "img_align_celeba").mkdir(parents=True)
    with pytest.raises(UserError, match=r"img_align_celeba holds no images"):
        CelebA(str(tmp_path / "empty")).prepare_data()
    with pytest.raises(UserError, match=r"--data\.attribute=Smiling needs list_attr_celeba\.txt, which is not in .*/celeba"):
        CelebA(str(root), attribute="Smiling").prepare_data()
    with pytest.raises(UserError, match=r"--data\.attribute=identity needs identity_CelebA\.txt"):
        CelebA(str(root), attribute="identity").prepare_data()
    with pytest.raises(UserError, match=r"--data\.conditional needs classes: say which with --data\.attribute"):
        CelebA(str(root), conditional=True)


def test_an_unknown_attribute(root: Path) -> None:
    (root / "celeba" / "list_attr_celeba.txt").write_text(ATTRIBUTES)
    with pytest.raises(UserError, match=r"--data\.attribute=Smilling is not known to CelebA; there is Smiling, and identity"):
        CelebA(str(root), attribute="Smilling").prepare_data()


def test_tables_of_another_copy(root: Path) -> None:
    (root / "celeba" / "list_eval_partition.txt").write_text(PARTITION.replace("000003.jpg", "900003.jpg"))
    with pytest.raises(UserError, match=r"list_eval_partition does not list 000003\.jpg"):
        CelebA(str(root)).prepare_data()
