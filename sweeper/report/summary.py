"""What the search found, in plain words: the headline, its warnings and a short table."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sweeper.confirmation.verdict import Verdict
from sweeper.report import wording
from sweeper.report.report_input import ReportInput, finished, usable
from sweeper.study import results


class Tile(NamedTuple):
    """One score of the best trial beside the baseline's."""

    name: str
    best: str
    baseline: str
    difference: str


class Row(NamedTuple):
    """One line of the short table, formatted."""

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
    """The search alone; `kind` is gain, none, alone, unpaired or nothing."""

    kind: str
    headline: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...]
    rows: tuple[Row, ...]
    counts: str


def summarise(report: ReportInput) -> Summary:
    """Return the words for a prepared report."""
    trials = usable(report.trials)
    best, base = results.best(trials), results.baseline(trials)
    kind = _kind(report, best, base)
    return Summary(
        kind=kind,
        headline=_headline(kind, report, best),
        sentences=tuple(_sentences(kind, report, best, base)),
        warnings=tuple(_warnings(kind, report)),
        # Beside a verdict they would be the larger numbers, and the lucky ones.
        tiles=tuple(_tiles(report, best, base)) if kind == "gain" and not report.verdict else (),
        rows=tuple(_rows(report, best, base)),
        counts=_counts(report.trials),
    )


def _kind(report: ReportInput, best: "pd.Series | None", base: "pd.Series | None") -> str:
    if best is None:
        return "nothing"
    if base is None:
        return "unpaired"
    if not (finished(report.trials)["epsilon"] > 0).any():
        return "alone"
    return "gain" if best["value"] < base["value"] and best["epsilon"] > 0 else "none"


def _headline(kind: str, report: ReportInput, best: "pd.Series | None") -> str:
    if best is None:
        return _nothing(report.trials)
    if kind == "alone":
        return "Only the baseline, ε = 0, has finished so far"
    if report.verdict is not None:
        return f"Lowest in the search: {wording.smoothing(best)}"
    if kind == "none":
        return "ε = 0 was best: no benefit found in this search"
    if kind == "unpaired":
        return f"Lowest so far: {wording.smoothing(best)}; the baseline, ε = 0, has not finished"
    return f"Best found: {wording.smoothing(best)}"


def _nothing(trials: pd.DataFrame) -> str:
    states = set(trials["state"])
    if not states:
        return "No trial has started yet"
    if states == {"failed"}:
        few = {1: "The only trial failed", 2: "Both trials failed"}
        return few.get(len(trials), f"All {len(trials):,} trials failed")
    return "No trial has finished yet"


def _sentences(kind: str, report: ReportInput, best: Any, base: Any) -> Iterator[str]:
    metric = wording.METRICS[report.metric]
    if kind == "nothing":
        yield from _first_failure(report.trials)
    elif kind == "alone":
        yield f"Its {metric} is {wording.nll(base['value'])} nats; nothing to compare it with yet."
    elif kind == "unpaired":
        yield f"Its {metric} is {wording.nll(best['value'])} nats. Nothing says what ε = 0 reaches."
    elif kind == "none":
        yield from _no_benefit(report, base, metric)
    else:
        yield _gain(best, base, metric, report.verdict is None)
    if report.verdict is not None:
        yield _beside(report.verdict, best, len(finished(report.trials)))


def _gain(best: Any, base: Any, metric: str, usable_as_it_is: bool) -> str:
    difference = wording.change(base["value"], best["value"])
    use = (
        f" In torch's argument it is label_smoothing = "
        f"{wording.epsilon(best['label_smoothing'])}{_annealed(best)}."
    )
    return (
        f"{wording.name(best).capitalize()} reached a {metric} of {wording.nll(best['value'])} "
        f"nats, against {wording.nll(base['value'])} at ε = 0: a difference of {difference} nats "
        f"(lower is better).{use if usable_as_it_is else ''}"
    )


