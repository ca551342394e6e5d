"""Checks of a study's health: what makes its answer doubtful, what that means, what to do."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
from scipy import special

from sweeper.confirmation.evidence import MEANS, Evidence
from sweeper.confirmation.intervals import Floats
from sweeper.confirmation.verdict import METRICS, Verdict
from sweeper.study.results import best, complete, failures
from sweeper.study.spec import Range, Space

FEWEST_FINISHED: Final = 10
MOST_FAILED: Final = 0.1
# Of the range: as near to an end as this the best may lie beyond it.
EDGE: Final = 0.02
_ERROR_RATE: Final = 0.05


def health(
    trials: pd.DataFrame, space: Space, evidence: Evidence | None, verdict: Verdict | None
) -> tuple[str, ...]:
    """Return a sentence for each thing that is amiss; none where nothing is.

    `trials` as `sweeper.study.results` says. What concerns the confirmation is asked once all
    of it is there.
    """
    done = evidence if evidence is not None and evidence.complete else None
    searched = len(_finished(trials))
    found = [*_few(searched), *_failing(trials), *_noted(trials)]
    found += _at_the_edge(trials, space, done, verdict)
    if done is not None:
        found += [*_disagreeing(done, searched), *_drowned(done)]
    return tuple(found)


def _finished(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that were trained to a value, best first."""
    done = complete(trials[trials["copied_from"].isna()])
    kept: pd.DataFrame = done.loc[np.isfinite(done["value"].to_numpy(float))]
    return kept


def _few(count: int) -> Iterator[str]:
    # None at all is no search yet, and said elsewhere.
    if 0 < count < FEWEST_FINISHED:
        yield (
            f"Few trials: {count} finished, and the best of so few says little about the space. "
            f"Run at least {FEWEST_FINISHED} (--trials)."
        )


def _failing(trials: pd.DataFrame) -> Iterator[str]:
    ended = int(trials["state"].isin(["complete", "pruned", "failed"]).sum())
    failed = int((trials["state"] == "failed").sum())
    if failed > MOST_FAILED * ended:
        causes = ", ".join(f"{count} {cause}" for cause, count in failures(trials).items() if cause)
        why = f" ({causes})" if causes else ""
        yield (
            f"Failures: {failed} of {ended} trials failed{why}, so that part of the space was not "
            "searched. Read why with sweeper logs, then mend the task or narrow the space."
        )


def _noted(trials: pd.DataFrame) -> Iterator[str]:
    noted = trials[[isinstance(text, str) and text != "" for text in trials["notes"]]]
    for _, first in noted.head(1).iterrows():
        yield (
            f"Reports: {len(noted)} of {len(trials)} trials have notes. The first, on trial "
            f"{first['number']}: {first['notes'].splitlines()[0]}."
        )


def _at_the_edge(
    trials: pd.DataFrame, space: Space, evidence: Evidence | None, verdict: Verdict | None
) -> Iterator[str]:
    # Beyond the end of a range where nothing helps there is nothing to look for.
    if verdict is not None and verdict.word != "helps":
        return
    who = "best trial" if evidence is None else "pick"
    epsilon, rate = _best_point(trials, evidence)
    if space.epsilon.high < 1 and _share(space.epsilon, epsilon) >= 1 - EDGE:
        yield _edge(f"{who}'s ε", epsilon, "upper", space.epsilon.high, "space.epsilon.high")
    if _share(space.rate, rate) >= 1 - EDGE:
        yield _edge(f"{who}'s rate", rate, "upper", space.rate.high, "space.rate.high")
    if _share(space.rate, rate) <= EDGE:
        yield _edge(f"{who}'s rate", rate, "lower", space.rate.low, "space.rate.low")


