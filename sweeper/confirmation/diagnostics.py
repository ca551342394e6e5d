"""Health checks of a study: problems that make its result less reliable, and what to do."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pandas as pd
from scipy import special

from sweeper import formatting as fmt
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.intervals import Floats
from sweeper.confirmation.verdict import Verdict, search_gains
from sweeper.formatting import two_figures
from sweeper.metrics import METRICS
from sweeper.store.code import CodeRevision
from sweeper.store.records import EpochRow
from sweeper.study.dimensions import Range, Space
from sweeper.study.results import best, complete, failures

MIN_FINISHED: Final = 10
MAX_FAILED_SHARE: Final = 0.1
# Below this, intervals that use Student's t distribution are not reliable for skewed losses.
MIN_EXAMPLES: Final = 30
# Share of the training at whose end ε = 0 should no longer improve much.
LAST_PART: Final = 0.1
# Share of a range. A best value closer to an end than this suggests that the range is too narrow.
EDGE: Final = 0.02
_ERROR_RATE: Final = 0.05


def health_notes(
    trials: pd.DataFrame,
    space: Space,
    evidence: Evidence | None,
    verdict: Verdict | None,
    baseline_curve: Sequence[EpochRow] = (),
) -> tuple[str, ...]:
    """Return one note per problem; empty if there is none.

    `trials` is a frame as described in `sweeper.study.results`, `baseline_curve` are the
    evaluations of its best trial at ε = 0. The confirmation is checked only when it is complete.
    """
    complete_evidence = evidence if evidence is not None and evidence.complete else None
    finished = len(_finished(trials))
    notes = [*_few_trials(finished), *_many_failures(trials), *_unusual_reports(trials)]
    notes += _near_edge(trials, space, complete_evidence, verdict)
    if complete_evidence is not None:
        notes += _few_examples(complete_evidence)
        notes += _disagreement(complete_evidence, finished)
        notes += _seed_noise(complete_evidence, verdict)
        notes += _undertrained(baseline_curve, complete_evidence)
    return tuple(notes)


def code_notes(
    trials: pd.DataFrame, code: Sequence[CodeRevision], confirmed: int | None
) -> Iterator[str]:
    """Yield a note if the code of a study has changed, with what was trained with older code.

    `confirmed` is the code revision of the confirmation, None if there is no confirmation.
    """
    if len(code) < 2:
        return
    now, before = code[-1], code[-2]
    files = sorted(
        file
        for file in now.sources.keys() | before.sources.keys()
        if now.sources.get(file) != before.sources.get(file)
    )
    old = int((trials["code"] < now.revision).sum())
    note = (
        f"Changed code: at {fmt.moment(now.created)} the study was continued with --accept-code "
        f"after {', '.join(files)} changed (revision {now.revision})."
    )
    if old:
        note += (
            f" {old} of {len(trials)} trials were trained with older code (column code), so their "
            "scores may not be comparable with the others."
        )
    if confirmed is not None and confirmed < now.revision:
        note += " The confirmation was trained with older code too; confirm the study again."
    yield note


def evidence_notes(grade: str) -> Iterator[str]:
    """Yield a note if the scores were not computed by sweeper from logits; `grade` is a `Grade`."""
    if grade == "self-reported":
        yield (
            "Self-reported: the script computed these numbers itself, and sweeper could not check "
            "them. They guide the search, but there is no verdict. Deliver logits and labels, or "
            "the NLL of each example, for a verdict."
        )
    elif grade == "per-example":
        yield (
            "Per example: the script computed the NLL and the correctness of each example itself. "
            "The verdict is paired by example, but there is no temperature scaling and no ECE."
        )


def _finished(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the complete trials with a finite value, best first, without copied results."""
    done = complete(trials[trials["copied_from"].isna()])
    finite: pd.DataFrame = done.loc[np.isfinite(done["value"].to_numpy(float))]
    return finite


def _few_trials(count: int) -> Iterator[str]:
    # A study without finished trials has just begun, which the pages show anyway.
    if 0 < count < MIN_FINISHED:
        yield (
            f"Few trials: {count} finished, which is too few to explore the search space. "
            f"Run at least {MIN_FINISHED} (--trials)."
        )


def _many_failures(trials: pd.DataFrame) -> Iterator[str]:
    ended = int(trials["state"].isin(["complete", "pruned", "failed"]).sum())
    failed = int((trials["state"] == "failed").sum())
    if failed > MAX_FAILED_SHARE * ended:
        causes = fmt.failure_counts(failures(trials))
        why = f" ({causes})" if causes else ""
        yield (
            f"Failures: {failed} of {ended} trials failed{why}, so part of the space was not "
            "searched. Read the errors with sweeper logs, then fix the task or narrow the space."
        )


def _unusual_reports(trials: pd.DataFrame) -> Iterator[str]:
    noted = trials[[isinstance(text, str) and text != "" for text in trials["notes"]]]
    for _, first in noted.head(1).iterrows():
        yield (
            f"Reports: {len(noted)} of {len(trials)} trials have notes. The first is on trial "
            f"{first['number']}: {first['notes'].splitlines()[0]}."
        )


def _near_edge(
    trials: pd.DataFrame, space: Space, evidence: Evidence | None, verdict: Verdict | None
) -> Iterator[str]:
    # If smoothing does not help, there is no reason to search a wider range.
    if verdict is not None and verdict.word != "helps":
        return
    subject = "best trial" if evidence is None else "pick"
    epsilon, rate = _best_point(trials, evidence)
    if space.epsilon.high < 1 and _share(space.epsilon, epsilon) >= 1 - EDGE:
        yield _edge(
            f"{subject}'s ε",
            fmt.epsilon(epsilon),
            "upper",
            space.epsilon.high,
            "space.epsilon.high",
        )
    if _share(space.rate, rate) >= 1 - EDGE:
        yield _edge(
            f"{subject}'s annealing rate",
            two_figures(rate),
            "upper",
            space.rate.high,
            "space.rate.high",
        )
    if _share(space.rate, rate) <= EDGE:
        yield _edge(
            f"{subject}'s annealing rate",
            two_figures(rate),
            "lower",
            space.rate.low,
            "space.rate.low",
        )


