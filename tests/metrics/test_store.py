import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_gan.metrics import store
from lightning_gan.metrics.store import Content, digest, stored

SPEC = {"fingerprint": "abc", "bank": 10}


def content() -> Content:
    tensors = {"mean": torch.arange(6.0).view(2, 3).T, "num": torch.tensor(7), "none": torch.zeros(0, 3, dtype=torch.bool)}
    return tensors, {"accuracy": 0.5, "shape": (1, 2)}


def fail() -> Content:
    raise AssertionError("it is computed again")


def assert_is_content(found: Content) -> None:
    tensors, facts = found
    expected, _ = content()
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert facts == {"accuracy": 0.5, "shape": [1, 2]}  # as from JSON, for the first who asks too


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock")


def test_it_is_computed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_is_content(stored(tmp_path / "new" / "folder", "mean", SPEC, content))
    (path,) = visible(tmp_path / "new" / "folder")
    assert path.name.startswith("mean-")
    assert path.suffix == ".safetensors"
    assert_is_content(stored(tmp_path / "new" / "folder", "mean", SPEC, fail))
    assert messages(caplog) == []


def test_whatever_is_in_the_spec_has_a_file_of_its_own(tmp_path: Path) -> None:
    for spec in (SPEC, {**SPEC, "bank": 11}, {**SPEC, "more": None}):
        stored(tmp_path, "mean", spec, content)
    stored(tmp_path, "mean", {"bank": 10, "fingerprint": "abc"}, fail)  # in another order it is the same
    assert len(visible(tmp_path)) == 3


def test_another_schema_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path, "mean", SPEC, content)
    monkeypatch.setattr(store, "SCHEMA", store.SCHEMA + 1)
    with pytest.raises(AssertionError, match="again"):
        stored(tmp_path, "mean", SPEC, fail)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"nothing of the kind" * 100)


def flip_a_bit(path: Path) -> None:
    bytes_ = bytearray(path.read_bytes())
    bytes_[-1] ^= 1
    path.write_bytes(bytes_)


def foreign(path: Path) -> None:
    stored(path.parent / "other", "mean", {"of": "something else"}, content)
    (other,) = visible(path.parent / "other")
    other.replace(path)


def no_metadata(path: Path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize("damage", [cut_short, empty, garbage, flip_a_bit, foreign, no_metadata])
def test_a_damaged_or_foreign_file_is_computed_again(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored(tmp_path, "mean", SPEC, content)
    (path,) = visible(tmp_path)
    damage(path)
    assert_is_content(stored(tmp_path, "mean", SPEC, content))
    assert messages(caplog) == [f"{path} is damaged and is computed again."]
    assert_is_content(stored(tmp_path, "mean", SPEC, fail))


def test_where_nothing_can_be_written_the_result_is_used_without_being_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")  # which stops root too, as permissions do not
    for _ in range(2):
        assert_is_content(stored(tmp_path / "file" / "folder", "mean", SPEC, content))
    assert len(messages(caplog)) == 2
    assert "cannot be kept, so that it will be computed again: Not a directory." in messages(caplog)[0]


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_is_content(stored(tmp_path, "mean", SPEC, content))
    assert visible(tmp_path) == []
    assert "No space left on device" in messages(caplog)[0]


def test_an_error_of_the_computation_is_its_own_and_lets_the_next_one_try(tmp_path: Path) -> None:
    def broken() -> Content:
        raise OSError(errno.EIO, "the images' disk")

    with pytest.raises(OSError, match="the images' disk"):
        stored(tmp_path, "mean", SPEC, broken)
    assert_is_content(stored(tmp_path, "mean", SPEC, content))


def start(folder: Path, body: str) -> subprocess.Popen[str]:
    """Start a process that asks; `body` is what its `make` does first."""
    script = f"""
import os, sys, time, torch
from pathlib import Path
from lightning_gan.metrics.store import stored

folder = Path({str(folder)!r})

def make():
    with (folder / "calls").open("a") as file:
        file.write("x")
    {body}
    return {{"mean": torch.ones(3)}}, {{}}

print("ready", flush=True)
sys.stdin.readline()
print(stored(folder / "store", "mean", {json.dumps(SPEC)}, make)[0]["mean"].tolist())
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script], **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_processes_that_start_together_one_computes(tmp_path: Path) -> None:
    processes = [start(tmp_path, "time.sleep(0.3)") for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == ["[1.0, 1.0, 1.0]\n"] * 2
    assert (tmp_path / "calls").read_text() == "x"


def test_a_killed_writer_leaves_no_half_file_and_nobody_waiting(tmp_path: Path) -> None:
    process = start(tmp_path, "os.fsync = lambda fd: os.kill(os.getpid(), 9)")
    process.communicate("go\n")
    assert process.returncode == -9
    (aside,) = visible(tmp_path / "store")
    assert aside.suffix == ".partial"

    def ones() -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"mean": torch.ones(3)}, {}

    assert stored(tmp_path / "store", "mean", SPEC, ones)[0]["mean"].tolist() == [1, 1, 1]
    (path,) = visible(tmp_path / "store")
    assert path.suffix == ".safetensors"


def test_the_digest_knows_names_types_shapes_and_values_but_not_layout() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4)
    same = [{"x": x}, {"x": x.contiguous(memory_format=torch.channels_last)}, {"x": x.clone().requires_grad_()}]
    assert len({digest(tensors) for tensors in same}) == 1
    others = [{"y": x}, {"x": x.view(2, 3, 4)}, {"x": x.int()}, {"x": x.view(torch.int32)}, {"x": x + 1}, {"x": x, "y": x}]
    assert len({digest(tensors) for tensors in [same[0], *others]}) == 7
    assert digest({"a": x, "b": x + 1}) == digest({"b": x + 1, "a": x})
