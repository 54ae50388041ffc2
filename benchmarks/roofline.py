"""How much arithmetic there is, how fast the device does it, and for how long it does any."""

import json
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


class Everywhere(nullcontext[None]):
    """Stands in for the counter's eye on which module an operation is of, which fails where `autograd.grad` meets a leaf."""

    parents = frozenset({"Global"})


def flop_counter() -> FlopCounterMode:
    """Make torch's counter of floating-point operations, right for penalties and grouped convolutions.

    torch takes the gradient by the weights of a convolution in g groups for g times what it is.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})
    counter.mod_tracker = Everywhere()  # type: ignore[assignment]  # it has what is asked for
    return counter


def _convolution_backward(
    g: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *config: Any, **_: Any
) -> int:
    """Each of the two gradients takes as much as the convolution."""
    _output_padding, _groups, (of_x, of_weight, _of_bias) = config
    return int((of_x + of_weight) * conv_flop_count(x, weight, g, transposed))


def matmul_rate(dtype: torch.dtype, device: torch.device, n: int) -> float:
    """Measure the operations a second of n x n matrix products, of float32 in TF32 where there is that."""
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # convolutions may take TF32 by default
    best = min(_seconds(lambda: a @ b, device) for _ in range(5))
    torch.set_float32_matmul_precision(before)
    return 2 * n**3 / best


def _seconds(way: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    way()
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        way()
    wait(device)
    return (time.perf_counter() - start) / repeats


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def busy_seconds(trace: Path, category: str) -> float:
    """Seconds in which anything of a category runs, in a trace that torch's profiler has exported."""
    events = json.loads(trace.read_text())["traceEvents"]
    return union((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("cat") == category) / 1e6


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of what is covered by intervals `(start, end)`."""
    length, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
