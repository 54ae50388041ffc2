import threading
from pathlib import Path
from typing import get_args

import pytest
import wandb

from lightning_gan import wandb_run
from lightning_gan.errors import UserError
from lightning_gan.wandb_artifacts import Artifacts, WandbArtifacts
from lightning_gan.wandb_run import (
    HIDDEN,
    TolerantWandbLogger,
    _mode_of_environment,
    _wandb_id,
    add_scores,
    finish_wandb,
    start_wandb,
    where,
    without_secrets,
)


class Broken:
    """A W&B run whose service has died."""

    calls = 0

    def log(self, *args: object, **kwargs: object) -> None:
        self.calls += 1
        raise BrokenPipeError("the service is gone")


class TestWandb:
    def test_it_records_offline_without_a_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WANDB_MODE")
        (logger,) = start_wandb(tmp_path, "test", "auto")
        try:
            assert logger.experiment.offline
            assert Path(logger.experiment.dir).is_relative_to(tmp_path / "wandb")
            logger.log_metrics({"loss": 0.5}, step=0)
        finally:
            wandb.teardown()
        assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))

    def test_no_token_of_slurm_is_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("SLURM_JWT", "slurms-token")
        monkeypatch.setenv("SLURM_CLUSTER_NAME", "the-cluster")
        wandb.teardown()  # its service knows the environment that it was started with
        try:
            start_wandb(tmp_path, "test", "auto")
        finally:
            wandb.teardown()
        (record,) = (path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
        assert b"the-cluster" in record
        assert b"slurms-token" not in record

    @pytest.mark.parametrize(("mode", "variable"), [("off", "online"), ("auto", "disabled")])
    def test_it_can_be_switched_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, variable: str) -> None:
        monkeypatch.setenv("WANDB_MODE", variable)
        assert start_wandb(tmp_path, "test", mode) == []  # type: ignore[arg-type]  # the parameters are of the right kind
        assert not (tmp_path / "wandb").exists()

    def test_an_environment_it_cannot_read_does_not_fail_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "foo")
        assert start_wandb(tmp_path, "test", "off") == []
        with pytest.warns(UserWarning, match="W&B could not start offline"):
            assert start_wandb(tmp_path, "test", "offline") == []

    @pytest.mark.parametrize(
        ("value", "mode"), [("dryrun", "offline"), ("disabled", "off"), ("run", "online"), ("", "offline")]
    )
    def test_the_mode_of_the_environment(self, monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
        monkeypatch.setenv("WANDB_MODE", value)
        assert _mode_of_environment() == mode

    def test_without_network_it_falls_back_to_offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        start = wandb.init

        def init(*args: object, mode: str, **kwargs: object) -> object:
            if mode == "online":
                raise wandb.errors.CommError("no such host")
            return start(*args, mode=mode, **kwargs)  # type: ignore[arg-type, misc]  # passed on as they came

        monkeypatch.setattr(wandb, "init", init)
        try:
            with pytest.warns(UserWarning, match="could not start online"):
                (logger,) = start_wandb(tmp_path, "test", "online")
            assert logger.experiment.offline
        finally:
            wandb.teardown()

    def test_its_id_is_kept_and_a_sweeps_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = _wandb_id(tmp_path)
        assert _wandb_id(tmp_path) == (tmp_path / "wandb_id").read_text() == first
        monkeypatch.setenv("WANDB_RUN_ID", "fromsweep")
        assert _wandb_id(tmp_path) == (tmp_path / "wandb_id").read_text() == "fromsweep"

    def test_its_axis_is_the_training_step_and_rollbacks_go_on_counting(self) -> None:
        steps: list[int | None] = []

        class Run:
            def log(self, values: dict[str, float], step: int | None) -> None:
                steps.append(step)

        logger = TolerantWandbLogger(experiment=Run())  # type: ignore[arg-type]  # stands in for a run
        for step in (0, 5, 9):
            logger.log_metrics({"loss": 0.5}, step)
        logger.go_back(4)  # from step 10 to 6
        logger.log_metrics({"loss": 0.5}, 6)
        assert steps == [0, 5, 9, 10]

    def test_an_alert_is_in_the_summary(self, tmp_path: Path) -> None:
        (logger,) = start_wandb(tmp_path, "test", "offline")
        try:
            logger.alert("collapse", "3 of 10 classes are drawn.", 64)
            assert logger.experiment.summary["health/collapse"] == 64
        finally:
            wandb.teardown()

    def test_a_failure_in_mid_run_is_said_once_and_does_not_stop_it(self) -> None:
        broken = Broken()
        logger = TolerantWandbLogger(experiment=broken)  # type: ignore[arg-type]  # stands in for a run
        with pytest.warns(UserWarning, match="the service is gone"):
            logger.log_metrics({"loss": 0.5}, step=0)
        logger.log_metrics({"loss": 0.5}, step=1)
        logger.log_picture("samples", Path("nowhere.png"), 64, step=1)
        logger.alert("collapse", "3 of 10 classes are drawn.", 64)
        assert broken.calls == 1

    @pytest.mark.filterwarnings("ignore:W&B could not start")
    def test_a_run_goes_on_offline_while_parts_of_it_wait_to_be_uploaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes: list[str] = []

        def init(*args: object, mode: str, **kwargs: object) -> object:
            modes.append(mode)
            raise wandb.errors.CommError("that is enough")

        monkeypatch.setattr(wandb, "init", init)
        record = tmp_path / "wandb" / "offline-run-20260101_000000-x" / "run-x.wandb"
        record.parent.mkdir(parents=True)
        record.touch()
        with pytest.warns(UserWarning, match=r"W&B records offline, as .*offline-run-20260101_000000-x is not uploaded yet"):
            start_wandb(tmp_path, "test", "online")
        assert modes == ["offline"]
        record.with_suffix(".wandb.synced").touch()
        start_wandb(tmp_path, "test", "online")
        assert modes == ["offline", "online", "offline"]

    def test_the_command_that_uploads_all_parts_of_a_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("UV", raising=False)
        monkeypatch.chdir(tmp_path)
        (logger,) = start_wandb(Path("a run"), "test", "offline")
        try:
            assert where(logger.experiment) == "recorded offline; upload with: wandb sync 'a run/wandb'"
            monkeypatch.setenv("UV", "uv")
            assert where(logger.experiment).endswith("with: uv run wandb sync 'a run/wandb'")
        finally:
            wandb.teardown()

    def test_scores_are_added_to_the_run_that_there_is_and_to_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert add_scores(tmp_path, "offline", {"test/fid": 3.0}) == []
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "wandb_id").write_text("known")
        monkeypatch.setenv("WANDB_RUN_ID", "another")  # as for a sweep's runs
        assert add_scores(tmp_path, "off", {"test/fid": 3.0}) == []
        try:
            (logger,) = add_scores(tmp_path, "offline", {"test/fid": 3.0})
            assert logger.experiment.id == (tmp_path / "wandb_id").read_text() == "known"
            assert logger.experiment.summary["test/fid"] == 3.0
        finally:
            wandb.teardown()

    def test_an_end_that_w_and_b_does_not_come_to_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT", -9.5)
        monkeypatch.delenv("UV", raising=False)
        start_wandb(tmp_path, "test", "offline")
        gone = threading.Event()

        def finish(exit_code: int) -> None:
            process = wandb.setup()._connection._proc._process  # type: ignore[union-attr]  # it is there
            process.wait(timeout=20)  # nobody else ends it
            gone.set()

        monkeypatch.setattr(wandb, "finish", finish)
        finish_wandb(failed=False)
        assert gone.is_set()
        assert "Send the rest with: wandb sync --include-online" in capsys.readouterr().out


