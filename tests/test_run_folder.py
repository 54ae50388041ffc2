from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_gan.errors import UserError
from lightning_gan.run_folder import make_run_folder


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
