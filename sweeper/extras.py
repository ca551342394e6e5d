"""The optional dependencies ("extras"), and the error if the packages of one are missing."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final, Literal

from sweeper.errors import SweeperError
from sweeper.version import DISTRIBUTION

Extra = Literal["sweep", "serve", "postgresql", "mysql", "ray", "huggingface", "lightning", "timm"]

# The import names of what each extra adds to torch and numpy; pyproject.toml lists the packages.
_SWEEP: Final = (
    *("alembic", "cloudpickle", "filelock", "jinja2", "optuna", "optuna_dashboard", "pandas"),
    *("plotly", "psutil", "pydantic", "rich", "scipy", "sklearn", "sqlalchemy", "tomli_w"),
    *("typer", "yaml"),
)
MODULES: Final[dict[Extra, tuple[str, ...]]] = {
    "sweep": _SWEEP,
    "serve": (*_SWEEP, "a2wsgi", "fastapi", "python_multipart", "uvicorn"),
    "postgresql": (*_SWEEP, "psycopg"),
    "mysql": (*_SWEEP, "pymysql"),
    "ray": (*_SWEEP, "ray"),
    "huggingface": (*_SWEEP, "accelerate", "transformers"),
    "lightning": (*_SWEEP, "lightning"),
    "timm": (*_SWEEP, "timm"),
}


class MissingExtra(SweeperError, ImportError):
    """The packages of an extra are not installed."""


def require(extra: Extra, feature: str) -> None:
    """Raise `MissingExtra` with the command to run, unless the packages of an extra are installed.

    `feature` is what needs them, as a user knows it: a command, a function or a setting.
    """
    missing = [name for name in MODULES[extra] if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{feature} needs packages that are not installed ({_shortened(missing)}); "
            f"run: {pip_install(extra)}"
        ) from None


def pip_install(extra: Extra) -> str:
    """Return the command that installs an extra."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'


def _shortened(names: Sequence[str]) -> str:
    shown, others = ", ".join(names[:3]), len(names) - 3
    return f"{shown} and {others} more" if others > 0 else shown
