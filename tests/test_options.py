"""What a user can get wrong on the command line."""

from pathlib import Path

import pytest

from lightning_gan.__main__ import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.lsos", "x"], "There is no option --model.lsos. Did you mean --model.loss?"),
        (["--model.generator.wdth", "3"], "--model.generator: DCGANGenerator has no option 'wdth'. Did you mean width?"),
        (["--data.batchsize", "3"], "--data: Digits has no option 'batchsize'. Did you mean batch_size?"),
        (["--model.generator.width", "x"], "--model.generator.width must be int, not 'x'."),
        (["--data.batch_size", "x"], "--data.batch_size must be int, not 'x'."),
        (["--data.batch_size", "0"], "--data.batch_size must be at least 1, not 0."),
        (["--max_images", "-3"], "--max_images must be >0, not -3."),
        (["--wandb", "maybe"], "--wandb must be one of 'auto', 'online', 'offline', 'off', not 'maybe'."),
        (["--data", "Nope"], "--data: 'Nope' is neither the name of a class that fits here nor a readable file."),
        (["--model.critic_steps", "0"], "critic_steps must be at least 1, not 0."),
        (["--samples.every_images", "-1"], "SampleGrid cannot act every -1 images."),
        (["--data.image_size", "27"], "the network halves images at least once: it needs more channels or an even size"),
        (["--model.penalties.cr", "Consistency"], "Consistency needs to be told its transform."),
        (["--model.penalties.r1.weight", "Linear"], "Linear needs to be told its start and end."),
        (["--model.penalties.r1", "null"], "--model.penalties.r1 cannot be 'null'."),
        (["--model.penalties.update", "R1"], "a penalty needs another name: attribute 'update' already exists."),
        (["--model.loss", "Relativistic", "--model.augment", "ADA"], "which means nothing under Relativistic"),
        (["--model.generator_schedules.foreach", "Cosine"], "Cosine needs to be told its start and end."),
        (["-c", "nope.yaml"], "The configuration nope.yaml cannot be read: No such file or directory."),
        (["-c", "list.yaml"], "The configuration list.yaml is not a mapping of keys to values."),
        (["-c", "broken.yaml"], "The configuration broken.yaml is not YAML:"),
        (["-c", "loop.yaml"], "The configuration loop.yaml includes itself."),
        (["-c", "include.yaml"], "`include` in the configuration include.yaml must be a list of files."),
        (["-c", "unknown.yaml"], "'max_imges'"),
        (["--ckpt_path", "nope.ckpt"], "There is no checkpoint nope.ckpt."),
        (["--ckpt_path", "damaged.ckpt"], "damaged.ckpt is damaged, or not a checkpoint."),
        (["--trainer.accelerator", "warp"], "warp"),
        (["--trainer.devices", "3.5"], "`devices` selected with `CPUAccelerator` should be an int > 0."),
        (["--trainer.precision", "7"], "--trainer.precision cannot be '7': it takes one of 64, 32, 16, "),
        (["--trainer.precision", "bf16-true"], "--trainer.precision must be 32-true, bf16-mixed or 16-mixed, not bf16-true."),
        (["--max_images", "1e6"], "--max_images must be a whole number, not '1e6'."),
        (["--model", "nope"], "--model: there is no configuration file nope."),
        (["--model.generator", "DCGANDiscriminator"], "neither the name of a class that fits here"),
        (["--model.generator.latent_dim", "0"], "latent_dim must be at least 1, not 0."),
        (["--model.generator_clip_norm", "-1"], "generator_clip_norm must be positive, not -1.0."),
        (["--model.ema_half_life", "-5"], "the average's half-life must not be negative, and is -5.0."),
        (["--model.penalties.r1.weight", "-1"], "a penalty's weight must not be negative, and is -1.0."),
        (["--samples.columns", "0"], "a grid needs columns and rows, not 0 and 8."),
        (["--seed_everything", "-1"], "--seed_everything must be at least 0 and less than 2^32, and is -1."),
        (["--name", "../elsewhere"], "--name ../elsewhere cannot name a folder."),
        (["--data", "ImageFolder"], "Which images? Say so with --data.root=FOLDER."),
        (
            ["--data", "ImageFolder", "--data.root", "nowhere"],
            "nowhere does not exist; let --data.root name a folder of images.",
        ),
        (["--trainer.gradient_clip_val", "1"], "--model.generator_clip_norm"),
    ],
)
def test_what_a_user_can_get_wrong_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "list.yaml": "[1, 2]",
        "broken.yaml": "a: [1",
        "loop.yaml": "include: [loop.yaml]",
        "include.yaml": "include: x.yaml",
        "unknown.yaml": "max_imges: 3",
        "damaged.ckpt": "not a checkpoint",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(["fit", "--wandb", "off", "--max_images", "64", *options]) == 2
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert not list(tmp_path.glob("runs/*/*"))
