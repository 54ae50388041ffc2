import csv
import resource
from pathlib import Path

import pytest

from lightning_gan.errors import UserError
from lightning_gan.run_folder import Claim
from lightning_gan.tracking import MetricsCSV, append


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


class TestAppend:
    def test_lines_follow_each_other_in_place_of_what_a_kill_has_left(self, tmp_path: Path) -> None:
        file = tmp_path / "lines"
        append(file, "a\n")
        append(file, "b\n")
        assert file.read_text() == "a\nb\n"
        file.write_text("a\nhalf a l")
        append(file, "c\n")
        assert file.read_text() == "a\nc\n"
        file.write_text("half a l")
        append(file, "d\n")
        assert file.read_text() == "d\n"

    def test_half_a_line_on_a_full_disk_is_taken_back(self, tmp_path: Path) -> None:
        file = tmp_path / "lines"
        append(file, "a\n")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                append(file, "a long line\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert file.read_text() == "a\n"
