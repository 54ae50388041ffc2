import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from benchmarks.roofline import busy_seconds, flop_counter, union
from lightning_gan.networks import R3GANDiscriminator
from lightning_gan.penalties import R1, critique


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_and_its_two_gradients_take_three_times_as_many_operations_as_it(groups: int, transposed: bool) -> None:
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    weight = torch.randn(8, 8 // groups, 3, 3, requires_grad=True)
    convolution = F.conv_transpose2d if transposed else F.conv2d
    with flop_counter() as counter:
        convolution(x, weight, padding=1, groups=groups).sum().backward()
    # For each of 2 x 6 x 6 places and 8 channels, a sum of 8 / groups x 3 x 3 products: a multiplication and an addition each.
    assert counter.get_total_flops() == 3 * (2 * 6 * 6 * 8) * (8 // groups * 3 * 3) * 2


def test_operations_of_a_penalty_are_counted() -> None:
    discriminator = R3GANDiscriminator((3, 8, 8), channels=[16, 16])
    x = torch.randn(2, 3, 8, 8)
    counts = []
    for penalty in (None, R1()):
        with flop_counter() as counter:
            p = critique(discriminator, x.requires_grad_(), x.detach())
            (p.real_logits.sum() + p.fake_logits.sum() + (0 if penalty is None else penalty(p).sum())).backward()
        counts.append(counter.get_total_flops())
    assert counts[1] > 1.3 * counts[0]


def test_time_in_which_several_things_run_counts_once() -> None:
    assert union([(5, 6), (0, 2), (1, 3), (1, 1.5)]) == 4
    assert union([]) == 0


def test_only_kernels_keep_the_device_busy(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    kernels = [{"cat": "kernel", "ts": 1e6, "dur": 2e6}, {"cat": "kernel", "ts": 2e6, "dur": 3e6}]
    others = [{"cat": "gpu_user_annotation", "ts": 0, "dur": 9e6}, {"cat": "gpu_memcpy", "ts": 0, "dur": 9e6}, {"ph": "M"}]
    trace.write_text(json.dumps({"traceEvents": kernels + others}))
    assert_close(busy_seconds(trace, "kernel"), 4.0)
