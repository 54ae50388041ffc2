"""A SLURM of one's own: several nodes on one machine, in a folder, on 127.0.0.1 only, and nothing of it in /etc."""

import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd", "srun")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued waits for its credential to expire; shorter than twice KillWait it would overlap with itself.
AuthInfo=socket={folder}/munge.sock,cred_expire=10
KillWait=3
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldTimeout=10
SlurmdTimeout=6
MinJobAge=3600
ReturnToService=1
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""
# Nodes come in pairs with a feature, so that scenarios go on side by side, each on a pair.
NODE = "NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000 Feature=pair{pair}\n"


class Cluster:
    """Starts it; `stop` ends it, and all that runs on it.

    Args:
        folder: where it keeps everything. Its path must be short: there is a socket in it.
        pairs: number of pairs of nodes.
    """

    def __init__(self, folder: Path, pairs: int) -> None:
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, 2 * pairs + 1)]
        self._configuration = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "state").mkdir()
        port, *ports = free_ports(1 + len(self.nodes))
        nodes = [
            NODE.format(node=node, port=port, pair=index // 2)
            for index, (node, port) in enumerate(zip(self.nodes, ports, strict=True))
        ]
        self._configuration.write_text(CONFIGURATION.format(folder=folder, port=port) + "".join(nodes))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = {"key-file": key} | {f"{name}-file": self.folder / f"munge.{name}" for name in ("pid", "log", "seed")}
        socket_file = self.folder / "munge.sock"
        options = [f"--{name}={file}" for name, file in files.items()]
        self._daemon("munged", "--foreground", "--num-threads=2", f"--socket={socket_file}", *options)
        until(socket_file.exists, 10, lambda: "munged")
        self._daemon("slurmctld", "-D")
        for node in self.nodes:
            self.power_on(node)
        until(lambda: self._idle() == len(self.nodes), 30, lambda: f"all nodes\n{self.call('sinfo', '-N', check=False)}")

    def _idle(self) -> int:
        return int(self.call("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D", check=False) or 0)

    def stop(self) -> None:
        with suppress(subprocess.TimeoutExpired, OSError):
            self.call("scancel", "--user", "root", check=False)
            with suppress(AssertionError):
                until(lambda: not self.call("squeue", "-h", check=False), 15, lambda: "the end of all jobs")
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        kill(self._with_in_environment())  # what a lost node has left behind

    def power_on(self, node: str) -> None:
        self._daemon(node, "-D", "-N", node, program="slurmd")

    def power_off(self, node: str) -> None:
        """Kill a node with all that runs on it, as a failing power supply does."""
        self._kill_daemon(node)
        kill(self.processes(node))

    def cut_off(self, node: str) -> None:
        """Lose a node, as a failing network does: what runs on it goes on, unheard, and SLURM has given it up."""
        self._kill_daemon(node)
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def _kill_daemon(self, node: str) -> None:
        if (slurmd := self._daemons.pop(node, None)) is not None:
            slurmd.kill()
            slurmd.wait()

    def processes(self, node: str) -> set[int]:
        """Find what a node runs: it has the node's name in its environment; and the daemon that started that."""
        found = self._with_in_environment(f"SLURMD_NODENAME={node}")
        return found | {parent for parent in map(parent_of, found) if name_of(parent) == "slurmstepd"}

    def _with_in_environment(self, *variables: str) -> set[int]:
        """Find this cluster's processes, among them those with certain variables."""
        wanted = {variable.encode() for variable in (f"SLURM_CONF={self._configuration}", *variables)}
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.add(int(folder.name))
        return found

    def _daemon(self, name: str, *options: str, program: str | None = None) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [program or name, *options],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def environment(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        return outside | {"SLURM_CONF": str(self._configuration)}

    def call(self, *command: str, check: bool = True, **process: Any) -> str:
        """Run one of SLURM's commands and return what it prints."""
        process = {"env": self.environment()} | process
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **process)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def job(self, job: str) -> Mapping[str, str]:
        """Look a job up: JobState, Restarts, NodeList, ..."""
        words = self.call("scontrol", "show", "job", "--oneliner", job).split()
        return {name: value for name, _, value in (word.partition("=") for word in words)}


class Pair:
    """Two nodes of a cluster, and a folder from which jobs are submitted to them, for one scenario."""

    def __init__(self, cluster: Cluster, number: int, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.nodes = cluster.nodes[2 * number : 2 * number + 2]
        self._feature = f"pair{number}"
        (folder / "slurm").symlink_to(PROJECT / "slurm")

    def submit(self, *arguments: str, **environment: str) -> str:
        """Submit a job and return its id."""
        arguments = ("--parsable", "--time", "5", "--constraint", self._feature, *arguments)
        return self.cluster.call("sbatch", *arguments, cwd=self.folder, env=self.cluster.environment() | environment)

    def output(self) -> str:
        return "".join(f"{file.name}:\n{file.read_text()}" for file in self.folder.glob("*.out"))

    def wait(self, job: str, seconds: float = 90) -> Mapping[str, str]:
        """Wait for a job's end, through all its restarts, and look it up."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
        until(lambda: self.cluster.job(job)["JobState"] in ended, seconds, lambda: f"the end of job {job}\n{self.output()}")
        return self.cluster.job(job)


def until(condition: Callable[[], Any], seconds: float, what: Callable[[], str]) -> None:
    """Wait for something, not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what()}"
        time.sleep(0.1)


def kill(processes: Iterable[int]) -> None:
    """Kill all of them at once: stopped first, none can tell SLURM that another has died."""
    processes = list(processes)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)


def parent_of(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def name_of(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def free_ports(number: int) -> list[int]:
    """Find ports that nobody uses, outside those of Lightning under SLURM (15000 to 24999) and those given out at random."""
    ports: list[int] = []
    while len(ports) < number:
        port = random.randrange(25_000, 32_000)
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports
