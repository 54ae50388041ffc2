"""What two processes agree on."""

import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_gan.errors import UserError
from lightning_gan.processes import is_lost, mean_over_processes


def take_part(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = torch.tensor([1.0, 2.0]) if rank == 0 else torch.tensor([3.0, -4.0])
    torch.save((mine, mean_over_processes(mine)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_the_mean_is_that_of_all_processes_in_each(tmp_path: Path) -> None:
    mp.spawn(take_part, (str(tmp_path),), nprocs=2)
    for rank, own in enumerate(([1.0, 2.0], [3.0, -4.0])):
        mine, mean = torch.load(tmp_path / f"{rank}.pt")
        assert mean.tolist() == [2.0, -1.0]
        assert mine.tolist() == own  # untouched


def lose_another(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x = torch.ones(1000)
    dist.all_reduce(x)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_reduce(x)
    except RuntimeError as error:
        Path(folder, "told").write_text(f"{is_lost(error)}: {error}")


def test_a_lost_process_is_told_from_other_errors(tmp_path: Path) -> None:
    context = mp.get_context("spawn")  # not mp.spawn, which is not to be upset by the loss
    processes = [context.Process(target=lose_another, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    told = (tmp_path / "told").read_text()
    assert told.startswith("True"), told
    # What gloo says of one that was stopped and not ended.
    assert is_lost(RuntimeError("[.../unbound_buffer.cc:78] Timed out waiting 600000ms for recv operation to complete"))
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))
    assert not is_lost(UserError("Connection closed by peer"))


def test_a_single_process_agrees_with_itself() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert mean_over_processes(x).tolist() == [1.0, 2.0]
    assert not mean_over_processes(x).requires_grad
