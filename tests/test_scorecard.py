import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gan import scorecard
from lightning_gan.errors import UserError
from lightning_gan.metrics.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, MEANINGS, SCORES, logged_name

SCORES_OF_ALL = {
    "fid": 1.2345, "fid_se": 0.0321, "kid": 0.00123, "kid_se": 0.00034, "score": 7.012, "score_std": 0.053, "precision": 0.9123,
    "recall": 0.8312, "density": 1.0231, "coverage": 0.8801, "copy_rate": 0.0123, "nn_ratio": 1.0212, "duplicates": 0.0,
    "label_kl": 0.00213, "modes": 10, "d_gap": 0.1234, "d_accuracy": 0.7312,
}  # fmt: skip
FLOOR = {
    "fid": 0.08912, "kid": -0.00001, "score": 7.17, "precision": 0.93, "recall": 0.93, "density": 0.92, "coverage": 0.875,
    "copy_rate": 0.0146, "nn_ratio": 1.0, "duplicates": 0.0, "label_kl": 0.0002, "modes": 10,
}  # fmt: skip
RECORD = {
    "data": "MNIST: 60000 training images of 1x28x28, 10000 held out, 10 classes",
    "real": {"fingerprint": "ab" * 32, "train": 60_000, "held_out": 10_000},
    "samples": 50_000,
    "floor_samples": 10_000,
    "bank": 10_000,
    "copies": {"generated": 2_000, "train": 60_000},
    "num_classes": 10,
    "extractor": {"name": "classifier", "digest": "0123456789abcdef"},
    "seed": 3,
    "device": "cpu",
    "seconds": 31.4,
    "source": "runs/mnist-dcgan/0/checkpoints/best.ckpt",
    "images_seen": 1_500_000,
}

TABLE = """\
50,000 images of runs/mnist-dcgan/0/checkpoints/best.ckpt, seed 3, after 1,500,000 images seen
compared with MNIST: 60000 training images of 1x28x28, 10000 held out, 10 classes (fingerprint
  abababababababab)
by features of classifier (digest 0123456789abcdef)
beside 10,000 held-out real images
in 31 s on cpu

                         generated           held-out real  better
Distance
  fid_classifier          1.234   ± 0.032     0.0891        lower   Fréchet distance
  kid_classifier          0.00123 ± 0.00034  -0.000010      lower   kernel distance
Fidelity and variety
  score_classifier        7.012   ± 0.053     7.170         higher  inception score
  precision_classifier    0.912               0.930         higher  generated among real ones
  recall_classifier       0.831               0.930         higher  real among generated ones
  density_classifier      1.023               0.920         higher  how deep among real ones
  coverage_classifier     0.880               0.875         higher  real with generated ones near
Memorisation and collapse
  copy_rate_classifier    0.0123              0.0146        lower   copies of training images
  nn_ratio_classifier     1.021               1.000         near 1  distance to training images
  duplicates_classifier   0.000               0.000         lower   generated more than once
  label_kl_classifier     0.00213             0.000200      lower   divergence of class shares
  modes_classifier       10 of 10            10             higher  classes that are generated
Discriminator
  d_gap                   0.123                             lower   D's overfitting, 0 to 1
  d_accuracy              0.731                                     pairs that D orders rightly

There are only 10,000 held-out images. Their Fréchet distance is corrected to what 50,000 of them
  would have."""


def record(extractor: str = "classifier", **changed: Any) -> dict[str, Any]:
    return RECORD | {"extractor": {"name": extractor, "digest": "0123456789abcdef"}} | changed


def test_the_table() -> None:
    assert scorecard.table(SCORES_OF_ALL, FLOOR, record()) == TABLE
    assert max(map(len, TABLE.splitlines())) <= scorecard.WIDTH


def test_the_table_of_little() -> None:
    scores = {"fid": 123.456, "kid": math.nan, "recall": 0.5, "modes": 7}
    other = record("inception", source="theirs.npz", data="CelebA", floor_samples=0)
    del other["images_seen"], other["seed"]
    assert scorecard.table(scores, {}, other).splitlines() == [
        "50,000 images of theirs.npz",
        "compared with CelebA (fingerprint abababababababab)",
        "by features of inception (digest 0123456789abcdef)",
        "in 31 s on cpu",
        "",
        "          generated   better",
        "Distance",
        "  fid     123.46      lower   Fréchet distance",
        "Fidelity and variety",
        "  recall    0.500     higher  real among generated ones",
        "Memorisation and collapse",
        "  modes     7 of 10   higher  classes that are generated",
    ]


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (332.6312, 1.234, "332.6 ± 1.2"),
        (332.6312, 31.4, "333 ± 31"),
        (0.0891234, 0.00567, "0.0891 ± 0.0057"),
        (0.0891234, 0.0, "0.0891"),
        (0.0891234, math.nan, "0.0891"),
        (0.0891234, 1e-9, "0.0891"),
        (-0.002, 0.0031, "-0.0020 ± 0.0031"),
        (5e-9, math.nan, "0.000000"),
        (0.0, math.nan, "0.000"),
        (12345.678, math.nan, "12345.68"),
    ],
)
def test_digits_are_those_that_mean_something(value: float, error: float, shown: str) -> None:
    (line,) = (
        line
        for line in scorecard.table({"fid": value, "fid_se": error}, {}, record("inception")).splitlines()
        if line.startswith("  fid")
    )
    assert line.removeprefix("  fid").removesuffix("Fréchet distance").split() == [*shown.split(), "lower"]


