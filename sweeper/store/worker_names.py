"""Worker names, as they are stored with the tickets that a worker holds."""

import re
from typing import Final, NamedTuple

from sweeper import limits


class WorkerName(NamedTuple):
    """Host, process id and number of slots of a worker."""

    host: str
    pid: int
    slots: int


# Host, process id, process identity, slots. Earlier versions did not write the slots.
WORKER_NAME: Final = re.compile(r"(.*):([0-9]{1,10}):([^:]*):[^:-]*(?:-([0-9]{1,10}))?", re.DOTALL)


def parse_worker_name(worker: str) -> WorkerName:
    """Return host, process id and slots of a worker; an unknown form is used as the host."""
    match = WORKER_NAME.fullmatch(worker)
    if match is None:
        return WorkerName(worker[: limits.QUERY_TEXT_LENGTH], 0, 1)
    return WorkerName(match[1], int(match[2]), int(match[4] or 1))