def _beside(verdict: Verdict, best: Any, count: int) -> str:
    """Say what the lowest value of the search is worth beside the verdict."""
    same = best["number"] == verdict.pick.trial
    of = "this trial" if same else f"the pick, trial {verdict.pick.trial},"
    return (
        f"The lowest of {count:,} values is the search's lucky value. What counts is the verdict, "
        f"which tried {of} on fresh seeds and test examples: {verdict.word}."
    )


def _annealed(best: Any) -> str:
    return "" if best["schedule"] == "fixed" else " before the schedule acts"


def _no_benefit(report: ReportInput, base: Any, metric: str) -> Iterator[str]:
    smoothed = results.best_by_schedule(usable(report.trials))
    yield f"The {metric} at ε = 0 is {wording.nll(base['value'])} nats."
    if len(smoothed):
        nearest = smoothed.iloc[0]
        yield (
            f"The best with smoothing, {wording.smoothing(nearest)} ({wording.name(nearest)}), "
            f"reached {wording.nll(nearest['value'])} "
            f"({wording.change(base['value'], nearest['value'])})."
        )


def _first_failure(trials: pd.DataFrame) -> Iterator[str]:
    failed = trials[(trials["state"] == "failed") & (trials["failure"] != "")]
    if len(failed):
        row = failed.iloc[0]
        yield f"The first failure, {wording.name(row)}: {row['failure'].splitlines()[0]}"


def _warnings(kind: str, report: ReportInput) -> Iterator[str]:
    count = len(finished(report.trials))
    searched_alone = report.verdict is None
    if searched_alone and kind in ("gain", "unpaired") and count > 1:
        yield (
            f"The best of {count:,} trials is lucky by selection: trained again, it is likely to "
            f"score worse than here."
        )
    if searched_alone and kind in ("gain", "none", "unpaired"):
        yield (
            "All this is one split and one seed, and says nothing about significance: that takes "
            "a confirmation on fresh seeds and on test data that the search has not seen."
        )
    odd = report.trials[report.trials["state"] == "complete"]
    odd = odd[~np.isfinite(odd["value"])]
    if len(odd):
        count_odd = wording.counted(len(odd), "trial")
        yield f"{count_odd} finished on a value that is no finite number: left out everywhere."


def _tiles(report: ReportInput, best: Any, base: Any) -> Iterator[Tile]:
    scores: list[tuple[str, str, Callable[[float], str], Callable[[float, float], str]]] = [
        ("NLL, nats", "nll", wording.nll, wording.change)
    ]
    if report.metric == "nll_calibrated":
        scores.insert(0, ("NLL after scaling, nats", "nll_calibrated", wording.nll, wording.change))
    scores.append(("accuracy", "accuracy", wording.percent, wording.points))
    scores.append(("ECE", "ece", wording.percent, wording.points))
    for name, column, spoken, compared in scores:
        difference = compared(base[column], best[column])
        yield Tile(name, spoken(best[column]), spoken(base[column]), difference)


def _rows(report: ReportInput, best: Any, base: Any) -> Iterator[Row]:
    if base is not None:
        yield _row("ε = 0 (baseline)", base, best)
    for _, trial in results.best_by_schedule(usable(report.trials)).iterrows():
        yield _row(str(trial["schedule"]), trial, best)


def _row(name: str, trial: Any, best: Any) -> Row:
    return Row(
        name=name,
        trial=f"{trial['number']:.0f}",
        epsilon=wording.epsilon(trial["epsilon"]),
        label_smoothing=wording.epsilon(trial["label_smoothing"]),
        rate=wording.figure(trial["rate"]) if trial["epsilon"] > 0 else wording.NOTHING,
        nll=wording.nll(trial["nll"]),
        nll_calibrated=wording.nll(trial["nll_calibrated"]),
        accuracy=wording.percent(trial["accuracy"]),
        ece=wording.percent(trial["ece"]),
        best=trial["number"] == best["number"],
    )


def _counts(trials: pd.DataFrame) -> str:
    states = trials["state"].value_counts()
    words = {"complete": "finished", "pruned": "pruned", "failed": "failed", "running": "running"}
    parts = [f"{states[state]:,} {word}" for state, word in words.items() if states.get(state)]
    total = wording.counted(len(trials), "trial")
    return f"{total}: {', '.join(parts)}" if parts else total
