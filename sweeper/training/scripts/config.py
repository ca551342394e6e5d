"""How a study runs its script; this module does not import torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sweeper.training.messages import Grade

# The macros of a command, with the meaning that they have in W&B sweeps.
MACROS: Final = (
    *("env", "interpreter", "program"),
    *("args", "args_no_hyphens", "args_json", "args_json_file"),
    "envvar",
)
# The values besides hyperparameters and options that flags can pass.
SMOOTHING_NAMES: Final = ("epsilon", "label_smoothing", "schedule", "rate", "seed", "data_seed")
# Exit status of a script that wants to be started again (EX_TEMPFAIL).
REQUEUE: Final = 75

_MACRO: Final = re.compile(r"\$\{([A-Za-z_]\w*(?::[^}]*)?)\}")


def macros_of(argument: str) -> list[str]:
    """Return the macros of an argument of a command, without `${` and `}`."""
    return _MACRO.findall(argument)


def replace_macros(argument: str, values: Mapping[str, str]) -> str:
    """Replace the macros of an argument; values are inserted without a second replacement."""
    return _MACRO.sub(lambda found: values[found[1]], argument)


@dataclass(frozen=True)
class ScriptConfig:
    """The script of a study: the keys of [task], and `folder`, in which it runs.

    `calibrates` says whether the search minimizes a score after temperature scaling.
    `evidence` is None if the first thing that a trial delivers decides.
    """

    folder: str
    command: Sequence[str]
    program: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    loss: str | None = None
    evidence: Grade | None = None
    pattern: str | None = None
    classes: int | None = None
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    calibrates: bool = False
