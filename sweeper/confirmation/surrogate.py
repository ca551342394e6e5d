"""A Gaussian process over trials: the lowest of many noisy values is optimistically biased."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeper.study.dimensions import Dimension, Range, Space
from sweeper.study.space import hparams_of

Floats = NDArray[np.float64]

# With fewer trials than this, no process is fitted.
MIN_TRIALS: Final = 5
_TINY: Final = 1e-12


def embed(rows: pd.DataFrame, space: Space) -> Floats:
    """Return configurations as points (N, D), so that similar training runs are close.

    `rows` have the columns epsilon, schedule, rate (NaN if it has no effect) and hp_NAME (missing
    if inactive). Epsilon and the other hyperparameters are scaled to their ranges. Schedule and
    rate are multiplied by the scaled epsilon, so that their effect vanishes as epsilon goes to 0
    and ε = 0 is one point.
    """
    epsilon = rows["epsilon"].to_numpy(float) / space.epsilon.high
    rate = np.array([_share(space.rate, value) for value in rows["rate"]])
    # Centered, so that a schedule without a rate lies in the middle of those with one.
    rate = np.where(np.isnan(rate), 0.0, rate - 0.5)
    schedules = [epsilon * (rows["schedule"] == name) for name in sorted(set(rows["schedule"]))]
    extras = [
        column
        for name, dimension in space.extras.items()
        for column in _columns(dimension, rows[f"hp_{name}"], conditional=name in space.conditions)
    ]
    # √½ makes the distance between two schedules equal to their scaled epsilon.
    return np.column_stack(
        [epsilon, epsilon * rate, *(math.sqrt(0.5) * column for column in schedules), *extras]
    )


def distances(points: Floats, to: Floats) -> Floats:
    """Return the Euclidean distances (N,) of points (N, D) to one point (D,)."""
    lengths: Floats = np.linalg.norm(points - to, axis=1)
    return lengths


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A Gaussian process over finished trials, fitted to the logarithm of a positive score.

    `rows` are the trials, `column` is the name of the score. With fewer than `MIN_TRIALS` trials,
    or if all scores are equal, the estimates are the scores themselves.
    """

    rows: pd.DataFrame
    space: Space
    column: str

    def estimates(self) -> tuple[Floats, Floats]:
        """Return the smoothed scores (N,) of the trials and the standard errors of their logs."""
        return self.predict(self.rows)

    def predict(self, rows: pd.DataFrame) -> tuple[Floats, Floats]:
        """Return smoothed scores and standard errors for other configurations.

        Their schedules must be among those of the trials.
        """
        process, scale = self._process, self._logs.std()
        if process is None:
            return rows[self.column].to_numpy(float), np.zeros(len(rows))
        # Together with the trials, so that the schedules have the same columns.
        all_rows = pd.concat([self.rows, rows], ignore_index=True)
        points = embed(all_rows, self.space)[len(self.rows) :]
        mean, error = process.predict(points, return_std=True)
        # The error of the mean of a configuration, without the noise of a single trial.
        variance = np.maximum(error**2 - process.kernel_.k2.noise_level, 0.0)
        return np.exp(self._logs.mean() + scale * mean), scale * np.sqrt(variance)

    @cached_property
    def _logs(self) -> Floats:
        logs: Floats = np.log(np.maximum(self.rows[self.column].to_numpy(float), _TINY))
        return logs

    @cached_property
    def _process(self) -> Any | None:
        logs = self._logs
        if len(logs) < MIN_TRIALS or np.ptp(logs) == 0:
            return None
        # Lazy import: scikit-learn takes half a second, and trials do not need it.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        points = embed(self.rows, self.space)
        kernel = ConstantKernel(1.0, (0.1, 100.0)) * Matern(
            np.ones(points.shape[1]), (0.2, 20.0), nu=2.5
        ) + WhiteKernel(0.1, (1e-3, 1.0))
        with warnings.catch_warnings():
            # A length scale at its bound is harmless: that column has no effect.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return GaussianProcessRegressor(kernel).fit(points, (logs - logs.mean()) / logs.std())


def _share(dimension: Range, value: float) -> float:
    low, high = dimension.low, dimension.high
    if dimension.log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _columns(dimension: Dimension, values: pd.Series, *, conditional: bool) -> list[Floats]:
    if isinstance(dimension, Range):
        numbers = pd.to_numeric(values).to_numpy(float)
        shares = np.array([_share(dimension, number) for number in numbers])
        # Centered like the rate, so that inactive values are in the middle.
        return [np.where(np.isnan(shares), 0.0, shares - 0.5) if conditional else shares]
    return [np.sqrt(0.5) * (values == choice).to_numpy(np.float64) for choice in dimension]


def one_row(point: Mapping[str, Any]) -> pd.DataFrame:
    """Return a configuration as a frame with one row, as `embed` takes it."""
    hparams = {f"hp_{name}": value for name, value in hparams_of(point).items()}
    rate = point["rate"] if point["rate"] is not None else math.nan
    smoothing = {"epsilon": point["epsilon"], "schedule": point["schedule"], "rate": rate}
    return pd.DataFrame([{**smoothing, **hparams}])
