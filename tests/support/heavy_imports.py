"""Run commands in one process; print as JSON how each ended and which heavy packages it imported.

`python -m tests.support.heavy_imports COMMAND …`, where a command is one argument: "status NAME",
or "import MODULE".
"""

import json
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Final

from sweeper.cli import main

HEAVY: Final = frozenset(
    {"torch", "optuna", "sqlalchemy", "pandas", "sklearn", "scipy", "plotly", "alembic"}
)


def run(command: str) -> tuple[int, list[str]]:
    """Run one command; return its exit status and the heavy packages that are imported after it."""
    first, *rest = shlex.split(command)
    if first == "import":
        import_module(*rest)
        return 0, sorted(HEAVY & sys.modules.keys())
    sys.argv = ["sweeper", first, *rest]
    status = 0
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return status, sorted(HEAVY & sys.modules.keys())


if __name__ == "__main__":
    print(json.dumps({command: run(command) for command in sys.argv[1:]}))
