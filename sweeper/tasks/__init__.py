"""The ready tasks, by the name that a study file uses."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from sweeper.training.task import Task


@dataclass(frozen=True)
class Ready:
    """A ready task: what it is in one line, and where its factory is."""

    description: str
    module: str
    function: str

    def factory(self) -> Callable[..., Task]:
        """Return the factory; its module, and what that needs, is imported only now."""
        factory: Callable[..., Task] = getattr(import_module(self.module), self.function)
        return factory


READY = {
    "digits": Ready(
        "1,797 handwritten digits of 8x8 pixels; an MLP or a small CNN; label noise if wanted",
        "sweeper.tasks.digits",
        "digits",
    ),
}
