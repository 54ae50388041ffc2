import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from lightning_gan.data import parallel
from lightning_gan.data.parallel import CHUNK, in_parallel, in_processes
from lightning_gan.errors import UserError


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "MANY", 2)
    monkeypatch.setattr(parallel, "_cores", lambda: 2)


def test_the_order_is_kept() -> None:
    def slow_at_first(i: int) -> int:
        time.sleep(0.01 if i < 5 else 0)
        return i * i

    for n in (0, 1, CHUNK, 10 * CHUNK + 3):
        assert list(in_parallel(slow_at_first, range(n), "")) == [i * i for i in range(n)]


def test_few_results_wait() -> None:
    done: list[int] = []
    results = in_parallel(done.append, range(100_000), "")
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(done) < 20_000


def test_an_error_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(lambda i: 1 // i, range(3), ""))


def process_of(item: object) -> int:
    return os.getpid()


def test_processes_keep_the_order(two_processes: None) -> None:
    for n in (2, CHUNK, 10 * CHUNK + 3):
        assert list(in_processes(partial(pow, 3), range(n), "")) == [3**i for i in range(n)]


def test_work_is_shared_by_as_many_processes_as_there_are_cores(two_processes: None) -> None:
    assert len(set(in_processes(process_of, range(100), "", chunk=1)) - {os.getpid()}) == 2


def test_processes_are_not_started_for_little(two_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(in_processes(process_of, [1], "")) == {os.getpid()}
    monkeypatch.setattr(parallel, "_cores", lambda: 1)
    assert set(in_processes(process_of, range(100), "")) == {os.getpid()}


def test_processes_end_when_their_results_are_not_wanted_any_more(two_processes: None) -> None:
    results = in_processes(process_of, range(10_000), "")
    worker = next(results)
    assert worker != os.getpid()
    results.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_killed_process_is_one_sentence(two_processes: None) -> None:
    with pytest.raises(UserError, match=r"^Preparing: a process was killed \(SIGKILL\), perhaps for want of memory\."):
        list(in_processes(signal.raise_signal, [signal.SIGKILL] * 100, "Preparing"))


def test_a_process_that_fails_says_why(two_processes: None, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="a process failed, with the error above"):
        list(in_processes(int, ["1", "two"], "Preparing"))
    assert "ValueError: invalid literal for int() with base 10: 'two'" in capfd.readouterr().err


def test_a_process_that_cannot_be_started(two_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UserError, match=r"no further process can be started \(No such file or directory\)"):
        list(in_processes(abs, range(100), "Preparing"))


def test_what_is_printed_does_not_get_between_the_results(two_processes: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(in_processes(print, ["a", "b"], "")) == [None, None]
    assert capfd.readouterr().out == ""


def test_the_cores_are_those_that_the_cluster_has_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert parallel._cores() == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert parallel._cores() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "30")
    assert parallel._cores() == 8


UNGUARDED = """
from lightning_gan.data import parallel
from tests.data.test_parallel import slowly
parallel.MANY, parallel._cores = 2, lambda: 2
print("started", flush=True)
for result in parallel.in_processes(slowly, range(200), "", chunk=1):
    print(result, flush=True)
"""


def slowly(item: object) -> int:
    time.sleep(0.02)
    return os.getpid()


def unguarded(tmp_path: Path) -> subprocess.Popen[str]:
    """Run a script that is not guarded by `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, script], stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    )


def test_the_script_of_a_user_runs_once(tmp_path: Path) -> None:
    output, errors = unguarded(tmp_path).communicate()
    assert errors == "" or "image/s" in errors
    started, *workers = output.split()
    assert started == "started"
    assert len(workers) == 200
    assert len(set(workers)) == 2


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_ended_takes_its_workers_along(kind: signal.Signals, tmp_path: Path) -> None:
    script = unguarded(tmp_path)
    assert script.stdout is not None
    assert script.stdout.readline() == "started\n"
    script.stdout.readline()
    os.killpg(script.pid, kind)  # as Ctrl-C does
    _, errors = script.communicate(timeout=60)  # until nobody is left who could write to its pipes
    assert script.returncode == -kind
    assert errors.count("Traceback") == (kind == signal.SIGINT)


def test_processes_import_what_decoding_needs_and_no_more() -> None:
    code = "import json, lightning_gan.data.worker, lightning_gan.data.decode, sys; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(subprocess.check_output([sys.executable, "-c", code], text=True)))
    assert {"numpy", "PIL.Image"} <= modules
    assert modules & {"torch", "pytorch_lightning", "tqdm", "yaml", "lightning_gan.data.base"} == set()
