"""What W&B gets to know of a run, read back from the offline record."""

import csv
import json
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lightning_gan.__main__ import main
from lightning_gan.wandb_run import HIDDEN
from tests.wandb_record import Record, records_of

# A GAN of a few steps is not a healthy one.
pytestmark = pytest.mark.filterwarnings("ignore:(G has collapsed|D has won|G repeats training images) after")

SMALL = [
    *("--data.image_size", "8", "--data.batch_size", "32", "--max_images", "960", "--trainer.accelerator", "cpu"),
    *("--model.generator.width", "4", "--model.discriminator.width", "4", "--evaluation.extractor", "Random"),
    *("--evaluation.num_samples", "64", "--evaluation.every_images", "320", "--checkpoint.every_images", "320"),
    *("--samples.every_images", "480", "--walks.every_images", "640", "--walks.rows", "2", "--trainer.log_every_n_steps", "5"),
    *("--run_dir", "run", "--wandb", "offline", "--wandb_artifacts", "all"),
]
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "SLURM_JWT": "slurms-token",
    "AWS_SECRET_ACCESS_KEY": "the-cloud's-key",
    "MY_PASSWORD": "hunter-two",
}
COMMAND = [*SMALL, "--trainer.logger.api_key=theirs-by-option", "--trainer.logger.token", "theirs-after-option"]
IN_NETRC = "89abcdef0123456789abcdef0123456789abcdef"


