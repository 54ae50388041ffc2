import csv
import resource
from pathlib import Path

import pytest
import wandb

from lightning_gan.errors import UserError
from lightning_gan.run_folder import Claim
from lightning_gan.tracking import MetricsCSV, TolerantWandbLogger, _mode_of_environment, _wandb_id, start_wandb


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class TestMetricsCSV:
    def test_each_row_is_on_disk_at_once(self, tmp_path: Path) -> None:
        MetricsCSV(tmp_path).log_metrics({"loss": 0.5, "images_seen": 64.0}, step=0)
        assert rows(tmp_path) == [{"images_seen": "64.0", "step": "0", "epoch": "", "loss": "0.5"}]

    def test_a_new_column_keeps_the_rows_before_it(self, tmp_path: Path) -> None:
        logger = MetricsCSV(tmp_path)
        logger.log_metrics({"loss": 0.5}, step=0)
        logger.log_metrics({"fid": 3.0}, step=1)
        logger.log_metrics({"loss": 0.25}, step=2)
        assert [(row["step"], row["loss"], row["fid"]) for row in rows(tmp_path)] == [
            ("0", "0.5", ""),
            ("1", "", "3.0"),
            ("2", "0.25", ""),
        ]

    def test_a_resumed_run_has_each_row_once_and_its_columns_in_their_order(self, tmp_path: Path) -> None:
        for kept in (None, 2, 0):
            logger = MetricsCSV(tmp_path, rows=kept or 0)
            if kept is not None:  # what was written after the checkpoint, a half row included, is of another attempt
                with logger.path.open("a") as file:
                    file.write("160,3")
                logger.cut_back()
            for step in range(logger.rows, 4):
                logger.log_metrics({"loss": step / 4, **({"fid": 3.0} if step == 2 else {})}, step=step)
            assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3"]
            assert list(rows(tmp_path)[0]) == ["images_seen", "step", "epoch", "loss", "fid"]
            assert logger.rows == 4

    def test_a_stale_process_adds_nothing(self, tmp_path: Path) -> None:
        old, new = Claim(tmp_path), Claim(tmp_path)
        old.take("")
        logger = MetricsCSV(tmp_path, claim=old)
        logger.log_metrics({"loss": 0.5}, step=0)
        new.take("")
        with pytest.raises(UserError, match="was started anew"):
            logger.log_metrics({"loss": 0.5}, step=1)
        assert len(rows(tmp_path)) == 1

    def test_a_full_disk_costs_a_row_and_not_the_run(self, tmp_path: Path) -> None:
        logger = MetricsCSV(tmp_path)
        logger.log_metrics({"loss": 0.5}, step=0)
        logger.path.unlink()
        logger.path.mkdir()  # stands in for a disk that cannot be written to, which root cannot be denied
        with pytest.warns(UserWarning, match=r"A row of .*metrics\.csv could not be written"):
            logger.log_metrics({"loss": 0.5}, step=1)

    def test_half_a_row_on_a_full_disk_is_taken_back(self, tmp_path: Path) -> None:
        logger = MetricsCSV(tmp_path)
        logger.log_metrics({"loss": 0.5}, step=0)
        size = logger.path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4, limits[1]))
        try:
            with pytest.warns(UserWarning, match=r"A row of .*metrics\.csv could not be written"):
                logger.log_metrics({"loss": 0.25}, step=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        logger.log_metrics({"loss": 0.125}, step=2)
        assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [("0", "0.5"), ("2", "0.125")]
        assert logger.rows == 2

    def test_a_folder_that_is_gone_does_not_stop_the_run(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("")  # Lightning saves after every row and once at the start, outside of log_metrics
        with pytest.warns(UserWarning, match=r"metrics\.csv could not be written: "):
            MetricsCSV(tmp_path / "run").save()


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
