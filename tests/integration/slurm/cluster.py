"""A real Slurm cluster on this machine: munged, slurmctld and one slurmd for each of two nodes, all on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.ranks import free_port

HOST = socket.gethostname().split(".")[0]
NODES = (HOST, f"{HOST}-b")
"""The first has an address, where the ranks of both meet; it comes first among their sorted names too."""
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
ENVIRONMENT = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

CONF = """\
ClusterName=test
# Launchers meet on a port that is made of the job's number.
FirstJobId={first_job}
SlurmctldHost=localhost
SlurmctldPort={ctld_port}
AuthType=auth/munge
# A requeued job waits for as long as a credential is valid; by default 120 s.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PropagateResourceLimits=NONE
MpiDefault=none
ReturnToService=2
# By default 300: what a node that is gone goes unnoticed for.
SlurmdTimeout=10
KillWait=30
MinJobAge=600
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here, in words; None where there can."""
    without = [name for name in DAEMONS if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    if without:
        return f"no {', '.join(without)} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "only root starts slurmd"
    try:
        socket.gethostbyname(HOST)
    except OSError:
        return f"this machine's name, {HOST}, has no address"
    return None


@dataclasses.dataclass
class Cluster:
    folder: Path
    first_job: int = 1
    """Its number. Clusters on one machine need jobs of unlike numbers: their ports and names would be the same."""
    daemons: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        nodes = [
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={free_port()} CPUs=1"
            for name in NODES
        ]
        conf = CONF.format(
            first_job=self.first_job,
            ctld_port=free_port(),
            folder=self.folder,
            user=getpass.getuser(),
            nodes="\n".join(nodes),
        )
        (self.folder / "slurm.conf").write_text(conf)
        self.environment = ENVIRONMENT | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons, wait until both nodes are idle."""
        munge = [f"--{name}={self.folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file")]
        munge += [f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munge.seed"]
        self._run("munged", "munged", "--foreground", "--force", "--num-threads=2", *munge)
        until(lambda: (self.folder / "munge.socket").exists(), "munged listens")
        self._run("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        until(lambda: self.states() == {"idle"}, "the nodes are idle", say=self.log)

    def start_node(self, node: str) -> None:
        self._run(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str, *, slurmd_alone: bool = False) -> None:
        """End a node with no word said: its slurmd, and else its jobs' keepers and all their processes too."""
        slurmd = psutil.Process(self.daemons.pop(node).pid)
        tasks = [] if slurmd_alone else [each for each in psutil.process_iter() if self._runs_on(each, node)]
        keepers = {parent for task in tasks if (parent := task.parent()) and "slurmstepd" in parent.name()}
        for victim in [slurmd, *keepers, *tasks]:  # a keeper would report the end of its tasks
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()

    def _runs_on(self, process: psutil.Process, node: str) -> bool:
        try:
            variables = process.environ()
        except psutil.Error:
            return False
        ours = variables.get("SLURM_CONF") == self.environment["SLURM_CONF"]
        return ours and variables.get("SLURMD_NODENAME") == node

    def stop(self) -> None:
        """End all jobs, then the daemons, the last started first."""
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--user", getpass.getuser()], env=self.environment, timeout=30, check=False)
            deadline = time.monotonic() + 45
            while self.ask("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.5)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    # ------------------------------------------------------------------------------------------------ questions

    def ask(self, *words: str) -> str:
        """What a command of Slurm's prints; the empty string where it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    def states(self) -> set[str]:
        """Of the nodes."""
        return set(self.ask("sinfo", "--noheader", "--Node", "--format", "%T").split())

    def job(self, number: int, field: str) -> str:
        """A field of ``scontrol show job``."""
        found = re.search(rf"\b{field}=(\S+)", self.ask("scontrol", "show", "job", str(number)))
        return found[1] if found else ""

    def log(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.folder.glob("*.log"))
        )

    def _run(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                words, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )


def until(happens: Callable[[], bool], what: str, seconds: float = 60, say: Callable[[], str] = lambda: "") -> None:
    """Wait; fail with ``what`` was waited for after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{say()}"
        time.sleep(0.2)
