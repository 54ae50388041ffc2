"""What commands import. Each is a process of its own, as tests have imported everything long before."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_gan.artefacts import export
from lightning_gan.errors import UserError
from lightning_gan.first_look import look
from lightning_gan.gan import GAN

RUN = """
import json, sys
from lightning_gan.__main__ import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
print(json.dumps([status, sorted(sys.modules)]))
"""
TRAINER_NEEDS = {"pytorch_lightning", "torchmetrics", "lightning_gan.gan"}
TORCHMETRICS_IMPORTS = {"torchvision", "torch_fidelity", "scipy", "torch._dynamo"}
ONLY_TRAINING_NEEDS = {"wandb", "sklearn", "av", "torch._inductor.compile_fx"}
ONLY_EXPORTS_NEED = {"onnx", "onnxscript", "onnxruntime", "onnx_ir"}
ONLY_REPORTS_AND_SWEEPS_NEED = {"plotly", "sweeps"}
OF_TRAINING = {*TRAINER_NEEDS, *TORCHMETRICS_IMPORTS, *ONLY_TRAINING_NEEDS}
LIBRARIES = {"torch", "numpy", "PIL", "tqdm", *OF_TRAINING, *ONLY_EXPORTS_NEED, *ONLY_REPORTS_AND_SWEEPS_NEED}


def imported(folder: Path, *args: str, status: int) -> set[str]:
    run = subprocess.run([sys.executable, "-c", RUN, *args], cwd=folder, capture_output=True, text=True, check=True)
    got, modules = json.loads(run.stdout.splitlines()[-1])
    assert got == status, run.stderr
    return set(modules)


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--help"], 0),
        (["train"], 2),
        (["fit", "-c", "missing.yaml"], 2),
        (["fit", "-c", "broken.yaml"], 2),
        (["fit", "--resume=missing"], 2),
        (["test", "--ckpt_path", "missing.ckpt"], 2),
        (["evaluate", "--samples", "missing.npz"], 2),
        (["sample", "--help"], 0),
        (["sample", "--nmu", "3"], 2),
        (["sample", "--ckpt_path", "missing.ckpt"], 2),
        (["interpolate", "--ckpt_path", "missing.ckpt"], 2),
        (["export", "--help"], 0),
        (["export", "--ckpt_path", "missing.ckpt", "--output", "new"], 2),
        (["export", "--ckpt_path", "broken.yaml", "--output", "."], 2),
        (["evaluate", "--ckpt_path", "missing.ckpt"], 2),
        (["project", "--help"], 0),
        (["project", "broken.yaml", "--ckpt_path", "missing.ckpt"], 2),
        (["project", "missing.png", "--ckpt_path", "broken.yaml"], 2),
        (["report", "--help"], 0),
        (["report", "missing"], 2),
        (["sweep", "--help"], 0),
        (["sweep", "missing.yaml"], 2),
    ],
    ids=str,
)
def test_what_needs_no_library_imports_none(args: list[str], status: int, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("model: {")
    assert imported(tmp_path, *args, status=status) & LIBRARIES == set()


@pytest.mark.parametrize(("args", "status"), [(["fit", "--help"], 0), (["fit", "--foo", "3"], 2)], ids=str)
def test_options_of_the_trainer_need_what_declares_them_alone(args: list[str], status: int, tmp_path: Path) -> None:
    modules = imported(tmp_path, *args, status=status)
    assert modules >= TRAINER_NEEDS
    assert modules & (ONLY_TRAINING_NEEDS | ONLY_EXPORTS_NEED | ONLY_REPORTS_AND_SWEEPS_NEED) == set()


def save_checkpoint(path: Path, gan: GAN) -> None:
    record = {"generator": gan.generator.record, "discriminator": gan.discriminator.record, "images_seen": 0}
    content = {"lightning_gan": record, "state_dict": gan.state_dict(), "global_step": 0, "optimizer_states": [{}, {}]}
    torch.save(content | {"callbacks": {}, "loops": {}}, path)


@pytest.mark.parametrize("source", ["x.ckpt", "exported"])
@pytest.mark.parametrize(("command", "output"), [("sample", "x.npz"), ("interpolate", "x.png")])
def test_sampling_needs_torch_and_little_else(
    source: str, command: str, output: str, make_gan: Callable[..., GAN], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "x.ckpt", make_gan(num_classes=2))
    export.run(["--ckpt_path", str(tmp_path / "x.ckpt"), "--output", str(tmp_path / "exported"), "--onnx", "false"])
    modules = imported(tmp_path, command, "--ckpt_path", source, "--num", "2", "--output", output, status=0)
    assert modules & LIBRARIES == {"torch", "numpy", "PIL", "tqdm"}


def test_a_generator_is_loaded_without_the_trainer(make_gan: Callable[..., GAN], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.ckpt", make_gan())
    export.run(["--ckpt_path", str(tmp_path / "x.ckpt"), "--output", str(tmp_path / "exported"), "--onnx", "false"])
    code = "import json, sys, lightning_gan; print('torch' in sys.modules)\n"
    code += "lightning_gan.load_generator('exported').sample(2)\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    before, modules = run.stdout.splitlines()
    assert before == "False"
    assert set(json.loads(modules)) & LIBRARIES == {"torch", "numpy", "PIL", "tqdm"}


def test_of_an_option_that_is_given_twice_the_last_counts(tmp_path: Path) -> None:
    there = tmp_path / "there.ckpt"
    there.touch()
    for last in (["--ckpt_path", str(there)], [f"--ckpt_path={there}"]):
        look("fit", ["--ckpt_path=missing.ckpt", "--ckpt_path", "missing.ckpt", *last])
        with pytest.raises(UserError, match=r"There is no checkpoint missing\.ckpt"):
            look("fit", [*last, "--ckpt_path=missing.ckpt"])


def test_only_fit_resumes() -> None:
    look("evaluate", ["--resume", "nowhere"])  # its parser knows no such option
    with pytest.raises(UserError, match="does not exist"):
        look("fit", ["--resume", "nowhere"])