def _best_point(trials: pd.DataFrame, evidence: Evidence | None) -> tuple[float, float]:
    """Return epsilon and rate of the pick or of the best trial; NaN if a value has no effect."""
    if evidence is None:
        row = best(_finished(trials))
    else:
        # From the frame: its rate is NaN where it has no effect; a point always has a number.
        rows = trials[trials["number"] == evidence.candidates[evidence.pick].trial]
        row = None if rows.empty else rows.iloc[0]
    return (math.nan, math.nan) if row is None else (float(row["epsilon"]), float(row["rate"]))


def _share(dimension: Range, value: float) -> float:
    """Return the position of a value in its range, from 0 to 1; NaN for NaN."""
    low, high = dimension.low, dimension.high
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _edge(subject: str, value: str, side: str, end: float, key: str) -> str:
    change = "Raise" if side == "upper" else "Lower"
    return (
        f"Edge of the range: the {subject}, {value}, is at the {side} end of the searched range "
        f"({end:g}), so a better value may lie outside it. {change} {key} in a new study."
    )


def _few_examples(evidence: Evidence) -> Iterator[str]:
    count = evidence.independent_examples
    if 1 < count < MIN_EXAMPLES:
        unit = "independent group" if evidence.grouped else "independent example"
        yield (
            f"Few test examples: the test split has {fmt.count_noun(count, unit)}. "
            f"Intervals from fewer than {MIN_EXAMPLES} are unreliable; use a larger test split."
        )


def _disagreement(evidence: Evidence, trials: int) -> Iterator[str]:
    """Yield a note if the fresh seeds contradict the pick's gain over ε = 0 in the search.

    `trials` is the number of finished trials that the pick was selected from.
    """
    gains = search_gains(evidence)
    if gains is None:
        return
    searched, fresh = gains
    name = f"validation {METRICS[evidence.metric].label}, pick minus ε = 0,"
    decimals = fmt.interval_decimals(fresh.difference)
    values = evidence.seed_differences(evidence.pick, fresh.against, "valid")
    shown = f"{fmt.signed(searched, decimals)} in the search"
    if searched < 0 < fresh.difference.low:
        yield (
            f"Search and confirmation disagree: {name} was {shown} and is "
            f"{fmt.difference(fresh.difference)} on fresh seeds. Rely on the fresh seeds; the "
            "search result comes from one seed and is optimistically biased by selection."
        )
    elif _outside_prediction(searched, values, trials):
        ends = (fmt.signed(float(end), decimals) for end in (values.min(), values.max()))
        yield (
            f"Search and confirmation disagree: {name} was {shown} and is {' to '.join(ends)} on "
            f"fresh seeds. Seed variation and selection among {trials} trials are unlikely to "
            "explain this. Check what else changed: package versions, device, data, or a training "
            "function that does not use its seed."
        )


def _outside_prediction(searched: float, values: Floats, trials: int) -> bool:
    """Return whether a value is outside the prediction interval for one new replicate.

    `values` (n,) are the replicates' values. The error rate is divided by the number of trials
    (Bonferroni), because the value was selected among that many.
    """
    count = len(values)
    sd = float(values.std(ddof=1))
    quantile = special.stdtrit(count - 1, 1 - _ERROR_RATE / (2 * max(trials, 1)))
    # 1e-6: the sd of equal replicates is only their rounding error.
    return bool(abs(searched - values.mean()) > quantile * sd * math.sqrt(1 + 1 / count) + 1e-6)


def _undertrained(curve: Sequence[EpochRow], evidence: Evidence) -> Iterator[str]:
    """Yield a note if ε = 0 still improves at its end by more than smoothing gains."""
    comparison = evidence.compare(evidence.pick, "nll")
    earlier = [row.nll for row in curve if row.progress <= 1 - LAST_PART and row.nll is not None]
    if comparison is None or comparison.word != "better" or not earlier:
        return
    last, gain = curve[-1].nll, -comparison.difference.estimate
    if last is not None and last <= min(earlier) and earlier[-1] - last > gain:
        yield (
            f"Baseline still improving: at ε = 0, validation NLL fell by "
            f"{two_figures(earlier[-1] - last)} in the last {LAST_PART:.0%} of training, more than "
            f"the pick gains ({two_figures(gain)}). Train longer or with a higher learning rate: "
            "the benefit of smoothing may be smaller then."
        )


def _seed_noise(evidence: Evidence, verdict: Verdict | None) -> Iterator[str]:
    """Yield a note if seeds explain an undecided verdict: the paired differences vary too much."""
    if verdict is None or verdict.word != "no benefit shown":
        return
    comparison = verdict.comparison
    differences = evidence.seed_differences(evidence.pick, comparison.against, "test")
    noise = float(differences.std(ddof=1))
    if noise > abs(comparison.difference.estimate):
        decimals = fmt.interval_decimals(comparison.difference)
        yield (
            f"Noise: the difference in test {METRICS[evidence.metric].label} between the pick and "
            f"ε = 0 has a standard deviation of {noise:.{decimals}f} across seeds, more than its "
            f"mean ({fmt.signed(comparison.difference.estimate, decimals)}). In a single training "
            "run, the seed matters more than smoothing. Increase the number of replicates "
            "(confirm.replicates) to measure a smaller difference."
        )
