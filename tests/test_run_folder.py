import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_gan.errors import UserError
from lightning_gan.run_folder import REQUEUE, Claim, make_run_folder


def test_runs_that_start_together_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: make_run_folder("name"), range(40)))
    assert sorted(int(folder.name) for folder in folders) == list(range(40))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"The run folder .*file/run cannot be made: Not a directory"):
        make_run_folder("name", str(tmp_path / "file" / "run"))


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/b", ".."])
def test_a_name_stays_in_its_place(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a folder"):
        make_run_folder(name)


def test_a_claim_holds_until_the_run_is_started_anew(tmp_path: Path) -> None:
    first, second = Claim(tmp_path), Claim(tmp_path)
    first.take("max_images: 1")
    first.check()
    first.mark(REQUEUE)
    second.take("max_images: 2")
    assert not (tmp_path / REQUEUE).exists()
    assert (tmp_path / "config.yaml").read_text() == "max_images: 2"
    with pytest.raises(UserError, match=rf"was started anew, on .* as process {os.getpid()}, and this start of it ends"):
        first.mark(REQUEUE)
    assert not (tmp_path / REQUEUE).exists()
    second.mark(REQUEUE)
    assert (tmp_path / REQUEUE).exists()


def test_a_start_that_was_killed_at_once_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.partial").write_text("half a conf")
    (tmp_path / ".claim").write_text("of a process that is dead")
    assert make_run_folder("name", str(tmp_path)) == tmp_path
