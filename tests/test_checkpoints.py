"""Checkpoint files: what is not what was written is refused."""

import random
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_gan.callbacks.checkpoint import AtomicCheckpointIO
from lightning_gan.checkpoints import DamagedCheckpoint, newest, read_checkpoint
from lightning_gan.errors import UserError
from lightning_gan.run_folder import Claim


def content(step: int = 0, **record: Any) -> dict[str, Any]:
    weights = torch.randn(500, generator=torch.Generator().manual_seed(step))
    network = {"class_path": "lightning_gan.networks.MLPGenerator", "init_args": {}}
    about = {"version": "0", "images_seen": step, "generator": network, "discriminator": network}
    lightning: dict[str, Any] = {"optimizer_states": [{}, {}], "global_step": 1, "callbacks": {}, "loops": {}}
    return {"state_dict": {"weights": weights}, "lightning_gan": about | record} | lightning


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run folder whose last checkpoint was saved at 2 and the previous one at 1."""
    for step in range(3):
        AtomicCheckpointIO().save_checkpoint(content(step), tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_is_found_wherever_it_matters(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content(), path)
    whole = path.read_bytes()
    found, draw = 0, random.Random(0)
    for position in draw.sample(range(len(whole)), 600):
        path.write_bytes(whole)
        flip(path, position, draw.randrange(8))
        try:
            read = read_checkpoint(path)
        except UserError:
            found += 1
        else:  # it is in what only fills up space, or in a date
            assert torch.equal(read["state_dict"]["weights"], content()["state_dict"]["weights"])
            assert read["lightning_gan"] == content()["lightning_gan"]
    assert found > 300  # more than half of the file is the weights


def test_a_flipped_bit_of_a_head_is_found_or_does_not_matter(tmp_path: Path) -> None:
    torch.save(content(), path := tmp_path / "last.ckpt")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        heads = [range(member.header_offset, member.header_offset + 100) for member in archive.infolist()]
        directory = range(archive.start_dir, len(whole))
    draw = random.Random(0)
    bits = [(position, bit) for position in directory for bit in range(8) if draw.random() < 0.2 or bit == position % 8]
    bits += [(position, draw.randrange(8)) for head in heads for position in head]
    with path.open("r+b") as file:
        for position, bit in bits:
            file.seek(position)
            file.write(bytes([whole[position] ^ 1 << bit]))
            file.flush()
            with suppress(UserError):
                read = read_checkpoint(path)
                assert torch.equal(read.pop("state_dict")["weights"], content()["state_dict"]["weights"])
                assert read == {name: value for name, value in content().items() if name != "state_dict"}
            file.seek(position)
            file.write(whole[position : position + 1])
            file.flush()
    read_checkpoint(path)


def rewritten(path: Path, **changed: bytes) -> None:
    """Save a checkpoint, and write it again with members, by their stems, in place of its own, compressed."""
    torch.save(content(), path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            method = zipfile.ZIP_DEFLATED if Path(name).stem in changed else zipfile.ZIP_STORED
            archive.writestr(name, changed.get(Path(name).stem, data), method)


def test_small_files_that_become_large_ones_are_not_unpacked(tmp_path: Path) -> None:
    rewritten(path := tmp_path / "last.ckpt")
    read_checkpoint(path)
    rewritten(path, byteorder=b"little")
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(path)
    rewritten(path, data=bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedCheckpoint, match=r"last\.ckpt is damaged"):
            read_checkpoint(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    torch.save(content(), path := tmp_path / "last.ckpt")
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        archive.filelist.extend([largest] * 10)
        archive.comment = b"another directory is written"
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(path)


def test_a_member_that_says_it_is_a_folder_is_refused(tmp_path: Path) -> None:
    torch.save(content(), path := tmp_path / "last.ckpt")
    with zipfile.ZipFile(path, "a") as archive:
        for member in archive.infolist():
            member.external_attr |= 0x10  # for which torch gives numbers out of thin air
        archive.comment = b"another directory is written"
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(path)


def test_one_number_cannot_stand_for_many(tmp_path: Path) -> None:
    weights = torch.zeros(1).expand(1000, 1000)
    torch.save(content() | {"state_dict": {"weights": weights}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is not a whole checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_damaged(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DamagedCheckpoint, match=r"last\.ckpt is damaged"):
        read_checkpoint(path)


def test_one_of_a_newer_format_is_told_apart(tmp_path: Path) -> None:
    torch.save(content(format=2, version="9.1"), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"written by lightning_gan 9\.1, and this is .* Take that version or a later one"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("other", [[1, 2], {"state_dict": {}}, {"state_dict": {}, "lightning_gan": 3}, {"lightning_gan": {}}])
def test_other_files_are_not_ours(tmp_path: Path, other: Any) -> None:
    torch.save(other, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is not a checkpoint of lightning_gan"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        {"callbacks": None},
        {"loops": [1]},
        {"optimizer_states": [{}]},
        {"state_dict": {"weights": 3}},
        {"optimizer_states": None},
        {"global_step": "1"},
        {"lightning_gan": {}},
        *(
            {"lightning_gan": content()["lightning_gan"] | {name: value}}
            for name, value in (("images_seen", -5), ("images_seen", float("nan")), ("generator", {}), ("changes", 3))
        ),
    ],
)
def test_what_readers_take_for_granted_is_there(tmp_path: Path, change: dict[str, Any]) -> None:
    torch.save(content(), tmp_path / "whole.ckpt")
    read_checkpoint(tmp_path / "whole.ckpt")
    torch.save(content() | change, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is not a whole checkpoint of lightning_gan"):
        read_checkpoint(tmp_path / "last.ckpt")


class TestNewest:
    def test_it_is_the_last(self, run: Path) -> None:
        found = newest(run)
        assert found is not None
        path, checkpoint, passed_over = found
        assert (path.name, checkpoint["lightning_gan"]["images_seen"], passed_over) == ("last.ckpt", 2, [])

    def test_or_the_one_before_it_if_that_is_damaged(self, run: Path) -> None:
        last = run / "checkpoints" / "last.ckpt"
        flip(last, last.read_bytes().index(content(2)["state_dict"]["weights"].numpy().tobytes()))
        found = newest(run)
        assert found is not None
        path, checkpoint, ((damaged, reason),) = found
        assert (path.name, checkpoint["lightning_gan"]["images_seen"]) == ("previous.ckpt", 1)
        assert damaged.name == "last.ckpt"
        assert "last.ckpt is damaged" in str(reason)

    def test_or_the_one_before_it_if_there_is_no_last(self, run: Path) -> None:
        (run / "checkpoints" / "last.ckpt").unlink()  # as a file system without links may leave it
        found = newest(run)
        assert found is not None
        assert found[1]["lightning_gan"]["images_seen"] == 1

    def test_none_is_whole(self, run: Path) -> None:
        for name in ("last", "previous"):
            (run / "checkpoints" / f"{name}.ckpt").write_bytes(b"")
        with pytest.raises(UserError, match=r"last\.ckpt is damaged.*previous\.ckpt is damaged.* no other to go on from"):
            newest(run)

    def test_there_is_none(self, tmp_path: Path) -> None:
        assert newest(tmp_path) is None


class TestWriting:
    def test_without_links_the_previous_is_kept_all_the_same(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(*_: Any) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("os.link", unsupported)
        AtomicCheckpointIO().save_checkpoint(content(3), run / "checkpoints" / "last.ckpt")
        steps = {path.stem: read_checkpoint(path)["lightning_gan"]["images_seen"] for path in run.glob("checkpoints/*")}
        assert steps == {"last": 3, "previous": 2}

    def test_a_stale_process_writes_nothing(self, tmp_path: Path) -> None:
        old, new = Claim(tmp_path), Claim(tmp_path)
        last = tmp_path / "checkpoints" / "last.ckpt"
        old.take("")
        AtomicCheckpointIO(old).save_checkpoint(content(1), last)
        new.take("")
        with pytest.raises(UserError, match="was started anew"):
            AtomicCheckpointIO(old).save_checkpoint(content(2), last)
        assert read_checkpoint(last)["lightning_gan"]["images_seen"] == 1
        assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt"]
        AtomicCheckpointIO(new).save_checkpoint(content(3), last)
        assert read_checkpoint(last)["lightning_gan"]["images_seen"] == 3