def test_the_footnote_is_there_only_where_it_is_true() -> None:
    assert "is corrected" in scorecard.table({"fid": 1.0}, {"fid": 1.0}, record(floor_samples=49_999))
    assert "is corrected" not in scorecard.table({"fid": 1.0}, {"fid": 1.0}, record(floor_samples=50_000))
    assert "is corrected" not in scorecard.table({"fid": 1.0}, {}, record())
    assert "coverage and" not in scorecard.table({"fid": 1.0}, {"fid": 1.0}, record(floor_samples=10_000))
    assert "coverage and" in scorecard.table({"fid": 1.0}, {"fid": 1.0}, record(floor_samples=9_999))


def test_it_is_said_if_only_some_of_the_training_images_were_searched_for_copies() -> None:
    some = record(copies={"generated": 2_000, "train": 32_768})
    assert "among 32,768 of the 60,000 training images only" in scorecard.table(SCORES_OF_ALL, FLOOR, some)
    assert "training images only" not in scorecard.table(SCORES_OF_ALL, FLOOR, record())


def test_long_names_take_the_place_of_the_meanings() -> None:
    lines = scorecard.table(SCORES_OF_ALL, FLOOR, record("a_network_of_my_very_own")).splitlines()
    assert max(map(len, lines)) <= scorecard.WIDTH
    assert not any("copies of training images" in line for line in lines)
    very_long = scorecard.table(SCORES_OF_ALL, FLOOR, record("long" * 25))
    assert f"  fid_{'long' * 25}  " in very_long
    assert "0.0891        lower" in very_long


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.json"
    scorecard.write(
        path, {"fid": 1.5, "fid_se": math.nan, "d_gap": 0.25}, {"fid": 0.5}, record(settings=[math.inf, {"a": math.nan}])
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    written = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    assert written["scores"] == {"fid_classifier": 1.5, "fid_se_classifier": None, "d_gap": 0.25}
    assert written["held_out_real"] == {"fid_classifier": 0.5}
    assert written["settings"] == [None, {"a": None}]
    assert {key: written[key] for key in RECORD} == RECORD
    assert path.read_text("utf-8").startswith('{\n  "scores": {\n    "fid_classifier": 1.5,\n')
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


def test_an_older_file_stays_whole_until_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    scorecard.write(path, {"fid": 1.0}, {}, record())
    first = path.read_bytes()
    with pytest.raises(TypeError):
        scorecard.write(path, {"fid": 2.0}, {}, record(device=torch.device("cpu")))
    assert path.read_bytes() == first
    scorecard.write(path, {"fid": 2.0}, {}, record())
    assert json.loads(path.read_bytes())["scores"] == {"fid_classifier": 2.0}


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"scores.json could not be written: (Not a directory|File exists)\."):
        scorecard.write(tmp_path / "file" / "scores.json", {}, {}, record())


def test_versions() -> None:
    found = scorecard.versions()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert list(found) == ["lightning_gan", "python", "torch", "torchvision", "torchmetrics", "torch-fidelity"]
    assert all(found.values())


def test_names_say_what_numbers_compare() -> None:
    assert logged_name("fid", "inception") == "fid"
    assert logged_name("fid", "classifier") == "fid_classifier"
    assert logged_name("fid_floor", "classifier") == "fid_floor_classifier"
    assert logged_name("kid_se", "random") == "kid_se_random"
    assert logged_name("score_std", "random") == "score_std_random"
    assert logged_name("d_gap", "classifier") == "d_gap"
    assert logged_name("d_accuracy", "classifier") == "d_accuracy"


def test_directions() -> None:
    assert {"fid", "kid", "copy_rate", "duplicates", "label_kl", "d_gap"} == LOWER_IS_BETTER
    assert {"score", "precision", "recall", "density", "coverage", "modes"} == HIGHER_IS_BETTER
    assert SCORES.keys() - LOWER_IS_BETTER - HIGHER_IS_BETTER == {"nn_ratio", "d_accuracy"}
    assert MEANINGS.keys() == SCORES.keys()
