"""Run the quick mode of every benchmark, or of those that are named, and report which fail.

A benchmark fails if its exit status is not 0 or if it takes more than 60 s.

Run       python -m benchmarks [NAME ...]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
LIMIT_SECONDS = 60


class Outcome(NamedTuple):
    """How a benchmark ended; the exit status is None if it was stopped at the limit."""

    seconds: float
    status: int | None
    output: str

    def words(self) -> str:
        """Return one line about the end, with the parts that were skipped."""
        if self.status is None:
            return f"failed: took more than {LIMIT_SECONDS} s"
        if self.status:
            return f"failed: exit status {self.status}"
        skipped = [line for line in self.output.splitlines() if line.startswith("skipped: ")]
        return "; ".join(["ok", *skipped])


def run_quick(name: str) -> Outcome:
    """Run the quick mode of a benchmark; stop it and its descendants at the limit."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=FOLDER.parent,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _stop(process)
        seconds = time.perf_counter() - began
        output.seek(0)
        return Outcome(seconds, status, output.read())


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process group, so that it cleans up; kill it if it is not gone after 10 s."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def main() -> int:
    """Run the benchmarks one after another; return 1 if any failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    failed = 0
    for name in given.names or NAMES:
        outcome = run_quick(name)
        print(f"{name:12} {outcome.seconds:5.1f} s  {outcome.words()}", flush=True)
        if outcome.status != 0:
            failed += 1
            print(outcome.output, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
