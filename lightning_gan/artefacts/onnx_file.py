"""Generators as ONNX files, which other runtimes read: ONNX Runtime, browsers, phones."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gan.errors import UserError
from lightning_gan.networks.base import Generator, StyleGenerator
from lightning_gan.options import first_line
from lightning_gan.randomness import numbered_latents

OPSET = 18
LIMIT = 2**31 - 2**20
"""Bytes of weights in one file; protocol buffers hold no more than 2 GiB."""
TOLERANCE = 1e-3
"""Largest difference from PyTorch, for values of size up to 1: an eighth of the steps of 8-bit images."""
BATCHES = (1, 2, 7)
"""Numbers of images that the two are compared for."""
TRUNCATIONS = (1.0, 0.5, -1.0)


def write(path: Path, generator: Generator) -> dict[str, Any]:
    """Write a generator as an ONNX file, weights included, and compare what it gives in ONNX Runtime with PyTorch.

    Its inputs are `z`, float32 (N, latent_dim); `y`, int64 (N,), if it is conditional; and `truncation`, float32 (), if it has
    styles (1 = off). Its output is `images`, float32 (N, C, H, W) in about [-1, 1].

    Returns:
        `opset`, `largest_difference` and `batch_sizes`, for people who ask how it was checked.

    Raises:
        UserError: it is too large, cannot be exported, or differs.
        OSError: the file cannot be written.
    """
    if sum(x.nbytes for x in generator.state_dict().values()) > LIMIT:
        raise UserError("An ONNX file holds 2 GiB at most, and this generator is larger: leave it out with --onnx false.")
    name = type(generator).__name__
    with _quiet():
        try:
            path.write_bytes(_exported(generator))
            largest, relative = _differences(path, generator)
        except OSError:
            raise
        except Exception as error:  # whatever the exporter and the runtime trip over in a network of the user's
            reason = first_line(error)
            raise UserError(f"{name} cannot be exported to ONNX ({reason}): leave it out with --onnx false.") from error
    if not relative <= TOLERANCE:
        raise UserError(
            f"In ONNX Runtime {name} gives images that differ by up to {largest:.2g} from PyTorch's, of 2 from black to white: "
            "leave that file out with --onnx false."
        )
    return {"opset": OPSET, "largest_difference": largest, "batch_sizes": list(BATCHES)}


class _Graph(nn.Module):
    """What is exported: a generator with its truncation."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, y: Tensor | None = None, truncation: Tensor | None = None) -> Tensor:
        if truncation is not None and isinstance(self.generator, StyleGenerator):
            styles = self.generator.styles(z, y)
            return self.generator.synthesize(self.generator.mean_style.lerp(styles, truncation))
        return self.generator(z, y)  # type: ignore[no-any-return]  # torch types every module's output as Any


def _inputs(generator: Generator, n: int, truncation: float) -> dict[str, Tensor]:
    inputs = {"z": numbered_latents(generator.latents, 0, 0, n)}
    if generator.num_classes:
        inputs["y"] = torch.arange(n) % generator.num_classes
    if isinstance(generator, StyleGenerator):
        inputs["truncation"] = torch.tensor(truncation)
    return inputs


def _exported(generator: Generator) -> bytes:
    """Give the content of the file, without the paths of source files that the exporter notes at each node."""
    import onnx

    inputs = _inputs(generator, 2, 0.5)
    shapes = {name: {0: "N"} if x.ndim else {} for name, x in inputs.items()}
    program = torch.onnx.export(
        _Graph(generator).eval(),
        kwargs=inputs,
        dynamic_shapes=shapes,
        input_names=list(inputs),
        output_names=["images"],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    model.doc_string = ""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


@torch.no_grad()
def _differences(path: Path, generator: Generator) -> tuple[float, float]:
    """Compare ONNX Runtime's images with PyTorch's: the largest difference, and that relative to values above 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()  # it would pin threads to cores, and complain where it must not
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    differences = []
    for n in BATCHES:
        for truncation in TRUNCATIONS if isinstance(generator, StyleGenerator) else TRUNCATIONS[:1]:
            inputs = _inputs(generator, n, truncation)
            expected = _Graph(generator)(**inputs)
            (images,) = session.run(["images"], {name: x.numpy() for name, x in inputs.items()})
            if images.shape != expected.shape:
                return float("inf"), float("inf")
            largest = (torch.from_numpy(images) - expected).abs().nan_to_num(nan=torch.inf).max()
            differences.append((largest.item(), (largest / expected.abs().max().clamp(min=1)).item()))
    absolute, relative = zip(*differences, strict=True)
    return max(absolute), max(relative)


@contextmanager
def _quiet() -> Iterator[None]:
    """Withhold what the exporter logs, prints and warns of, which is about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
