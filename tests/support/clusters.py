"""Real engines on this machine, and a stand-in for the one that cannot run here."""

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SLURM = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
# https://slurm.schedmd.com/slurm.conf.html, for one node that says it has four cores.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,sched_interval=1
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_slurm() -> Iterator[dict[str, str]]:
    """Yield the environment of Slurm's commands for a cluster of this machine alone."""
    missing = [name for name in SLURM if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"Slurm cannot run here: {', '.join(missing) or 'this is not root'}")
    folder = Path(tempfile.mkdtemp(prefix="sweeper-slurm-"))
    folder.chmod(0o755)  # munged and what jobs run as other users go through it
    for name in ("munge", "secret", "spool", "state"):
        (folder / name).mkdir()
    ports = {"controller": free_port(), "daemon": free_port()}
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, **ports))
    env = {"SLURM_CONF": str(conf)}
    processes = [_munged(folder)]
    try:
        for name in ("slurmctld", "slurmd"):
            log = (folder / f"{name}.out").open("wb")
            processes.append(
                subprocess.Popen([name, "-D"], env={**os.environ, **env}, stdout=log, stderr=log)
            )
            log.close()
        _until_idle(env, folder)
        yield env
        everyone = ["scancel", f"--user={getpass.getuser()}"]
        subprocess.run(everyone, env={**os.environ, **env}, check=True)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            process.wait(30)
        shutil.rmtree(folder)


def _munged(folder: Path) -> "subprocess.Popen[bytes]":
    key = folder / "secret" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    (folder / "secret").chmod(0o700)
    user = getpass.getuser()
    for path in (folder / "munge", folder / "secret", key):
        shutil.chown(path, user)
    files = {
        "key-file": key,
        "socket": folder / "munge" / "socket",
        "pid-file": folder / "munge" / "pid",
        "log-file": folder / "secret" / "log",
        "seed-file": folder / "secret" / "seed",
    }
    options = [f"--{name}={path}" for name, path in files.items()]
    return subprocess.Popen(
        ["munged", "--foreground", "--force", *options], stderr=subprocess.DEVNULL
    )


def _until_idle(env: dict[str, str], folder: Path) -> None:
    command = ["sinfo", "--noheader", "--format=%T"]
    said = ""
    for _ in range(120):
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        said = done.stdout.strip() or done.stderr.strip()
        if said == "idle":
            return
        subprocess.run(["sleep", "0.25"], check=True)
    logs = "\n".join(path.read_text(errors="replace") for path in folder.glob("*.out"))
    raise AssertionError(f"Slurm's node does not come up: {said}\n{logs}")


def fake_command(folder: Path, name: str, script: str) -> None:
    """Put a shell script into a folder as a command."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def fake_kubectl(folder: Path) -> None:
    """Put a `kubectl` into a folder whose cluster is a folder too: see tests/support/kubectl.py."""
    program = ROOT / "tests" / "support" / "kubectl.py"
    cluster = folder / "cluster"
    cluster.mkdir(parents=True)
    command = shlex.join([sys.executable, str(program), str(cluster)])
    fake_command(folder, "kubectl", f'exec {command} "$@"')
