"""What is worth training again: the pick, other answers, ε = 0 and the common default.

All of it is chosen from the search alone, before anything is trained again.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from sweeper.confirmation.surrogate import Floats, Smoothed, distances, embedded
from sweeper.errors import SweeperError
from sweeper.smoothing import to_others
from sweeper.study.constraint import Constraint, parse_constraint
from sweeper.study.results import baseline, complete
from sweeper.study.space import canonical, hparams_of
from sweeper.study.spec import StudySpec

Role = Literal["baseline", "default", "pick", "runner-up"]

# Of the unit range of epsilon: nearer ones are one answer.
APART: Final = 0.2
MOST: Final = 500
DEFAULT_LABEL_SMOOTHING: Final = 0.1
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A configuration to confirm; `trial`, `searched` and `smoothed` are the search's of it.

    `searched` is what its trial reached in the study's metric, `smoothed` what the process over
    all trials expects there. None for what the search did not try.
    """

    role: Role
    point: Mapping[str, Any]
    trial: int | None = None
    searched: float | None = None
    smoothed: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def candidates(spec: StudySpec, trials: pd.DataFrame, classes: int) -> tuple[Candidate, ...]:
    """Return what to confirm: ε = 0 first, then the pick, the other answers, the default.

    ε = 0 and the default have the pick's other hyperparameters, so that a difference is
    smoothing's alone. Raises `SweeperError` where the search gives nothing to confirm.
    """
    if baseline(trials) is None:
        raise SweeperError("ε = 0 has not finished: there is nothing to compare with")
    chosen = shortlist(spec, trials)
    alike = hparams_of(chosen[0].point)
    epsilon = to_others(DEFAULT_LABEL_SMOOTHING, classes)
    zero = {"epsilon": 0.0, "schedule": "fixed", "rate": 1.0, **alike}
    without = _given("baseline", zero, spec, trials)
    default = _given("default", {**zero, "epsilon": epsilon}, spec, trials)
    return _distinct([without, *chosen, default])


def shortlist(spec: StudySpec, trials: pd.DataFrame) -> tuple[Candidate, ...]:
    """Return the pick and the next best answers that are not about the same as one before."""
    rows = fewer(eligible(spec, trials))
    means, errors = Smoothed(rows, spec.space, "value").estimates()
    first = _picked(spec, rows, means, errors)
    order = [first, *(row for row in np.argsort(means, kind="stable") if row != first)]
    apart = _spread(embedded(rows, spec.space), order, spec.confirm.shortlist)
    return tuple(
        _tried("runner-up" if place else "pick", rows.iloc[row], means[row], spec)
        for place, row in enumerate(apart)
    )


def eligible(spec: StudySpec, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the finished trials with ε > 0 that keep to the constraint.

    Raises `SweeperError` where there is none.
    """
    done: pd.DataFrame = complete(trials[trials["copied_from"].isna()])
    done = done.loc[np.isfinite(done["value"]) & (done["epsilon"] > 0)]
    if done.empty:
        raise SweeperError("no trial with ε > 0 has finished: there is nothing to confirm")
    constraint = constraint_of(spec)
    base = baseline(trials)
    if constraint is None or base is None:
        return done.reset_index(drop=True)
    bound = float(base[constraint.score])
    kept = done.loc[[constraint.holds(value, bound) for value in done[constraint.score]]]
    if kept.empty:
        raise SweeperError(
            f"none of {len(done)} finished trials with ε > 0 keeps to confirm.constraint "
            f"({constraint.text}; {constraint.score} is {bound:.4g} at ε = 0)"
        )
    return kept.reset_index(drop=True)


def fewer(rows: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """Return at most so many of rows that come best first, the best half of them whole.

    The process over them is cubic in their number.
    """
    if len(rows) <= most:
        return rows
    rest = np.linspace(most // 2, len(rows) - 1, most - most // 2).astype(int)
    return rows.iloc[[*range(most // 2), *rest]].reset_index(drop=True)


def constraint_of(spec: StudySpec) -> Constraint | None:
    """Return the study's constraint."""
    text = spec.confirm.constraint
    return None if text is None else parse_constraint(text)


def _picked(spec: StudySpec, rows: pd.DataFrame, means: Floats, errors: Floats) -> int:
    """Return the row that the study's rule picks."""
    best = int(means.argmin())
    match spec.confirm.choice:
        case "one_standard_error":
            near = np.log(means) <= math.log(means[best]) + errors[best]
            within = np.where(near, rows["epsilon"].to_numpy(float), np.inf)
            return int(np.lexsort((means, within))[0])
        case "knee":
            error = 1.0 - rows["accuracy"].to_numpy(float)
            wrong, _ = Smoothed(rows.assign(error=error), spec.space, "error").estimates()
            return knee(means, wrong)
    return best


def knee(costs: Floats, others: Floats) -> int:
    """Return the point of the front of two costs that lies farthest below the front's chord.

    Both are scaled to the front's range (Das 1999). A front of one or two points, or a straight
    one, gives the one with the lowest first cost.
    """
    order = np.lexsort((others, costs))
    below = np.minimum.accumulate(others[order])
    front = order[np.r_[True, others[order][1:] < below[:-1]]]
    x, y = (_scaled(values[front]) for values in (costs, others))
    gain = 1.0 - x - y
    # 1e-12: the two ends lie on the chord but for rounding.
    return int(front[gain.argmax() if gain.max() > _TINY else 0])


def _scaled(values: Floats) -> Floats:
    length = np.ptp(values)
    return (values - values.min()) / length if length else np.zeros(len(values))


def _spread(points: Floats, order: Iterable[int], count: int) -> list[int]:
    """Return the first rows of an order that are `APART`; nearer ones where there are too few."""
    rows, apart = list(order), APART
    while True:
        chosen: list[int] = []
        for row in rows:
            if len(chosen) < count and _far(points, chosen, row, apart):
                chosen.append(row)
        if len(chosen) == min(count, len(rows)) or apart == 0.0:
            return chosen
        apart = apart / 2 if apart > APART / 8 else 0.0


def _far(points: Floats, chosen: list[int], row: int, apart: float) -> bool:
    return not chosen or bool(distances(points[chosen], points[row]).min() > apart)


def _tried(role: Role, row: pd.Series, mean: float, spec: StudySpec) -> Candidate:
    return Candidate(role, _point(row, spec), int(row["number"]), float(row["value"]), float(mean))


def _point(row: pd.Series, spec: StudySpec) -> dict[str, Any]:
    rate = 1.0 if pd.isna(row["rate"]) else float(row["rate"])
    extras = {name: _plain(row[f"hp_{name}"]) for name in spec.space.extras}
    smoothing = {"epsilon": float(row["epsilon"]), "schedule": str(row["schedule"]), "rate": rate}
    return {**smoothing, **extras}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _given(
    role: Role, point: Mapping[str, Any], spec: StudySpec, trials: pd.DataFrame
) -> Candidate:
    """Return what is compared whether the search tried it or not."""
    key = canonical(point)
    for _, row in complete(trials).iterrows():
        if canonical(_point(row, spec)) == key:
            return Candidate(role, point, int(row["number"]), float(row["value"]))
    return Candidate(role, point)


def _distinct(given: Iterable[Candidate]) -> tuple[Candidate, ...]:
    first: dict[Any, Candidate] = {}
    for candidate in given:
        first.setdefault(canonical(candidate.point), candidate)
    return tuple(first.values())
