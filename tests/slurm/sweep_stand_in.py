"""Stands in for python where `slurm/sweep.sbatch` is tested: for `sweep --task`, W&B's agent and, by stand_in.py, `fit`."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

words = sys.argv[1:]
if words[:3] == ["-m", "lightning_gan", "sweep"]:
    assert words[3] == "s.yaml"
    run = Path("sweep", words[words.index("--task") + 1])
    if not (run / "DONE").exists():
        print(run, *([] if run.exists() else ["-c", "a file.yaml", *words[6:]]), sep="\0", end="\0")
elif words[:3] == ["-m", "wandb", "agent"]:
    assert words[3:] == ["--count", "1", "me/gan/abc"]
    with Path("agents").open("a") as file:
        print(os.environ["SLURM_ARRAY_TASK_ID"], file=file)
    fit = ["/usr/bin/env", "python", "-m", "lightning_gan", "fit", "-c", "a file.yaml", "--model.x=1"]
    subprocess.run(fit, env=os.environ | {"WANDB_RUN_ID": "run7"}, process_group=0, check=False)
else:
    runpy.run_path(str(Path(__file__).with_name("stand_in.py")), run_name="__main__")
