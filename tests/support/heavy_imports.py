"""Run commands in one process and print, as JSON, which heavy packages each has imported.

`python -m tests.support.heavy_imports COMMAND …`, where a command is one argument: "status NAME".
"""

import json
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from typing import Final

from sweeper.cli import main

HEAVY: Final = frozenset(
    {"torch", "optuna", "sqlalchemy", "pandas", "sklearn", "scipy", "plotly", "alembic"}
)


def imported_by(command: str) -> list[str]:
    """Run one command; return the heavy packages that are imported after it."""
    sys.argv = ["sweeper", *shlex.split(command)]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), suppress(SystemExit):
        main()
    return sorted(HEAVY & sys.modules.keys())


if __name__ == "__main__":
    print(json.dumps({command: imported_by(command) for command in sys.argv[1:]}))
