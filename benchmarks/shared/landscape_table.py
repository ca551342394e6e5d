"""The tabulated landscape of digits: its grid, and how its file is read.

`python -m benchmarks.landscape` trains the table and describes what it holds.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweeper.smoothing import SCHEDULES, Smoothing
from sweeper.study.sampler import REPORTS

Floats = NDArray[np.float64]

FILE: Final = Path(__file__).parents[1] / "landscape.npz"
TASKS: Final[dict[str, dict[str, Any]]] = {"clean": {}, "noisy": {"label_noise": 0.2}}
# Denser where ε is small, because the landscape bends there.
EPSILONS: Final = (
    *(0.0, 0.01, 0.02, 0.035, 0.05, 0.07, 0.09, 0.12),
    *(0.15, 0.185, 0.22, 0.26, 0.3, 0.35, 0.4),
)
RATES: Final = tuple(float(rate) for rate in np.geomspace(0.3, 12.0, 6))


class Columns:
    """The columns of one training run."""

    RAW: Final = slice(0, REPORTS)  # validation NLL at each report; the last is at the end
    SCALED: Final = slice(REPORTS, 2 * REPORTS)
    TEST: Final = 2 * REPORTS
    TEST_SCALED: Final = 2 * REPORTS + 1
    ACCURACY: Final = 2 * REPORTS + 2
    COUNT: Final = 2 * REPORTS + 3


def rows() -> list[Smoothing]:
    """Return the configurations of the table, ε = 0 first; those without a rate have None."""
    found = [Smoothing(0.0, "fixed", None)]
    for name, schedule in SCHEDULES.items():
        rates = RATES if schedule.uses_rate else (None,)
        found += [Smoothing(e, name, rate) for e in EPSILONS[1:] for rate in rates]
    return found


@dataclass(frozen=True, eq=False)
class Landscape:
    """The table of one task, (seeds, rows, columns)."""

    table: Floats

    @classmethod
    def read(cls, task: str, path: Path = FILE) -> "Landscape":
        """Read the table of a task; seeds that are not complete are left out."""
        with np.load(path) as there:
            table = there[task].astype(float)
        whole = ~np.isnan(table).any((1, 2))
        return cls(table[whole])

    @property
    def seeds(self) -> int:
        return len(self.table)

    def at(self, smoothing: Smoothing) -> Floats:
        """Return the columns of a configuration for each seed, (seeds, columns)."""
        if smoothing.epsilon == 0:
            return self.table[:, 0]
        grid = self._grids[smoothing.schedule]
        low, share = _between(np.array(EPSILONS), smoothing.epsilon)
        by_rate = (1 - share) * grid[:, low] + share * grid[:, low + 1]
        if smoothing.rate is None:
            return np.asarray(by_rate[:, 0])
        low, share = _between(np.log(RATES), float(np.log(smoothing.rate)))
        return np.asarray((1 - share) * by_rate[:, low] + share * by_rate[:, low + 1])

    @cached_property
    def _grids(self) -> dict[str, Floats]:
        """The values by schedule, (seeds, epsilons, rates, columns), with ε = 0 at every rate."""
        grids, start = dict[str, Floats](), 1
        for name, schedule in SCHEDULES.items():
            rates = len(RATES) if schedule.uses_rate else 1
            count = (len(EPSILONS) - 1) * rates
            own = self.table[:, start : start + count].reshape(self.seeds, -1, rates, Columns.COUNT)
            zero = np.repeat(self.table[:, None, :1], rates, axis=2)
            grids[name] = np.concatenate([zero, own], axis=1)
            start += count
        return grids


def _between(grid: Floats, value: float) -> tuple[int, float]:
    """Return the index of the grid point below a value, and the fraction of the way to the next."""
    low = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2))
    share = (value - grid[low]) / (grid[low + 1] - grid[low])
    return low, float(np.clip(share, 0.0, 1.0))