def _best_point(trials: pd.DataFrame, evidence: Evidence | None) -> tuple[float, float]:
    """Return epsilon and rate of the pick, or of the best trial; NaN for what does not act."""
    if evidence is None:
        row = best(_finished(trials))
    else:
        # The frame knows where a rate does not act; the point has a number all the same.
        tried = trials[trials["number"] == evidence.candidates[evidence.pick].trial]
        row = None if tried.empty else tried.iloc[0]
    return (math.nan, math.nan) if row is None else (float(row["epsilon"]), float(row["rate"]))


def _share(dimension: Range, value: float) -> float:
    """Return where in its range a value lies, 0 to 1; NaN, which is at no end, for NaN."""
    low, high = dimension.low, dimension.high
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _edge(whose: str, value: float, side: str, end: float, key: str) -> str:
    change = "Raise" if side == "upper" else "Lower"
    return (
        f"Edge of the range: the {whose}, {value:.3g}, is at the {side} end of what was searched "
        f"({end:g}), so that a better one may lie beyond. {change} {key} in a new study."
    )


def _disagreeing(evidence: Evidence, searched: int) -> Iterator[str]:
    """Say where the replicates' validation values do not bear the search's out."""
    pick, base = evidence.candidates[evidence.pick], evidence.candidates[0]
    again = evidence.compare(evidence.pick, evidence.metric, "valid")
    if again is None or pick.searched is None or base.searched is None:
        return
    name, on_fresh = METRICS[evidence.metric], f"{again.mean:.3f} against {again.baseline:.3f}"
    if pick.searched < base.searched and again.difference.estimate > 0:
        yield (
            f"Search and replicates disagree: in the search the pick's validation {name} was "
            f"better than at ε = 0 ({pick.searched:.3f} against {base.searched:.3f}), on fresh "
            f"seeds it is worse ({on_fresh}). Believe the replicates: the gain was one seed's luck."
        )
    elif _out_of_reach(pick.searched, _valid(evidence), searched):
        yield (
            f"Search and replicates disagree: the search gave the pick a validation {name} of "
            f"{pick.searched:.3f}, its replicates have {_spread(_valid(evidence))}: further apart "
            f"than seeds and the luck of being the best of {searched} explain. Look for what else "
            "changed: versions, device, data, or a loop that does not train from its seed."
        )


def _valid(evidence: Evidence) -> Floats:
    """Return the pick's validation values (n,) in the study's metric."""
    pairs = evidence.pairs(evidence.pick)
    return np.array([mine.scores["valid"][evidence.metric] for mine, _ in pairs], dtype=float)


def _spread(values: Floats) -> str:
    return f"{values.min():.3f} to {values.max():.3f}"


def _out_of_reach(searched: float, values: Floats, trials: int) -> bool:
    """Return whether a value is outside the prediction interval of one more replicate.

    The level is divided by the number of trials, since the value was chosen among theirs.
    """
    count = len(values)
    sd = float(values.std(ddof=1))
    reach = special.stdtrit(count - 1, 1 - _ERROR_RATE / (2 * max(trials, 1)))
    # 1e-6: equal replicates have an sd of their rounding alone.
    return bool(abs(searched - values.mean()) > reach * sd * math.sqrt(1 + 1 / count) + 1e-6)


def _drowned(evidence: Evidence) -> Iterator[str]:
    """Say where seeds alone move the test score by more than any candidate does."""
    name = MEANS[evidence.metric]
    values = [float(r.examples[name].mean()) for r in evidence.done[0].values()]
    found = [evidence.compare(i, evidence.metric) for i in range(1, len(evidence.candidates))]
    sizes = [abs(each.difference.estimate) for each in found if each is not None]
    if len(values) < 2 or not sizes:
        return
    noise = float(np.std(values, ddof=1))
    if noise > max(sizes):
        yield (
            f"Noise: from seed to seed the test {METRICS[evidence.metric]} at ε = 0 varies by "
            f"{noise:.2g} (standard deviation), more than any candidate differs from it (at most "
            f"{max(sizes):.2g}). In one training the choice hardly counts; only more replicates "
            "(confirm.replicates) can tell the candidates apart."
        )
