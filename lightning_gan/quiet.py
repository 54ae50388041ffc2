"""What the libraries say that is of no help to those who run a command."""

import logging
import warnings

UNHELPFUL_WARNINGS = [
    "The .srun. command is available on your system but is not used",  # there need be no cluster to use it for
    "The number of training batches",  # fewer than log_every_n_steps: ours counts across epochs
    "Found .* module.* in eval mode at the start of training",  # the averaged generator, on purpose
    "The .grad attribute of a Tensor that is not a leaf",  # torch's own look at it while it compiles
    # Between Lightning and jsonargparse, until the latter's version 5.
    r"\s*.* was deprecated in v4\.\d+\.\d+ and will be removed in\s+v5",
    r"\s*By default only one JsonargparseDeprecationWarning",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
]


def silence_libraries() -> None:
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in UNHELPFUL_WARNINGS:
        warnings.filterwarnings("ignore", message)