class TestSecrets:
    def test_options_with_telling_names_are_hidden_at_any_depth(self) -> None:
        config = {"logger": [{"class_path": "x", "init_args": {"api_key": "a", "APIKEY": "b", "num_tokens": 3}}], "seed": 1}
        hidden = {
            "logger": [{"class_path": "x", "init_args": {"api_key": HIDDEN, "APIKEY": HIDDEN, "num_tokens": 3}}],
            "seed": 1,
        }
        assert without_secrets(config) == hidden

    def test_and_in_a_command_line(self) -> None:
        assert without_secrets(["fit", "--a.password=x", "--b.secret_key", "y", "--name=token", "--c.token"]) == [
            *("fit", f"--a.password={HIDDEN}", "--b.secret_key", HIDDEN, "--name=token", "--c.token"),
        ]

    def test_and_in_a_tree_that_is_given_there(self) -> None:
        tree = '{"class_path": "x", "init_args": {"api_key": "y"}}'
        assert without_secrets(["fit", f"--a={tree}", "--b", tree, "--c", "{token_count: 3}", "-c", "conf/tokens.yaml"]) == [
            *("fit", f"--a={HIDDEN}", "--b", HIDDEN, "--c", HIDDEN, "-c", "conf/tokens.yaml"),
        ]


class TestArtifacts:
    @pytest.fixture
    def uploaded(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[str]]]:
        """What is handed to W&B: the name, the type and the aliases."""
        monkeypatch.setenv("WANDB_DATA_DIR", "")  # for it to be as it was afterwards
        monkeypatch.delenv("WANDB_DATA_DIR")
        return []

    def artifacts(self, uploaded: list[tuple[str, str, list[str]]], folder: Path, which: WandbArtifacts) -> Artifacts:
        class Run:
            id = "x"

            def log_artifact(self, artifact: wandb.Artifact, aliases: list[str]) -> None:
                uploaded.append((artifact.name, artifact.type, aliases))

        (folder / "wandb").mkdir(exist_ok=True)
        return Artifacts(Run(), folder / "wandb", which)

    def test_a_checkpoint_is_uploaded_when_it_is_saved_and_new(
        self, uploaded: list[tuple[str, str, list[str]]], tmp_path: Path
    ) -> None:
        last = tmp_path / "last.ckpt"
        for content, images_seen in ((b"a", 32), (b"a", 32), (b"b", 64)):
            last.write_bytes(content)
            for which in get_args(WandbArtifacts):
                artifacts = self.artifacts(uploaded, tmp_path, which)  # as after each start
                artifacts.saved(last, images_seen)
                for thread in artifacts._pending:
                    thread.join()
        assert uploaded == [
            ("checkpoint-x", "checkpoint", ["last", "images-32"]),
            ("checkpoint-x", "checkpoint", ["last", "images-64"]),
        ]

    def test_what_cannot_be_uploaded_is_said(self, uploaded: list[tuple[str, str, list[str]]], tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match=r"last\.ckpt is not among W&B's artifacts: .*No such file"):
            self.artifacts(uploaded, tmp_path, "all").saved(tmp_path / "last.ckpt", 32)
        (tmp_path / "best.ckpt").write_bytes(b"damaged")
        with pytest.raises(UserError, match="is damaged"):
            self.artifacts(uploaded, tmp_path, "best").ended(tmp_path)
        assert uploaded == []