class Run(NamedTuple):
    """A run that was taken back to a checkpoint before its end, as by a kill, gone on with and scored: four records.

    Attributes:
        folder: its own.
        records: of its first start, of that from the checkpoint, of one that goes on, and of `test`.
    """

    folder: Path
    records: list[Record]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for record in self.records for row in record.rows]

    @property
    def metrics(self) -> list[dict[str, float]]:
        with (self.folder / "metrics.csv").open(newline="") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.delenv("WANDB_DATA_DIR", raising=False)
        (folder / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {IN_NETRC}\n")
        (folder / ".netrc").chmod(0o600)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("SLURM_CLUSTER_NAME", "the-cluster")
        patch.setattr(sys, "argv", ["lightning_gan", "fit", *COMMAND])
        assert main(["fit", *SMALL]) == 0
        patch.setattr(sys, "argv", ["lightning_gan", "fit", "--resume", "run"])
        (folder / "run" / "DONE").unlink()
        checkpoints = folder / "run" / "checkpoints"
        (checkpoints / "previous.ckpt").replace(checkpoints / "last.ckpt")
        assert main(["fit", "--resume", "run"]) == 0
        assert main(["fit", "--resume", "run", "--max_images", "1280"]) == 0
        scored = ["-c", "run/config.yaml", "--ckpt_path", "run/checkpoints/best.ckpt", "--evaluation.test_samples", "96"]
        assert main(["test", *scored]) == 0
        assert os.environ["SLURM_JWT"] == SECRETS["SLURM_JWT"]
        yield Run(folder / "run", records_of(folder / "run"))


def test_it_is_one_run_whatever_is_done_to_it(run: Run) -> None:
    assert len(run.records) == 4
    ids = {start["run_id"] for record in run.records for start in record.of("run")}
    assert ids == {(run.folder / "wandb_id").read_text()}
    assert [record.of("run")[0].get("display_name") for record in run.records] == ["digits-dcgan"] * 3 + [None]  # kept
    assert [exit["exit_code"] for record in run.records for exit in record.of("exit")] == [0] * 4


def test_each_step_is_recorded_once_and_images_seen_is_the_axis(run: Run) -> None:
    steps = [row["_step"] for row in run.rows]
    assert all(a < b for a, b in pairwise(steps))
    assert [row["images_seen"] for row in run.rows] == [32 * (step + 1) if step else 0 for step in steps]
    assert [step for step in steps if step % 5 == 4] == list(range(4, 40, 5))
    metrics = run.records[0].of("metric")
    assert {"glob_name": "*", "options": {"defined": True, "step_sync": True}, "step_metric": "images_seen"} in metrics


def test_it_has_every_number_of_metrics_csv(run: Run) -> None:
    rows = {row["_step"]: row for row in run.rows}
    names: set[str] = set()
    for metrics in run.metrics:
        recorded = rows[int(metrics.pop("step"))]
        names |= set(metrics)
        for name, value in metrics.items():
            assert recorded[name] == pytest.approx(value, rel=1e-6), name
    assert names >= {
        *("loss/discriminator", "loss/generator", "penalty/r1", "logits/real", "logits/fake", "images_seen", "epoch"),
        *("grad_norm/discriminator", "grad_norm/generator"),
        *("fid_random", "fid_se_random", "fid_floor_random", "recall_random", "d_gap"),
    }


def test_it_knows_how_fast_training_is(run: Run) -> None:
    starts = [[row for row in record.rows if "loss/generator" in row] for record in run.records[:3]]
    assert all(row["throughput/images_per_second"] > 0 for rows in starts for row in rows)
    for rows in starts:
        assert all(a["throughput/hours"] < b["throughput/hours"] for a, b in pairwise(rows))
    with (run.folder / "speed.csv").open(newline="") as file:
        seconds = {int(row["images_seen"]): float(row["seconds"]) for row in csv.DictReader(file)}
    assert starts[-1][0]["throughput/hours"] * 3600 > seconds[960]  # it counts on from there; what was killed does not count


def test_its_pictures_and_films_are_those_of_the_run_folder(run: Run) -> None:
    shown = [
        (name, int(row["images_seen"]), row[f"{name}.sha256"])
        for row in run.rows
        for name in ("samples", "walks", "real")
        if f"{name}.path" in row
    ]
    there = [("real", 0, run.folder / "samples" / "real.png")]
    there += [("samples", int(path.stem), path) for path in run.folder.glob("samples/[0-9]*.png")]
    there += [("walks", int(path.stem), path) for path in run.folder.glob("walks/*.gif")]
    assert sorted(shown) == sorted((name, seen, sha256(path.read_bytes()).hexdigest()) for name, seen, path in there)
    assert len([name for name, _, _ in shown if name == "walks"]) == 3
    media = list(run.folder.glob("wandb/offline-run-*/files/media/*/*"))
    assert {sha256(path.read_bytes()).hexdigest() for path in media} == {digest for _, _, digest in shown}


def test_its_configuration_is_the_resolved_one(run: Run) -> None:
    config = run.records[0].config
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["model"]["generator"]["init_args"]["width"] == written["model"]["generator"]["init_args"]["width"] == 4
    assert config["model"]["generator_optimizer"]["init_args"]["lr"] == 2e-4  # a default
    assert set(written) - {"wandb_artifacts", "ckpt_path"} <= set(config) | {"weights_only", "verbose"}
    provenance = config["provenance"]
    fingerprint = json.loads((run.folder / "scores.json").read_text())["real"]["fingerprint"]
    assert provenance["data"]["fingerprint"] == fingerprint
    assert provenance["data"]["description"].startswith("Digits: 1725 training images of 1x8x8")
    assert {"commit", "dirty"} == set(provenance["code"])
    assert {"device", "processes", "precision", "torch", "python"} <= set(provenance["environment"])


def test_the_best_score_and_those_of_test_are_in_the_summary(run: Run) -> None:
    fids = {row["images_seen"]: row["fid_random"] for row in run.metrics if "fid_random" in row}
    assert sorted(fids) == [320, 640, 960, 1280]
    best: dict[str, Any] = {}
    for record in run.records:  # as uploaded, one after the other
        best |= {name: value for name, value in record.summary.items() if name.startswith("best/")}
    lowest = min(fids, key=lambda images_seen: fids[images_seen])
    assert best == {"best/fid_random": pytest.approx(fids[lowest]), "best/images_seen": lowest}
    (file,) = run.folder.glob("checkpoints/best.96-random.scores.json")
    scores = json.loads(file.read_text())["scores"]
    test = {name.removeprefix("test/"): value for name, value in run.records[-1].summary.items() if name.startswith("test/")}
    assert {name: test[name] for name in scores} == {name: pytest.approx(value) for name, value in scores.items()}
    assert (test["checkpoint"], test["images_seen"], test["samples"]) == ("best", lowest, 96)
    assert test["fid_floor_random"] > 0
    assert run.records[-1].rows == []


def test_alerts_are_those_of_events_jsonl(run: Run) -> None:
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    alerts = [(alert["title"], alert["text"], alert["level"]) for record in run.records for alert in record.of("alert")]
    assert alerts == [(event["kind"], event["text"], "WARN") for event in events if event["kind"] != "resumed"]
    assert {"collapse", "discriminator"} <= {kind for kind, _, _ in alerts}
    assert [event["images_seen"] for event in events if event["kind"] == "resumed"] == [640, 960]
    noted = {event["kind"]: event["images_seen"] for event in events if event["kind"] != "resumed"}
    summary: dict[str, Any] = {}
    for record in run.records:
        summary |= record.summary
    assert {name.removeprefix("health/"): value for name, value in summary.items() if name.startswith("health/")} == noted


def test_no_secret_is_in_it(run: Run) -> None:
    files = {path: path.read_bytes() for path in run.folder.glob("wandb/**/*") if path.is_file()}
    assert len(files) > 20
    for secret in [*SECRETS.values(), IN_NETRC, "theirs-by-option", "theirs-after-option"]:
        assert [path for path, content in files.items() if secret.encode() in content] == []
    (told,) = (found["args"] for found in run.records[0].of("environment") if "args" in found)
    assert told == ["fit", *SMALL, f"--trainer.logger.api_key={HIDDEN}", "--trainer.logger.token", HIDDEN]
    assert any(found.get("slurm", {}).get("cluster_name") == "the-cluster" for found in run.records[0].of("environment"))


def test_checkpoints_are_artifacts_and_none_is_uploaded_twice(run: Run) -> None:
    name = (run.folder / "wandb_id").read_text()
    artifacts = [artifact for record in run.records for artifact in record.of("artifact")]
    assert len({artifact["digest"] for artifact in artifacts}) == len(artifacts)
    found = {(artifact["name"], artifact["type"], *sorted(set(artifact["aliases"]) - {"latest"})) for artifact in artifacts}
    seen = [320, 640, 960, 1280]
    assert {(f"checkpoint-{name}", "checkpoint", f"images-{n}", "last") for n in seen} <= found
    assert any(kind == "model" and label == f"generator-{name}" for label, kind, *_ in found)
    for artifact in artifacts:
        for content in artifact["manifest"]["contents"]:
            assert Path(content["local_path"]).is_relative_to(run.folder / "wandb" / "data")  # kept until they are uploaded
            assert Path(content["local_path"]).stat().st_size == int(content["size"])
