"""Does ε change the training, and is there smoothing at ε = 0?"""

import math
from collections.abc import Sequence
from statistics import mean, median, variance
from typing import Final, NamedTuple

from sweeper.checking.finding import CheckLine, finding, ok, unchecked
from sweeper.checking.runs import ObservedRun
from sweeper.training.observation.record import ReportRecord, SmoothingEstimates

EFFECT: Final = "ε has an effect"
HIDDEN: Final = "hidden smoothing"
REPEATS: Final = "repeatability"

# Estimates of the smoothing are exact up to rounding errors below 0.01; twice that is a difference.
_ZERO: Final = 0.02
# Share of the steps that must agree.
_AGREE: Final = 0.8
# Share of the steps in which the smoothing must be measurable. With two or three classes, the rows
# of a batch are compared, and mixup can look like smoothing in single steps.
_MEASURED: Final = 0.2
_MEASURED_FEW_CLASSES: Final = 0.5
# Two-sided 1% quantiles of Student's t for 1, 2, … degrees of freedom; then those of the normal.
_T: Final = (63.66, 9.92, 5.84, 4.60, 4.03, 3.71, 3.50, 3.36, 3.25, 3.17)
_T_LIMIT: Final = 3.17


def repeatability(first: ObservedRun, second: ObservedRun) -> CheckLine:
    """Say whether two runs with the same configuration and seed are equal."""
    if same_outputs(first, second):
        return ok(REPEATS, "two runs with the same seed are identical")
    a, b = (_statistic(run) for run in (first, second))
    values = "" if a is None or b is None else f": {a.name} {a.value:.4f} and {b.value:.4f}"
    return ok(REPEATS, f"two runs with the same seed differ{values}")


def effect(zeros: Sequence[ObservedRun], smoothed: Sequence[ObservedRun]) -> CheckLine | None:
    """Say whether ε changes the training; None if more runs are needed to decide."""
    first, other, epsilon = zeros[0], smoothed[0], smoothed[0].epsilon
    change = _measured_change(zeros, smoothed)
    if same_outputs(first, other):
        if change is not None and change > _ZERO:
            reason = "the loss is smoothed, but the model has not learned anything yet"
            return unchecked(EFFECT, f"the outputs are the same with and without ε: {reason}")
        return _no_effect(f"the outputs at ε = {epsilon:g} are identical to those at ε = 0")
    if change is not None:
        if change > _ZERO:
            return ok(EFFECT, f"at ε = {epsilon:g}, label_smoothing of the loss is {change:.2g}")
        return _no_effect(
            f"at ε = {epsilon:g}, the gradient of the training loss is that of unsmoothed labels"
        )
    if same_outputs(zeros[0], zeros[1]):
        return ok(EFFECT, f"the outputs at ε = {epsilon:g} differ from those at ε = 0")
    return _noisy_effect(zeros, smoothed)


def undecided() -> CheckLine:
    """Return the line of an effect that all runs together did not show."""
    return unchecked(
        EFFECT,
        "not decided: runs with the same seed differ as much as runs with different ε; seed all "
        "random numbers with run.seed",
    )


def hidden(zeros: Sequence[ObservedRun], *, script: bool) -> CheckLine:
    """Say whether the training loss smooths the labels at ε = 0."""
    estimates = _estimates(zeros)
    if not estimates:
        place = (
            "the script computes its loss in its own process"
            if script
            else "the loss has no log_softmax or cross_entropy whose gradient can be read"
        )
        return unchecked(HIDDEN, place)
    if not _enough(estimates, zeros):
        return unchecked(HIDDEN, "the targets of the loss are not one-hot, mixed or smoothed")
    values = [value for estimate in estimates for value in estimate.found]
    smoothed = [value for value in values if value > _ZERO]
    if len(smoothed) >= _AGREE * len(values):
        return finding(
            HIDDEN,
            "hidden-smoothing",
            f"at ε = 0 the training loss still smooths the labels (label_smoothing about "
            f"{median(smoothed):.2g}); remove it from the loss, the mixup function and the "
            "arguments of the framework, because the ε of the trial replaces it",
            stops=True,
        )
    if len(smoothed) > (1 - _AGREE) * len(values):
        return unchecked(HIDDEN, "the smoothing of the targets differs from step to step")
    return ok(HIDDEN, f"none in {len(values)} training steps at ε = 0")


