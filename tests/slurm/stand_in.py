"""Stands in for `python -m lightning_gan` where scheduling is tested: it counts instead of training, and needs no torch.

It keeps the contract of `fit`: `config.yaml` written and markers cleared away at the start, something saved every ten steps and
when it is asked to stop, DONE or REQUEUE at the end. STEPS of 50 ms each; the first STARTING seconds heed no signal.
"""

import os
import signal
import sys
import time
from pathlib import Path

options = sys.argv[1:]
assert options[:3] == ["-m", "lightning_gan", "fit"], options
assert "MASTER_ADDR" in os.environ
resuming = "--resume" in options
run = Path(options[options.index("--resume" if resuming else "--run_dir") + 1])
first = os.environ["SLURM_PROCID"] == "0"
steps = int(os.environ.get("STEPS", "60"))
asked: list[int] = []

if first:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "starts").open("a") as file:
        print(os.environ["SLURMD_NODENAME"], *options[3:], file=file)
time.sleep(float(os.environ.get("STARTING", "0")))
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: asked.append(number))

if first:
    (run / "config.yaml").touch(exist_ok=resuming)
    for marker in ("DONE", "REQUEUE"):
        (run / marker).unlink(missing_ok=True)
saved = run / "saved"
step = int(saved.read_text()) if saved.exists() else 0
while step < steps and not asked:
    time.sleep(0.05)
    step += 1
    if first:
        with (run / "steps").open("a") as file:
            print(step, file=file)
        if step % 10 == 0:
            saved.write_text(str(step))
if first:
    saved.write_text(str(step))
    (run / ("DONE" if step == steps else "REQUEUE")).touch()
