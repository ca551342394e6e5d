"""Requests for the code of a study, and facts about it that do not require importing it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

# Start of the reference of an object that is pickled, as in "__main__:train".
MAIN: Final = "__main__:"
# The hyperparameter of every `Task` that selects the optimizer.
OPTIMIZER: Final = "optimizer"


@dataclass(frozen=True)
class CodeRequest:
    """The code that a study uses.

    `use` and `options` are those of the study file, `folder` contains its files. `schedules` are
    the custom schedules as "file.py:function". `values` are the values of each hyperparameter for
    which to check whether the task accepts them, together with each of its `contexts`, which are
    other hyperparameters. `pickled` is the path of the pickled function or
    task if `use` starts with "__main__:". `script` contains the arguments of `ScriptConfig` for a
    script; `use` is then "". `precision` is that of the built-in loop, None for that of the task.
    `ranks` is the number of processes of a training function.
    """

    use: str
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedules: Sequence[str] = ()
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    contexts: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    device: str = "auto"
    threads: int = 1
    seed: int = 0
    pickled: str = ""
    script: Mapping[str, Any] | None = None
    precision: str | None = None
    ranks: int = 1

    @property
    def has_files(self) -> bool:
        """Whether the study uses files of the user."""
        return (
            self.script is not None
            or bool(self.schedules)
            or ":" in self.use
            or self.use.endswith(".py")
        )


@dataclass(frozen=True)
class CodeFacts:
    """Facts about the code of a study.

    `is_task` is false for a training function. `sources` are the SHA-256 digests of the imported
    files. `accepts` are the hyperparameters that can be searched, None for any; `defaults` are
    their default values. `refused` lists for each hyperparameter the values that the task does not
    accept, as pairs of an index in `CodeRequest.values` and the reason. `unsafe_fork` is the reason
    why training runs cannot be forked from the process that imported the code, "" if they can.
    """

    is_task: bool
    sources: Mapping[str, str] = field(default_factory=dict)
    accepts: Sequence[str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)
    unsafe_fork: str = ""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
