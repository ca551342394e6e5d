"""Epsilon over the training for the best of each schedule, above its validation curve."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper.report import wording
from sweeper.report.figures import style
from sweeper.report.report_input import Floats, finished, schedule_order, usable
from sweeper.study import results

ADAPTIVE = frozenset({"confidence", "error"})
MEAN, CEILING = "mean", "ceiling"
# A tenfold range is where a linear axis begins to hide the end of the curves.
_LOG_FROM = 10.0


class Course(NamedTuple):
    """One trial over its training: epoch (E,), epsilon in force (E + 1,), validation NLL (E,).

    `kind` is what the epsilon of an adaptive schedule is: the mean over the examples of an epoch
    where that is known, else the ceiling; "" of the others.
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
        """What its style is chosen by: two trials of one schedule have to look different."""
        return self.label or self.schedule


class Courses(NamedTuple):
    """The baseline (schedule "") and the best of each schedule."""

    courses: tuple[Course, ...]

    @property
    def empty(self) -> bool:
        """Whether no finished trial has epochs."""
        return not self.courses

    @property
    def nll(self) -> Floats:
        """All values of NLL that a logarithmic axis can show."""
        values: Floats = np.concatenate([np.empty(0), *(c.nll for c in self.courses)])
        return values[np.isfinite(values) & (values > 0)]

    @property
    def logarithmic(self) -> bool:
        """Whether the curves fall so far that their ends need a logarithmic axis."""
        return bool(self.nll.size and self.nll.max() > _LOG_FROM * self.nll.min())


def schedules_data(trials: pd.DataFrame, epochs: pd.DataFrame) -> Courses:
    """Return the epochs of the baseline and of the best finished trial of each schedule."""
    courses = (_course(name, trial, epochs) for name, trial in drawn(trials))
    return Courses(tuple(course for course in courses if course.epoch.size))


def drawn(trials: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """Return the trials whose epochs are drawn, each with its schedule; "" is the baseline."""
    base = results.baseline(usable(trials))
    best = results.best_by_schedule(finished(trials))
    rows = {str(row["schedule"]): row for _, row in best.iterrows()}
    chosen = [(name, rows[name]) for name in sorted(rows, key=schedule_order)]
    return chosen if base is None else [("", base), *chosen]


def chosen_data(trials: Iterable[tuple[str, Any]], epochs: pd.DataFrame) -> Courses:
    """Return the epochs of some trials; each is a label ("" for its schedule's name) and a row.

    The numbers of all trials have to differ, in the rows and in `epochs`.
    """
    courses = (
        _course(_acting(trial), trial, epochs)._replace(label=label) for label, trial in trials
    )
    return Courses(tuple(course for course in courses if course.epoch.size))


def schedules_figure(data: Courses) -> go.Figure:
    """Draw epsilon in the upper row and validation NLL in the lower, on one epoch axis."""
    figure = go.Figure(layout=style.layout(560, {"height": 640}))
    styles = style.styles(course.style_of for course in data.courses if course.style_of)
    for course in data.courses:
        chosen = (
            styles[course.style_of] if course.style_of else style.Style(style.INK, "x", "solid")
        )
        figure.add_traces(list(_traces(course, chosen)))
    figure.update_layout(_axes(data))
    return figure


def schedules_notes(data: Courses) -> tuple[str, ...]:
    """Say what the line of an adaptive schedule is, and what the lower axis is."""
    notes = []
    for kind in (MEAN, CEILING):
        schedules = [course.schedule for course in data.courses if course.kind == kind]
        notes += [_adaptive_note(schedules, kind)] if schedules else []
    if data.logarithmic:
        notes.append("The NLL axis is logarithmic: equal steps are equal ratios.")
    return tuple(notes)


def _acting(trial: Any) -> str:
    return "" if trial["epsilon"] == 0 else str(trial["schedule"])


def _course(schedule: str, trial: Any, epochs: pd.DataFrame) -> Course:
    rows = epochs[epochs["number"] == trial["number"]].sort_values("epoch")
    epsilon, kind = np.append(trial["epsilon"], rows["epsilon"].to_numpy(float)), ""
    if schedule in ADAPTIVE:
        used = rows["mean_epsilon"].to_numpy(float)
        known = bool(used.size and np.isfinite(used).all())
        epsilon, kind = (np.append(used[0], used), MEAN) if known else (epsilon, CEILING)
    words = f"{wording.name(trial)}: {wording.smoothing(trial)}"
    epoch, nll = (rows[name].to_numpy(float) for name in ("epoch", "nll"))
    return Course(schedule, words, epoch, epsilon, nll, kind)


def _traces(course: Course, chosen: style.Style) -> Iterator[go.Scatter]:
    kind = f" ({course.kind})" if course.kind else ""
    name = style.label(course.label or course.schedule) + kind
    name = name or "ε = 0 (baseline)"
    shape = "vh" if course.schedule == "step" else "linear"
    upper = {"color": chosen.colour, "width": 2.5, "dash": chosen.dash, "shape": shape}
    lower = {"color": chosen.colour, "width": 2.5, "dash": chosen.dash}
    start = np.append(0.0, course.epoch)
    words = [wording.epsilon(value) for value in course.epsilon]
    yield _line(start, course.epsilon, upper, _texts(course, start, "ε", words), name)
    positive = np.where(course.nll > 0, course.nll, np.nan)
    words = [wording.nll(value) for value in course.nll]
    texts = _texts(course, course.epoch, "validation NLL", words)
    yield _line(course.epoch, positive, lower, texts, name, yaxis="y2", showlegend=False)


def _line(
    x: Floats, y: Floats, line: dict[str, Any], texts: list[str], name: str, **more: Any
) -> go.Scatter:
    shown = {"name": name, "legendgroup": name, "hovertemplate": "%{text}<extra></extra>"}
    return go.Scatter(x=x, y=y, mode="lines", line=line, text=texts, **shown, **more)


def _texts(course: Course, at: Floats, what: str, values: list[str]) -> list[str]:
    head = style.plain(course.words)
    return [f"{head}<br>epoch {e:.0f}: {what} {v}" for e, v in zip(at, values, strict=True)]


def _axes(data: Courses) -> dict[str, Any]:
    lower = {"domain": [0, 0.62], "title": {"text": "validation NLL (nats)"}}
    if data.logarithmic:
        lower |= {"type": "log", **_log_ticks(data.nll)}
    top = max((float(np.nanmax(course.epsilon)) for course in data.courses), default=0.0)
    upper = {"domain": [0.7, 1], "title": {"text": "ε"}, "range": [-0.04 * top, 1.1 * top or 1]}
    return {"xaxis": {"title": {"text": "epoch"}, "anchor": "y2"}, "yaxis": upper, "yaxis2": lower}


def _log_ticks(values: Floats) -> dict[str, Any]:
    decades = range(math.floor(math.log10(values.min())), math.ceil(math.log10(values.max())) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _adaptive_note(schedules: list[str], kind: str) -> str:
    line = (
        "the mean of those that an epoch was trained with"
        if kind == MEAN
        else "the ceiling that no example's ε exceeds"
    )
    return (
        f"Adaptive ({wording.listed(schedules)}): every example gets an ε of its own, and "
        f"the line is {line}."
    )
