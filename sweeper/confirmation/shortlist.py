"""Selection of the candidates of a confirmation: ε = 0, the pick, runners-up, the default.

All are selected from the results of the search alone, before any of them is retrained.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from sweeper.confirmation.candidate import Candidate, Role
from sweeper.confirmation.surrogate import Floats, Surrogate, distances, embed
from sweeper.errors import SweeperError
from sweeper.metrics import METRICS
from sweeper.smoothing import to_others
from sweeper.study.constraint import Constraint, parse_constraint
from sweeper.study.dimensions import Space
from sweeper.study.results import baseline, complete
from sweeper.study.space import active_point, canonical, complete_point, hparams_of
from sweeper.study.spec import StudySpec

# Minimum distance of two candidates, in units of the epsilon range; see `embed`.
MIN_DISTANCE: Final = 0.2
MAX_FITTED: Final = 500
DEFAULT_LABEL_SMOOTHING: Final = 0.1
_TINY: Final = 1e-12


def select_candidates(
    spec: StudySpec, trials: pd.DataFrame, classes: int | None
) -> tuple[Candidate, ...]:
    """Return the candidates: ε = 0 first, then the pick, the runners-up and the default.

    `classes` is None if it is not known; the default is then ε = 0.1 in the convention `others`.
    ε = 0 and the default get the pick's other hyperparameters, so that they differ from the pick
    only in smoothing. If other hyperparameters are searched, ε = 0 is also a candidate with the
    values that are best for it: untuned, it makes smoothing look better than it is. Raises
    `SweeperError` if there is nothing to confirm.
    """
    if baseline(trials) is None:
        raise SweeperError("ε = 0 has not finished, so there is no baseline to compare with")
    selected = shortlist(spec, trials)
    pick = selected[0].point
    epsilon = (
        DEFAULT_LABEL_SMOOTHING if classes is None else to_others(DEFAULT_LABEL_SMOOTHING, classes)
    )
    zero = with_fixed_smoothing(pick, 0.0, spec.space)
    base = _candidate_from_point("baseline", zero, spec, trials)
    smoothed = with_fixed_smoothing(pick, epsilon, spec.space)
    default = _candidate_from_point("default", smoothed, spec, trials)
    tuned = _tuned_baseline(spec, trials)
    return _drop_duplicates([base, *tuned, *selected, default], spec.space)


def _tuned_baseline(spec: StudySpec, trials: pd.DataFrame) -> Iterator[Candidate]:
    """Yield the best trial at ε = 0, selected like the pick by the smoothed metric."""
    done: pd.DataFrame = complete(trials[trials["copied_from"].isna()])
    done = done.loc[np.isfinite(done["value"]) & (done["epsilon"] == 0)]
    rows = thin_out(done.reset_index(drop=True))
    if len(rows):
        means, _ = Surrogate(rows, spec.space, "value").estimates()
        row = int(means.argmin())
        yield _candidate_from_trial("tuned baseline", rows.iloc[row], means[row], spec)


def with_fixed_smoothing(point: Mapping[str, Any], epsilon: float, space: Space) -> dict[str, Any]:
    """Return a point with the schedule "fixed" and this epsilon, and nothing else changed.

    A hyperparameter that only the schedule "fixed" uses gets the middle of its range.
    """
    smoothing = {"epsilon": epsilon, "schedule": "fixed", "rate": 1.0}
    filled = complete_point({**smoothing, **hparams_of(point)}, space, {})
    return active_point({**smoothing, **filled}, space)


def shortlist(spec: StudySpec, trials: pd.DataFrame) -> tuple[Candidate, ...]:
    """Return the pick and the next best trials that differ enough from those before them."""
    rows = thin_out(eligible_trials(spec, trials))
    means, errors = Surrogate(rows, spec.space, "value").estimates()
    pick = _pick_row(spec, rows, means, errors)
    order = [pick, *(row for row in np.argsort(means, kind="stable") if row != pick)]
    selected = _select_spread(embed(rows, spec.space), order, spec.confirm.shortlist)
    return tuple(
        _candidate_from_trial("runner-up" if place else "pick", rows.iloc[row], means[row], spec)
        for place, row in enumerate(selected)
    )


def eligible_trials(spec: StudySpec, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the complete trials with ε > 0 that satisfy the constraint, best first.

    Raises `SweeperError` if there is none.
    """
    done: pd.DataFrame = complete(trials[trials["copied_from"].isna()])
    done = done.loc[np.isfinite(done["value"]) & (done["epsilon"] > 0)]
    if done.empty:
        raise SweeperError("no trial with ε > 0 has finished")
    constraint = constraint_of(spec)
    base = baseline(trials)
    if constraint is None or base is None:
        return done.reset_index(drop=True)
    bound = float(base[constraint.score])
    feasible = done.loc[[constraint.holds(value, bound) for value in done[constraint.score]]]
    if feasible.empty:
        metric = METRICS[constraint.score]
        raise SweeperError(
            f"none of {len(done)} finished trials with ε > 0 satisfies confirm.constraint "
            f"({constraint.text}; {metric.label} is {metric.write(bound)} at ε = 0)"
        )
    return feasible.reset_index(drop=True)