def same_outputs(first: ObservedRun, second: ObservedRun) -> bool:
    """Whether two runs have reported the same, in any order of the examples."""
    if len(first.reports) != len(second.reports):
        return False
    return all(map(_same, first.records, second.records))


def _same(first: ReportRecord, second: ReportRecord) -> bool:
    if first.logits == second.logits:
        return True
    a, b = sorted(first.nll.tolist()), sorted(second.nll.tolist())
    return bool(a) and a == b


# ---- the gradient of the loss ------------------------------------------------------------------


def _estimates(runs: Sequence[ObservedRun]) -> list[SmoothingEstimates]:
    records = [run.records[-1] for run in runs if run.reports]
    return [record.smoothing for record in records if record.smoothing is not None]


def _enough(estimates: Sequence[SmoothingEstimates], runs: Sequence[ObservedRun]) -> bool:
    classes = runs[0].records[-1].classes or 2
    share = _MEASURED if classes > 3 else _MEASURED_FEW_CLASSES
    found = sum(len(estimate.found) for estimate in estimates)
    return 0 < found >= share * sum(estimate.tried for estimate in estimates)


def _measured_change(zeros: Sequence[ObservedRun], smoothed: Sequence[ObservedRun]) -> float | None:
    """Return the difference of the measured smoothing with and without ε; None if not measured."""
    values = []
    for runs in (zeros, smoothed):
        estimates = _estimates(runs)
        if not estimates or not _enough(estimates, runs):
            return None
        found = [value for estimate in estimates for value in estimate.found]
        middle = median(found)
        if sum(abs(value - middle) <= _ZERO for value in found) < _AGREE * len(found):
            return None
        values.append(middle)
    return values[1] - values[0]


# ---- runs that are not repeatable ----------------------------------------------------------------


class _Statistic(NamedTuple):
    name: str
    value: float


def _statistic(run: ObservedRun) -> _Statistic | None:
    """Return what smoothing changes most: the mean largest probability, or else the NLL."""
    if not run.reports:
        return None
    record = run.records[-1]
    if record.confidence is not None:
        return _Statistic("confidence", record.confidence)
    nll = run.reports[-1].report.scores["nll"]
    return None if nll is None else _Statistic("NLL", nll)


def _noisy_effect(
    zeros: Sequence[ObservedRun], smoothed: Sequence[ObservedRun]
) -> CheckLine | None:
    """Compare the confidence of runs that differ also with the same ε.

    A pooled t-test at 1%. That ε has no effect is said only if the model with ε is, at the lower
    end of its 99% interval, more confident than its targets are. The loss of smoothed labels is
    lowest at the confidence 1 - ε, or 1 - ε + ε/K if ε is used as torch's label_smoothing.
    """
    groups = []
    for runs in (zeros, smoothed):
        found = [statistic.value for run in runs if (statistic := _statistic(run)) is not None]
        groups.append(found)
    a, b = groups
    degrees = len(a) + len(b) - 2
    if degrees < 1 or not a or not b:
        return None
    within = [variance(group) * (len(group) - 1) for group in (a, b) if len(group) > 1]
    spread = math.sqrt(sum(within) / degrees)
    quantile = _T[degrees - 1] if degrees <= len(_T) else _T_LIMIT
    error = quantile * spread * math.sqrt(1 / len(a) + 1 / len(b))
    epsilon = smoothed[0].epsilon
    if abs(mean(b) - mean(a)) > error:
        return ok(EFFECT, f"at ε = {epsilon:g} the outputs change by more than the noise of runs")
    last = smoothed[0].records[-1]
    target = 1 - epsilon + epsilon / (last.classes or 2)
    confident = last.confidence is not None
    if confident and mean(b) - quantile * spread / math.sqrt(len(b)) > target:
        return _no_effect(
            f"at ε = {epsilon:g} the outputs are those at ε = 0 up to noise, and more confident "
            f"({mean(b):.2f}) than smoothed labels ({target:.2g})"
        )
    return None


def _no_effect(why: str) -> CheckLine:
    return finding(
        EFFECT,
        "no-effect",
        f"ε has no effect: {why}; train with run.loss(), or pass run.smoothing to the loss that "
        "is minimized",
        stops=True,
    )
