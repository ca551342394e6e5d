"""A smoothed estimate of what each configuration gives: the best of many trials is lucky."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeper.study.space import hparams_of
from sweeper.study.spec import Dimension, Range, Space

Floats = NDArray[np.float64]

# Below this there is nothing to smooth by.
FEWEST: Final = 5
_TINY: Final = 1e-12


def embedded(rows: pd.DataFrame, space: Space) -> Floats:
    """Return configurations as points (N, D) whose distance says how differently they train.

    `rows` have epsilon, schedule, rate (NaN where it does not act) and hp_NAME columns. Epsilon
    is in shares of its range; schedule and rate count in proportion to it, so that they fade
    where it does and ε = 0 is one point. Other hyperparameters are in shares of theirs.
    """
    epsilon = rows["epsilon"].to_numpy(float) / space.epsilon.high
    rate = np.array([_share(space.rate, value) for value in rows["rate"]])
    # Centred: a schedule without a rate lies amid those with one.
    rate = np.where(np.isnan(rate), 0.0, rate - 0.5)
    schedules = [epsilon * (rows["schedule"] == name) for name in sorted(set(rows["schedule"]))]
    extras = [
        column
        for name, dimension in space.extras.items()
        for column in _columns(dimension, rows[f"hp_{name}"])
    ]
    # √½: two schedules at the same epsilon are then one epsilon apart.
    return np.column_stack(
        [epsilon, epsilon * rate, *(math.sqrt(0.5) * column for column in schedules), *extras]
    )


def distances(points: Floats, to: Floats) -> Floats:
    """Return the distance of each of points (N, D) to one point (D,)."""
    length: Floats = np.linalg.norm(points - to, axis=1)
    return length


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A Gaussian process over finished trials, on the logarithm of a score that is above 0.

    `rows` are the trials, `column` the score. With fewer than `FEWEST` trials, or where all are
    equal, the estimates are the scores themselves.
    """

    rows: pd.DataFrame
    space: Space
    column: str

    def estimates(self) -> tuple[Floats, Floats]:
        """Return for each trial the smoothed score and the standard error of its logarithm."""
        return self.at(self.rows)

    def at(self, rows: pd.DataFrame) -> tuple[Floats, Floats]:
        """Return the same for other configurations, of the schedules that were tried."""
        process, scale = self._process, self._logs.std()
        if process is None:
            return rows[self.column].to_numpy(float), np.zeros(len(rows))
        both = pd.concat([self.rows, rows], ignore_index=True)
        points = embedded(both, self.space)[len(self.rows) :]
        mean, error = process.predict(points, return_std=True)
        # What is asked for is the mean of a configuration, not one more noisy trial.
        variance = np.maximum(error**2 - process.kernel_.k2.noise_level, 0.0)
        return np.exp(self._logs.mean() + scale * mean), scale * np.sqrt(variance)

    @cached_property
    def _logs(self) -> Floats:
        logs: Floats = np.log(np.maximum(self.rows[self.column].to_numpy(float), _TINY))
        return logs

    @cached_property
    def _process(self) -> Any | None:
        logs = self._logs
        if len(logs) < FEWEST or np.ptp(logs) == 0:
            return None
        # Late: half a second that no trial has a use for.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        points = embedded(self.rows, self.space)
        kernel = ConstantKernel(1.0, (0.1, 100.0)) * Matern(
            np.ones(points.shape[1]), (0.2, 20.0), nu=2.5
        ) + WhiteKernel(0.1, (1e-3, 1.0))
        with warnings.catch_warnings():
            # A length at its bound is no fault: that column does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return GaussianProcessRegressor(kernel).fit(points, (logs - logs.mean()) / logs.std())


def _share(dimension: Range, value: float) -> float:
    low, high = dimension.low, dimension.high
    if dimension.log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _columns(dimension: Dimension, values: pd.Series) -> list[Floats]:
    if isinstance(dimension, Range):
        return [np.array([_share(dimension, float(value)) for value in values])]
    return [np.sqrt(0.5) * (values == choice).to_numpy(np.float64) for choice in dimension]


def one_row(point: Mapping[str, Any]) -> pd.DataFrame:
    """Return a configuration as a row of a trials frame."""
    hparams = {f"hp_{name}": value for name, value in hparams_of(point).items()}
    rate = point["rate"] if point["rate"] is not None else math.nan
    smoothing = {"epsilon": point["epsilon"], "schedule": point["schedule"], "rate": rate}
    return pd.DataFrame([{**smoothing, **hparams}])
