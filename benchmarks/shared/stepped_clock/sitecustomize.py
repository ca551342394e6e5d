"""Python imports this at its start, where this folder is in PYTHONPATH: sleeps under libfaketime.

Since Python 3.11 `time.sleep` asks the monotonic clock for a moment to wake at, which libfaketime
refuses (EINVAL).
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]
