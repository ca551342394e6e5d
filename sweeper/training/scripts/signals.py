"""Ends a script by a signal, and ends this process by the signal that ended the script."""

import os
import re
import resource
import signal
import subprocess
from contextlib import suppress
from typing import Final

# How torchrun reports a rank that was ended by a signal. Its own exit status is 1 then.
_RANK_SIGNAL: Final = re.compile(
    r"^\s*traceback\s*: Signal (\d+) \(SIG\w+\) received by PID \d+\s*$", re.MULTILINE
)
# torchrun ends the other ranks with these.
_OF_TORCHRUN: Final = (signal.SIGTERM, signal.SIGINT)


def signal_in(output: str) -> int:
    """Return the signal that ended a rank of torchrun according to its output, 0 if none did."""
    signals = [int(number) for number in _RANK_SIGNAL.findall(output)]
    return next((number for number in signals if number not in _OF_TORCHRUN), 0)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the script and its process group; the keeper kills other descendants."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_of(number: int) -> None:
    """End this process like the script, by a signal; its keeper then handles both alike.

    No-op if the number is 0.
    """
    if not number:
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
