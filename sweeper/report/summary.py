"""The search results: headline, sentences, warnings and a short table."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sweeper import formatting as fmt
from sweeper.confirmation.verdict import Verdict
from sweeper.metrics import validation_label
from sweeper.report.report_input import ReportInput, finished_trials, with_finite_value
from sweeper.study import results


class Tile(NamedTuple):
    """One score of the best trial and of the baseline, formatted."""

    name: str
    best: str
    baseline: str
    difference: str


class Row(NamedTuple):
    """One row of the short table, formatted."""

    name: str
    trial: str
    epsilon: str
    label_smoothing: str
    rate: str
    nll: str
    nll_calibrated: str
    accuracy: str
    ece: str
    best: bool


class Summary(NamedTuple):
    """The search results.

    `kind` is "gain" (the best trial has smoothing), "none" (ε = 0 is best), "alone" (only ε = 0 has
    finished), "unpaired" (ε = 0 has not finished) or "nothing" (no trial has finished).
    """

    kind: str
    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...]
    rows: tuple[Row, ...]
    counts: str


def summarize(report: ReportInput) -> Summary:
    """Return the summary of a prepared report."""
    trials = with_finite_value(report.trials)
    best, base = results.best(trials), results.baseline(trials)
    kind = _kind(report, best, base)
    return Summary(
        kind=kind,
        headline=_headline(kind, report, best),
        sentences=tuple(_sentences(kind, report, best, base)),
        warnings=tuple(_warnings(kind, report)),
        # With a verdict, these optimistically biased numbers would distract from it.
        tiles=tuple(_tiles(report, best, base)) if kind == "gain" and not report.verdict else (),
        rows=tuple(_rows(report, best, base)),
        counts=_counts(report.trials),
    )


def _kind(report: ReportInput, best: "pd.Series | None", base: "pd.Series | None") -> str:
    if best is None:
        return "nothing"
    if base is None:
        return "unpaired"
    if not (finished_trials(report.trials)["epsilon"] > 0).any():
        return "alone"
    return "gain" if best["value"] < base["value"] and best["epsilon"] > 0 else "none"


def _headline(kind: str, report: ReportInput, best: "pd.Series | None") -> str:
    if best is None:
        return _nothing(report.trials)
    if kind == "alone":
        return "Only the baseline, ε = 0, has finished so far"
    if kind == "none":
        return "Lowest in the search: ε = 0"
    if kind == "unpaired":
        return f"Lowest so far: {fmt.trial_smoothing(best)}; the baseline, ε = 0, has not finished"
    return f"Lowest in the search: {fmt.trial_smoothing(best)}"


def _nothing(trials: pd.DataFrame) -> str:
    states = set(trials["state"])
    if not states:
        return "No trial has started yet"
    if states == {"failed"}:
        few = {1: "The only trial failed", 2: "Both trials failed"}
        return few.get(len(trials), f"All {len(trials):,} trials failed")
    return "No trial has finished yet"


def _sentences(kind: str, report: ReportInput, best: Any, base: Any) -> Iterator[str]:
    metric = validation_label(report.metric)
    if kind == "nothing":
        yield from _first_failure(report.trials)
    elif kind == "alone":
        value = fmt.nll(base["value"])
        yield f"Its {metric} is {value} nats. No trial with smoothing to compare with yet."
    elif kind == "unpaired":
        yield f"Its {metric} is {fmt.nll(best['value'])} nats. No ε = 0 result to compare with."
    elif kind == "none":
        yield from _no_benefit(report, base, metric)
    else:
        yield _gain(best, base, metric)
    if report.verdict is not None:
        yield _verdict_reference(report.verdict, best, metric, len(finished_trials(report.trials)))
    if report.space.fixed:
        settings = (f"{name} = {fmt.setting(v)}" for name, v in report.space.fixed.items())
        yield f"Fixed in all trials: {', '.join(settings)}."
    if len(report.earlier):
        yield (
            f"{fmt.count_noun(len(report.earlier), 'trial')} of an earlier study informed the "
            "sampler. These do not count as trials of this study."
        )


def _gain(best: Any, base: Any, metric: str) -> str:
    difference = fmt.change(base["value"], best["value"])
    return (
        f"{fmt.trial_name(best).capitalize()} reached a {metric} of {fmt.nll(best['value'])} "
        f"nats, compared with {fmt.nll(base['value'])} at ε = 0: a difference of {difference} nats "
        f"(lower is better)."
    )


def _verdict_reference(verdict: Verdict, best: Any, metric: str, count: int) -> str:
    same = best["number"] == verdict.pick.trial
    retrained = "this trial" if same else f"the pick, trial {verdict.pick.trial},"
    return (
        f"The lowest {metric} of {count:,} trials is optimistically biased, because it was "
        f"selected. The verdict is a fair comparison: it retrained {retrained} and ε = 0 on fresh "
        f"seeds and scored both on test examples. Verdict: {verdict.word}."
    )


def _no_benefit(report: ReportInput, base: Any, metric: str) -> Iterator[str]:
    smoothed = results.best_by_schedule(with_finite_value(report.trials))
    yield f"The {metric} at ε = 0 is {fmt.nll(base['value'])} nats."
    if len(smoothed):
        nearest = smoothed.iloc[0]
        yield (
            f"The best trial with smoothing, {fmt.trial_smoothing(nearest)} "
            f"({fmt.trial_name(nearest)}), reached {fmt.nll(nearest['value'])} "
            f"({fmt.change(base['value'], nearest['value'])})."
        )


def _first_failure(trials: pd.DataFrame) -> Iterator[str]:
    failed = trials[(trials["state"] == "failed") & (trials["failure"] != "")]
    if len(failed):
        row = failed.iloc[0]
        yield f"The first failure, {fmt.trial_name(row)}: {row['failure'].splitlines()[0]}"


def _warnings(kind: str, report: ReportInput) -> Iterator[str]:
    count = len(finished_trials(report.trials))
    unconfirmed = report.verdict is None
    if unconfirmed and kind in ("gain", "unpaired") and count > 1:
        yield (
            f"The best of {count:,} trials is optimistically biased, because it was selected: when "
            f"retrained, it is likely to score worse."
        )
    if unconfirmed and kind in ("gain", "none", "unpaired"):
        yield (
            "These results come from one split and one seed and do not show statistical "
            "significance. That requires a confirmation on fresh seeds and on unseen test data."
        )
    complete = report.trials[report.trials["state"] == "complete"]
    invalid = int((~np.isfinite(complete["value"])).sum())
    if invalid:
        verb = "is" if invalid == 1 else "are"
        yield (
            f"{fmt.count_noun(invalid, 'trial')} finished with a non-finite value and {verb} left "
            "out."
        )


def _tiles(report: ReportInput, best: Any, base: Any) -> Iterator[Tile]:
    scores: list[tuple[str, str, Callable[[float], str], Callable[[float, float], str]]] = [
        ("NLL, nats", "nll", fmt.nll, fmt.change)
    ]
    if report.metric == "nll_calibrated":
        scores.insert(0, ("NLL after scaling, nats", "nll_calibrated", fmt.nll, fmt.change))
    scores.append(("accuracy", "accuracy", fmt.percent, fmt.points))
    scores.append(("ECE", "ece", fmt.percent, fmt.points))
    for name, column, write, write_change in scores:
        difference = write_change(base[column], best[column])
        yield Tile(name, write(best[column]), write(base[column]), difference)


def _rows(report: ReportInput, best: Any, base: Any) -> Iterator[Row]:
    if base is not None:
        yield _row("ε = 0 (baseline)", base, best)
    for _, trial in results.best_by_schedule(with_finite_value(report.trials)).iterrows():
        yield _row(str(trial["schedule"]), trial, best)


def _row(name: str, trial: Any, best: Any) -> Row:
    return Row(
        name=name,
        trial=f"{trial['number']:.0f}",
        epsilon=fmt.epsilon(trial["epsilon"]),
        label_smoothing=fmt.epsilon(trial["label_smoothing"]),
        rate=fmt.two_figures(trial["rate"]) if trial["epsilon"] > 0 else fmt.NOTHING,
        nll=fmt.nll(trial["nll"]),
        nll_calibrated=fmt.nll(trial["nll_calibrated"]),
        accuracy=fmt.percent(trial["accuracy"]),
        ece=fmt.percent(trial["ece"]),
        best=trial["number"] == best["number"],
    )


def _counts(trials: pd.DataFrame) -> str:
    states = trials["state"].value_counts()
    words = {"complete": "finished"}
    parts = [
        f"{states[state]:,} {words.get(state, state)}"
        for state in ("complete", "pruned", "failed", "running", "waiting")
        if states.get(state)
    ]
    total = fmt.count_noun(len(trials), "trial")
    return f"{total}: {', '.join(parts)}" if parts else total
