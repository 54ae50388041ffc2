"""Stands in for `python -m lightning_gan fit` where running a sweep is tested: it scores its options, and needs no torch.

`--model.x=0.5 --seed_everything=1` ends at fid_random 0.5 + 0.01 after three scores; `--model.x=-1` diverges, `--model.x=-2`
fails and `--model.x=-3` waits after the first score for a signal, on which it saves, until it is resumed.
"""

import os
import signal
import sys
import time
from pathlib import Path

words = sys.argv[1:]
assert words[:3] == ["-m", "lightning_gan", "fit"], words
resuming = words[3] == "--resume"
options = dict(word.lstrip("-").partition("=")[::2] for word in words[3:] if "=" in word)
run = Path(words[4] if resuming else options["run_dir"])
config = run / "config.yaml"
if not resuming:
    run.mkdir(parents=True)
    config.write_text("\n".join(words))
options |= dict(word.lstrip("-").partition("=")[::2] for word in config.read_text().splitlines() if "=" in word)
x, seed = float(options["model.x"]), int(options["seed_everything"])

if x == -2:
    sys.exit("error: there is something wrong with the data.")
with (run / "metrics.csv").open("a") as file:
    if not resuming:
        print("images_seen,step,epoch,fid_random", file=file)
        print(f"100,0,0,{x + 2}", file=file, flush=True)
    if x == -1:
        (run / "events.jsonl").write_text('{"kind": "divergence", "images_seen": 150}\n')
        sys.exit("error: Training diverged.")
    if x == -3 and not resuming:

        def save(number: int, _: object) -> None:
            (run / "saved").write_text(signal.Signals(number).name)
            sys.exit(128 + number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, save)
        (run / "group").write_text(str(os.getpgrp()))
        (run / "waiting").touch()
        time.sleep(60)
    print(f"200,1,0,{x + 1}", file=file)
    print(f"300,2,0,{x + 0.01 * seed}", file=file)
(run / "DONE").touch()
