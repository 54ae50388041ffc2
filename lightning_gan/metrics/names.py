"""What the scores are called, what they mean, and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What there is to know about a score before it is measured.

    Attributes:
        group: what it is put together with, for people.
        better: lower, higher, or near what; empty where neither end is better.
        meaning: in a few words.
        error: name of its standard error or deviation.
        of_features: whether it depends on the extractor, whose name is then a part of the score's.
    """

    group: str
    better: str
    meaning: str
    error: str | None = None
    of_features: bool = True


_DISTANCE = "Distance"
_FIDELITY = "Fidelity and variety"
_COPIES = "Memorisation and collapse"
_DISCRIMINATOR = "Discriminator"

SCORES = {
    "fid": Score(_DISTANCE, "lower", "Fréchet distance", "fid_se"),
    "kid": Score(_DISTANCE, "lower", "kernel distance", "kid_se"),
    "score": Score(_FIDELITY, "higher", "inception score", "score_std"),
    "precision": Score(_FIDELITY, "higher", "generated among real ones"),
    "recall": Score(_FIDELITY, "higher", "real among generated ones"),
    "density": Score(_FIDELITY, "higher", "how deep among real ones"),
    "coverage": Score(_FIDELITY, "higher", "real with generated ones near"),
    "copy_rate": Score(_COPIES, "lower", "copies of training images"),
    "nn_ratio": Score(_COPIES, "near 1", "distance to training images"),
    "duplicates": Score(_COPIES, "lower", "generated more than once"),
    "label_kl": Score(_COPIES, "lower", "divergence of class shares"),
    "modes": Score(_COPIES, "higher", "classes that are generated"),
    "d_gap": Score(_DISCRIMINATOR, "lower", "D's overfitting, 0 to 1", of_features=False),
    "d_accuracy": Score(_DISCRIMINATOR, "", "pairs that D orders rightly", of_features=False),
}
"""By base name, that without the extractor's; in the order in which they are shown."""

MEANINGS = {name: score.meaning for name, score in SCORES.items()}
LOWER_IS_BETTER = frozenset(name for name, score in SCORES.items() if score.better == "lower")
HIGHER_IS_BETTER = frozenset(name for name, score in SCORES.items() if score.better == "higher")

_OF_FEATURES = {name for name, score in SCORES.items() if score.of_features}
_OF_FEATURES |= {score.error for score in SCORES.values() if score.error} | {"fid_floor", "fid_floor_se"}


def logged_name(base: str, extractor: str) -> str:
    """Add the extractor's name to that of a score, so that numbers which do not compare are not called the same.

    Inception's is left out, as everywhere; and what D says, or a number of images, does not depend on an extractor.
    """
    return f"{base}_{extractor}" if base in _OF_FEATURES and extractor != "inception" else base