def thin_out(rows: pd.DataFrame, most: int = MAX_FITTED) -> pd.DataFrame:
    """Return at most `most` of the rows, which are sorted best first.

    The first half of the result are the best rows; the second half is spread evenly over the
    rest. The limit is needed because a Gaussian process takes cubic time.
    """
    if len(rows) <= most:
        return rows
    rest = np.linspace(most // 2, len(rows) - 1, most - most // 2).astype(int)
    return rows.iloc[[*range(most // 2), *rest]].reset_index(drop=True)


def constraint_of(spec: StudySpec) -> Constraint | None:
    """Return the parsed `confirm.constraint`, None if there is none."""
    text = spec.confirm.constraint
    return None if text is None else parse_constraint(text)


def _pick_row(spec: StudySpec, rows: pd.DataFrame, means: Floats, errors: Floats) -> int:
    """Return the index of the row that `confirm.choice` selects."""
    best = int(means.argmin())
    match spec.confirm.choice:
        case "one_standard_error":
            near = np.log(means) <= math.log(means[best]) + errors[best]
            within = np.where(near, rows["epsilon"].to_numpy(float), np.inf)
            return int(np.lexsort((means, within))[0])
        case "knee":
            error = 1.0 - rows["accuracy"].to_numpy(float)
            wrong, _ = Surrogate(rows.assign(error=error), spec.space, "error").estimates()
            return knee(means, wrong)
    return best


def knee(costs: Floats, others: Floats) -> int:
    """Return the index of the knee of the Pareto front of two costs (N,) each (Das 1999).

    The knee is the point farthest below the line between the ends of the front, with both costs
    scaled to the range of the front. If the front has fewer than three points or is straight, it
    is the point with the lowest first cost.
    """
    order = np.lexsort((others, costs))
    below = np.minimum.accumulate(others[order])
    front = order[np.r_[True, others[order][1:] < below[:-1]]]
    x, y = (_scaled(values[front]) for values in (costs, others))
    gain = 1.0 - x - y
    # `_TINY`: because of rounding, the two ends may not lie exactly on the line.
    return int(front[gain.argmax() if gain.max() > _TINY else 0])


def _scaled(values: Floats) -> Floats:
    span = np.ptp(values)
    return (values - values.min()) / span if span else np.zeros(len(values))


def _select_spread(points: Floats, order: Iterable[int], count: int) -> list[int]:
    """Return the first `count` rows of an order that are more than `MIN_DISTANCE` from each other.

    If there are too few such rows, the distance is halved, down to 0.
    """
    rows, apart = list(order), MIN_DISTANCE
    while True:
        selected: list[int] = []
        for row in rows:
            if len(selected) < count and _is_far(points, selected, row, apart):
                selected.append(row)
        if len(selected) == min(count, len(rows)) or apart == 0.0:
            return selected
        apart = apart / 2 if apart > MIN_DISTANCE / 8 else 0.0


def _is_far(points: Floats, selected: list[int], row: int, apart: float) -> bool:
    return not selected or bool(distances(points[selected], points[row]).min() > apart)


def _candidate_from_trial(role: Role, row: pd.Series, mean: float, spec: StudySpec) -> Candidate:
    return Candidate(role, _point(row, spec), int(row["number"]), float(row["value"]), float(mean))


def _point(row: pd.Series, spec: StudySpec) -> dict[str, Any]:
    rate = 1.0 if pd.isna(row["rate"]) else float(row["rate"])
    extras = {
        name: _plain(row[f"hp_{name}"])
        for name in spec.space.extras
        if not pd.isna(row[f"hp_{name}"])
    }
    smoothing = {"epsilon": float(row["epsilon"]), "schedule": str(row["schedule"]), "rate": rate}
    return {**smoothing, **extras}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _candidate_from_point(
    role: Role, point: Mapping[str, Any], spec: StudySpec, trials: pd.DataFrame
) -> Candidate:
    """Return a candidate for a point, with its trial if the search tried it."""
    key = canonical(point, spec.space)
    for _, row in complete(trials).iterrows():
        if canonical(_point(row, spec), spec.space) == key:
            return Candidate(role, point, int(row["number"]), float(row["value"]))
    return Candidate(role, point)


def _drop_duplicates(candidates: Iterable[Candidate], space: Space) -> tuple[Candidate, ...]:
    first: dict[Any, Candidate] = {}
    for candidate in candidates:
        first.setdefault(canonical(candidate.point, space), candidate)
    return tuple(first.values())
