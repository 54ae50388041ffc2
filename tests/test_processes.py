"""What two processes agree on."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_gan.processes import mean_over_processes


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


def test_a_single_process_agrees_with_itself() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert mean_over_processes(x).tolist() == [1.0, 2.0]
    assert not mean_over_processes(x).requires_grad
