"""A `kubectl` whose cluster is a folder: `python tests/support/kubectl.py CLUSTER ARGUMENTS …`.

It knows what the executor asks, and answers in kubectl's words. A Job is a folder, and each of its
indexes a process of this machine that runs the command of the pod, with the secrets that it names.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml

CLUSTER = Path(sys.argv[1])
GIVEN = sys.argv[2:]
OPTIONS = dict(one.split("=", 1) for one in GIVEN if one.startswith("--") and "=" in one)
FLAGS = [one for one in GIVEN if one.startswith("--") and "=" not in one]
WORDS = [one for one in GIVEN if not one.startswith("--")]
# A shell stays beside the pod's process, to write down who it is and how it ends.
POD = """
trap : TERM
"$@" &
echo $! > $INDEX.pid
while kill -0 $! 2> /dev/null; do wait $!; status=$?; done
echo $status > $INDEX.end
"""


def refuse(said: str) -> NoReturn:
    print(f"Error from server {said}", file=sys.stderr)
    sys.exit(1)


def apply() -> None:
    job = yaml.safe_load(sys.stdin.read())
    name = job["metadata"]["name"]
    if OPTIONS.get("--dry-run") == "server":
        print(f"job.batch/{name} created (server dry run)")
        return
    folder = CLUSTER / name
    folder.mkdir()
    [container] = job["spec"]["template"]["spec"]["containers"]
    env = {
        entry["name"]: secret(**entry["valueFrom"]["secretKeyRef"]) for entry in container["env"]
    }
    for index in range(job["spec"]["completions"]):
        with (folder / f"{index}.log").open("wb") as log:
            subprocess.Popen(
                ["bash", "-c", POD, "pod", *container["command"]],
                cwd=folder,
                env={**os.environ, **env, "INDEX": str(index)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    print(f"job.batch/{name} created")


def secret(name: str, key: str) -> str:
    return str(json.loads((CLUSTER / "secrets.json").read_text())[name][key])


def ends(folder: Path) -> dict[int, int]:
    found = {int(path.stem): path.read_text() for path in folder.glob("*.end")}
    return {index: int(status) for index, status in found.items() if status}


def get(_: str, name: str) -> None:
    folder = CLUSTER / name
    if not folder.is_dir():
        refuse(f'(NotFound): jobs.batch "{name}" not found')
    found, pods = ends(folder), len(list(folder.glob("*.log")))
    done = ",".join(str(index) for index, status in sorted(found.items()) if status == 0)
    status: dict[str, Any] = {"ready": pods - len(found), "completedIndexes": done}
    if any(found.values()):
        status["conditions"] = [{"type": "Failed", "status": "True"}]
    print(json.dumps({"kind": "Job", "status": status}))


def logs() -> None:
    labels = dict(pair.split("=") for pair in OPTIONS["--selector"].split(","))
    index = labels.get("batch.kubernetes.io/job-completion-index", "*")
    for path in sorted((CLUSTER / labels["job-name"]).glob(f"{index}.log")):
        sys.stdout.write(path.read_text())


def delete(_: str, name: str) -> None:
    folder = CLUSTER / name
    if not folder.is_dir():
        return
    pids = [int(path.read_text()) for path in folder.glob("*.pid")]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if "--force" in FLAGS else signal.SIGTERM)
    while len(ends(folder)) < len(pids):
        time.sleep(0.05)
    folder.rename(CLUSTER / f"deleted-{name}")


VERBS: dict[str, Callable[..., None]] = {"apply": apply, "get": get, "logs": logs, "delete": delete}
VERBS[WORDS[0]](*WORDS[1:])
