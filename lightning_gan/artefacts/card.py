"""The model card of an exported generator: what it is, what it was measured at, and how to use it."""

import math
import re
from typing import Any

import yaml

from lightning_gan import scorecard
from lightning_gan.metrics.names import SCORES, logged_name
from lightning_gan.networks.base import Generator, StyleGenerator

UNKNOWN = "unknown"
"""The licence of what nobody has put under one, as model hubs call it."""
MAX_CLASSES = 50
"""That are named."""


def card(config: dict[str, Any], generator: Generator, scored: list[dict[str, Any]], recipe: str, web: bool) -> str:
    """Write the card in Markdown, below the lines of YAML that model hubs read.

    Args:
        config: that of the export.
        scored: contents of `.scores.json` files, of this generator.
        recipe: the `model` section of the run's configuration; may be empty.
        web: whether there is a web page beside it.
    """
    family = type(generator).__name__.removesuffix("Generator")
    name, _, _ = config["data"].get("description", "").partition(":")
    facts = {
        "license": config["licence"],
        "library_name": "lightning_gan",
        **({} if generator.num_classes else {"pipeline_tag": "unconditional-image-generation"}),
        "tags": ["gan", "image-generation", family.lower(), *(["onnx"] if config["onnx"] else [])],
    }
    sections = [
        f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---",
        f"# {family}" + (f" trained on {_plain(name)}" if name else ""),
        "![A grid of generated images" + (", each row of one class" * (generator.num_classes > 0)) + "](samples.png)",
        _facts(config, generator),
        "## Scores",
        *_scores(scored),
        "## Use",
        _use(config, generator, web),
        *(
            [
                "## Recipe",
                f"<details><summary>The run's `model`, as in its configuration</summary>\n\n```yaml\n{recipe}```\n\n</details>",
            ]
            if recipe
            else []
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(config: dict[str, Any], generator: Generator) -> str:
    channels, height, width = generator.image_shape
    parameters = sum(x.numel() for x in generator.parameters())
    latent = "standard normal" if generator.latent_distribution == "normal" else "uniform in [-1, 1]"
    average = "" if config["half_life"] is None else f", with a half-life of {config['half_life']:g} images"
    data = config["data"]
    licence = _plain(config["licence"])
    versions = {"lightning_gan": config["lightning_gan"]} | config["versions"]
    rows = {
        "images": f"{width} x {height} pixels, {channels} {'channel' if channels == 1 else 'channels'}",
        "classes": _classes(config["class_names"]),
        "latents": f"{generator.latent_dim} numbers, {latent}",
        "generator": f"`{type(generator).__name__}`, {parameters:,} parameters",
        "discriminator": f"`{config['discriminator']['class_path'].rpartition('.')[2]}`",
        "training": f"{config['images_seen']:,} images seen; weights averaged over training{average}",
        "training data": _plain(data.get("description", UNKNOWN)),
        "fingerprint of the data": f"`{data.get('fingerprint', UNKNOWN)}`",
        "licence": f"{UNKNOWN}: none was named when this was exported" if licence == UNKNOWN else licence,
        "made with": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _classes(names: list[str]) -> str:
    if not names:
        return "none: it is unconditional"
    if names == [str(number) for number in range(len(names))]:
        return f"0 to {len(names) - 1}"
    more = [f"and {len(names) - MAX_CLASSES:,} more in `config.json`"] * (len(names) > MAX_CLASSES)
    return ", ".join([*(f"{number} {_plain(name)}" for number, name in enumerate(names[:MAX_CLASSES])), *more])


def _scores(scored: list[dict[str, Any]]) -> list[str]:
    if not scored:
        return ["It had not been scored when it was exported."]
    introduction = (
        "Against the training images; beside them what as many held-out real images reach. Scores compare under one number of "
        "images, one digest of the extractor and one fingerprint of the data."
    )
    return [introduction, *(f"```\n{table_of(record)}\n```" for record in scored)]


def table_of(record: dict[str, Any]) -> str:
    """Lay out the content of a `.scores.json` file.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is something else.
    """
    named = {logged_name(base, record["extractor"]["name"]): base for base in (*SCORES, *_errors())}
    scores, floor = (
        {named[name]: math.nan if value is None else value for name, value in record[key].items() if name in named}
        for key in ("scores", "held_out_real")
    )
    return scorecard.table(scores, floor, record)


def _errors() -> list[str]:
    return [score.error for score in SCORES.values() if score.error]


def _use(config: dict[str, Any], generator: Generator, web: bool) -> str:
    module = config["generator"]["class_path"].rpartition(".")[0]
    own = not module.startswith("lightning_gan.")
    styles = isinstance(generator, StyleGenerator)
    parts = [
        "`generator.safetensors` and `config.json` hold the generator, and nothing but data. In Python, in this folder:",
        "```python\nimport lightning_gan\n"
        + (f"import {module}\n" if own else "")
        + '\ngenerator = lightning_gan.load_generator(".")  # a torch module\n'
        f"images = generator.sample(16, seed=0)  # uint8, (16, {', '.join(map(str, generator.image_shape))})\n```",
        "On the command line, where `--output` may be a folder for PNGs:",
        "```\npython -m lightning_gan sample --ckpt_path . --num 64 --output samples.npz"
        + (f" --module {module}" if own else "")
        + "\n```",
    ]
    if config["onnx"]:
        shape = f"(16, {generator.latent_dim})"
        draw = f"standard_normal({shape})" if generator.latent_distribution == "normal" else f"uniform(-1, 1, {shape})"
        inputs = [f'"z": np.random.default_rng(0).{draw}.astype(np.float32)']
        inputs += [f'"y": np.arange(16) % {generator.num_classes}'] if generator.num_classes else []
        inputs += ['"truncation": np.array(1, np.float32)'] if styles else []
        parts += [
            "In ONNX Runtime, without torch"
            + (", where a `truncation` of 1 is none and one of 0 gives the mean style" if styles else "")
            + f" (largest difference from PyTorch when it was exported: {config['onnx']['largest_difference']:.2g}):",
            "```python\nimport numpy as np\nimport onnxruntime\n\n"
            'session = onnxruntime.InferenceSession("generator.onnx")\n'
            f"inputs = {{{', '.join(inputs)}}}\n"
            '(images,) = session.run(["images"], inputs)  # float32, about -1 to 1\n'
            "pixels = np.rint((images.clip(-1, 1) + 1) * 127.5).astype(np.uint8)\n```",
        ]
    if web:
        parts.append("In a browser: open [index.html](index.html).")
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Write a text so that Markdown takes it for nothing else, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))
