"""Epsilon and validation NLL by epoch, for the best trial of each schedule."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper import formatting as fmt
from sweeper.report.figures.kit import axes, style
from sweeper.report.report_input import Floats, finished_trials, schedule_order, with_finite_value
from sweeper.smoothing.names import ADAPTIVE, BUILT_IN
from sweeper.study import results

MEAN, CEILING = "mean", "ceiling"
# With a range above this factor, a linear axis hides the end of the curves.
_LOG_FROM = 10.0


class EpsilonCurve(NamedTuple):
    """One trial by epoch: epoch (E,), epsilon (E + 1,) and validation NLL (E,).

    `kind` says what epsilon is for an adaptive schedule: the mean over the examples of an epoch if
    it was recorded, else the ceiling. It is "" for other schedules.
    """

    schedule: str
    words: str
    epoch: Floats
    epsilon: Floats
    nll: Floats
    kind: str = ""
    label: str = ""

    @property
    def style_of(self) -> str:
        """The key of its style: the label, so that two trials of one schedule look different."""
        return self.label or self.schedule


class EpsilonCurves(NamedTuple):
    """The curves of the baseline (schedule "") and of the best trial of each schedule."""

    curves: tuple[EpsilonCurve, ...]

    @property
    def empty(self) -> bool:
        """Whether no trial has recorded epochs."""
        return not self.curves

    @property
    def nll(self) -> Floats:
        """All finite and positive values of NLL."""
        values: Floats = np.concatenate([np.empty(0), *(c.nll for c in self.curves)])
        return values[np.isfinite(values) & (values > 0)]

    @property
    def logarithmic(self) -> bool:
        """Whether the range of NLL is so large that the axis is logarithmic."""
        return bool(self.nll.size and self.nll.max() > _LOG_FROM * self.nll.min())


def schedules_data(trials: pd.DataFrame, epochs: pd.DataFrame) -> EpsilonCurves:
    """Return the curves of the baseline and of the best finished trial of each schedule."""
    curves = (_curve(name, trial, epochs) for name, trial in trials_to_draw(trials))
    return EpsilonCurves(tuple(curve for curve in curves if curve.epoch.size))


def trials_to_draw(trials: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """Return the trials whose curves are drawn, with their schedules; "" is the baseline."""
    base = results.baseline(with_finite_value(trials))
    best = results.best_by_schedule(finished_trials(trials))
    rows = {str(row["schedule"]): row for _, row in best.iterrows()}
    chosen = [(name, rows[name]) for name in sorted(rows, key=schedule_order)]
    return chosen if base is None else [("", base), *chosen]


def selected_data(trials: Iterable[tuple[str, Any]], epochs: pd.DataFrame) -> EpsilonCurves:
    """Return the curves of the given pairs of a label and the row of a trial.

    A label "" stands for the name of the schedule. The numbers of the trials must be unique.
    """
    curves = (
        _curve(_effective_smoothing(trial), trial, epochs)._replace(label=label)
        for label, trial in trials
    )
    return EpsilonCurves(tuple(curve for curve in curves if curve.epoch.size))


def schedules_figure(data: EpsilonCurves) -> go.Figure:
    """Draw epsilon in the upper row and validation NLL in the lower, on one epoch axis."""
    figure = go.Figure(layout=style.layout(560, {"height": 640}))
    styles = style.styles(curve.style_of for curve in data.curves if curve.style_of)
    for curve in data.curves:
        chosen = styles[curve.style_of] if curve.style_of else style.Style(style.INK, "x", "solid")
        figure.add_traces(list(_traces(curve, chosen)))
    figure.update_layout(_axes(data))
    return figure


def schedules_notes(data: EpsilonCurves) -> tuple[str, ...]:
    """Return sentences about adaptive schedules and the logarithmic axis."""
    notes = []
    for kind in (MEAN, CEILING):
        schedules = [curve.schedule for curve in data.curves if curve.kind == kind]
        notes += [_adaptive_note(schedules, kind)] if schedules else []
    if data.logarithmic:
        notes.append("The NLL axis is logarithmic.")
    return tuple(notes)


def _effective_smoothing(trial: Any) -> str:
    return "" if trial["epsilon"] == 0 else str(trial["schedule"])


def _curve(schedule: str, trial: Any, epochs: pd.DataFrame) -> EpsilonCurve:
    rows = epochs[epochs["number"] == trial["number"]].sort_values("epoch")
    epsilon, kind = np.append(trial["epsilon"], rows["epsilon"].to_numpy(float)), ""
    if schedule in BUILT_IN and BUILT_IN[schedule].kind == ADAPTIVE:
        used = rows["mean_epsilon"].to_numpy(float)
        known = bool(used.size and np.isfinite(used).all())
        epsilon, kind = (np.append(used[0], used), MEAN) if known else (epsilon, CEILING)
    words = f"{fmt.trial_name(trial)}: {fmt.trial_smoothing(trial)}"
    epoch, nll = (rows[name].to_numpy(float) for name in ("epoch", "nll"))
    return EpsilonCurve(schedule, words, epoch, epsilon, nll, kind)


def _traces(curve: EpsilonCurve, chosen: style.Style) -> Iterator[go.Scatter]:
    kind = f" ({curve.kind})" if curve.kind else ""
    name = style.label(curve.label or curve.schedule) + kind
    name = name or "ε = 0 (baseline)"
    shape = "vh" if curve.schedule == "step" else "linear"
    upper = {"color": chosen.color, "width": 2.5, "dash": chosen.dash, "shape": shape}
    lower = {"color": chosen.color, "width": 2.5, "dash": chosen.dash}
    start = np.append(0.0, curve.epoch)
    words = [fmt.epsilon(value) for value in curve.epsilon]
    yield _line(start, curve.epsilon, upper, _texts(curve, start, "ε", words), name)
    positive = np.where(curve.nll > 0, curve.nll, np.nan)
    words = [fmt.nll(value) for value in curve.nll]
    texts = _texts(curve, curve.epoch, "validation NLL", words)
    yield _line(curve.epoch, positive, lower, texts, name, yaxis="y2", showlegend=False)


def _line(
    x: Floats, y: Floats, line: dict[str, Any], texts: list[str], name: str, **more: Any
) -> go.Scatter:
    shown = {"name": name, "legendgroup": name, "hovertemplate": "%{text}<extra></extra>"}
    return go.Scatter(x=x, y=y, mode="lines", line=line, text=texts, **shown, **more)


def _texts(curve: EpsilonCurve, at: Floats, what: str, values: list[str]) -> list[str]:
    head = style.plain(curve.words)
    return [f"{head}<br>epoch {e:.0f}: {what} {v}" for e, v in zip(at, values, strict=True)]


def _axes(data: EpsilonCurves) -> dict[str, Any]:
    lower = {"domain": [0, 0.62], "title": {"text": "validation NLL (nats)"}}
    if data.logarithmic:
        lower |= {"type": "log", **axes.log_ticks(data.nll)}
    top = max((float(np.nanmax(curve.epsilon)) for curve in data.curves), default=0.0)
    upper = {"domain": [0.7, 1], "title": {"text": "ε"}, "range": [-0.04 * top, 1.1 * top or 1]}
    return {"xaxis": {"title": {"text": "epoch"}, "anchor": "y2"}, "yaxis": upper, "yaxis2": lower}


def _adaptive_note(schedules: list[str], kind: str) -> str:
    line = (
        "the mean ε over the examples of an epoch"
        if kind == MEAN
        else "the ceiling, which the ε of no example exceeds"
    )
    return (
        f"Adaptive ({fmt.join_words(schedules)}): each example has its own ε. The line is {line}."
    )
