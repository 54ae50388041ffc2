"""A run that is killed at any moment and gone on with equals the run that never was, bit for bit."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.killing import PLACES, RUN, Kill, differences, go_through, start
from tests.test_conf import CONF

# An epoch has 53 steps, of 1,696 images, at whose end APART saves a checkpoint. Its last step, after 2,720, is due to evaluate.
SMALL = """
    --data.image_size 8 --data.batch_size 32 --evaluation.num_samples 64 --evaluation.extractor Random
    --samples.rows 2 --samples.columns 2 --trainer.log_every_n_steps 7 --trainer.accelerator cpu
    --walks.every_images 600 --walks.rows 2 --walks.num 2 --walks.steps 2 --trainer.enable_progress_bar false --wandb off
"""
APART = "--max_images 2_700 --checkpoint.every_images 424 --evaluation.every_images 680 --samples.every_images 600"
TOGETHER = "--max_images 1_920 --checkpoint.every_images 480 --evaluation.every_images 480 --samples.every_images 480"
RECIPES = {  # a named run, with what makes it small and what is kept from step to step beside
    "dcgan": f"""
        digits-dcgan.yaml {SMALL} {APART} --model.generator.channels [8] --model.discriminator.channels [8,8]
        --model.penalties.r1 R1 --model.penalties.r1.every 4 --model.generator_schedules.lr Cosine
        --model.generator_schedules.lr.start 1e-3 --model.generator_schedules.lr.end 1e-4
    """,
    "wgan-gp": f"""
        digits-wgan-gp.yaml {SMALL} {APART} --model.generator.channels [8] --model.discriminator.channels [8,8]
        --model.critic_steps 3
    """,
    "cgan with ADA": f"""
        digits-cgan.yaml {SMALL} {APART} --model.generator.width 4 --model.discriminator.width 4
        --model.augment ADA --model.augment.speed 4_000 --model.further_half_lives [500]
    """,
    "sngan with LeCam": f"""
        digits-sngan.yaml {SMALL} {TOGETHER} --model.generator.width 2 --model.discriminator.width 4
        --model.penalties.lecam LeCam
    """,
    "r3gan": f"""
        digits-r3gan.yaml {SMALL} {APART} --max_images 1_800 --model.generator.channels [16,16]
        --model.discriminator.channels [16,16]
    """,
    "stylegan2": f"""
        digits-stylegan2.yaml {SMALL} {TOGETHER} --model.generator.latent_dim 8 --model.generator.style_dim 8
        --model.generator.channel_base 64 --model.discriminator.channel_base 64
    """,
}


def fit(recipe: str) -> list[str]:
    name, *options = RECIPES[recipe].split()
    return ["fit", "-c", str(CONF / name), *options, "--run_dir", RUN]


def go_through_all(command: Sequence[str], whole: Path, kills: Sequence[Kill], told: str, processes: int = 1) -> None:
    """Take runs to their ends, until each of the kills has had its turn, and compare all with the whole one."""
    number = 0
    while kills:
        folder = whole.with_name(str(number := number + 1))
        fallen = go_through(command, folder, kills, processes)
        found = differences(whole / RUN, folder / RUN)
        assert not found, f"killed {', then '.join(f'{kill} ({phase})' for kill, phase in fallen)}; {told}: {found}"
        kills = kills[max(1, len(fallen)) :]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_run_equals_one_that_never_was(recipe: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    rng = random.Random(seed)
    whole = tmp_path / "whole"
    whole.mkdir()
    known = start(fit(recipe), whole)
    # Each place has its turn with one of the recipes, and each recipe is killed at any moment, too.
    share = range(list(RECIPES).index(recipe), len(PLACES), len(RECIPES))
    kills = [Kill(place=PLACES[i], n=rng.randint(1, known.times[i])) for i in share]
    kills.insert(rng.randint(0, len(kills)), Kill(seconds=rng.uniform(0, known.seconds)))
    go_through_all(fit(recipe), whole, kills, f"again with KILL_SEED={seed}")


def test_processes_that_are_killed_together_equal_those_that_never_were(tmp_path: Path) -> None:
    command = [*fit("dcgan"), "--max_images", "1_000"]
    whole = tmp_path / "whole"
    whole.mkdir()
    known = start(command, whole, processes=2)
    names = ("between D's step and G's", "between previous.ckpt and last.ckpt")
    kills = [Kill(place=place, n=max(1, known.times[i] // 2)) for i, place in enumerate(PLACES) if place.name in names]
    go_through_all(command, whole, kills, "two processes", processes=2)

    alone = tmp_path / "alone"
    alone.mkdir()
    assert start(command, alone, kills[0], processes=2).killed
    start(["fit", "--resume", RUN], alone)
    assert (alone / RUN / "DONE").exists()
    assert "2 processes then, 1 now: the same images and latents" in (alone / "log").read_text()


def test_a_killed_run_keeps_its_place_with_wandb(tmp_path: Path) -> None:
    [place] = [place for place in PLACES if place.name == "while scoring"]
    command = [*fit("dcgan"), "--max_images", "900", "--wandb", "offline"]
    assert go_through(command, tmp_path / "killed", [Kill(place=place)]) != []
    run = tmp_path / "killed" / RUN
    known = (run / "wandb_id").read_text()
    records = [path.name for path in run.glob("wandb/offline-run-*")]
    assert len(records) == 2
    assert all(name.endswith(f"-{known}") for name in records)
