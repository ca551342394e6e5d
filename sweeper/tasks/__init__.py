"""The built-in tasks, by their name in study files."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.training.task import Task


@dataclass(frozen=True)
class BuiltInTask:
    """A built-in task: a one-line description, and the module and function of its factory."""

    description: str
    module: str
    function: str

    def factory(self) -> "Callable[..., Task]":
        """Import the module of the task and return its factory."""
        factory: Callable[..., Task] = getattr(import_module(self.module), self.function)
        return factory


BUILT_IN_TASKS = {
    "digits": BuiltInTask(
        "1,797 handwritten digits of 8x8 pixels; MLP or small CNN; optional label noise",
        "sweeper.tasks.digits",
        "digits",
    ),
}
