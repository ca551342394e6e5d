"""Raw NLL and NLL after temperature scaling, which often have different best epsilons."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper import formatting as fmt
from sweeper.report.figures.kit import axes, captions, markers, style
from sweeper.report.report_input import Floats, by_schedule, finished_trials, finite_rows

# A temperature this close to 1 is not reported as over- or underconfidence.
_ABOUT_ONE = 0.1


class ScorePairs(NamedTuple):
    """Trials of one schedule, (N,) each; schedule "" is the baseline."""

    schedule: str
    epsilon: Floats
    raw: Floats
    scaled: Floats
    texts: markers.Hovers


class Calibrated(NamedTuple):
    """Both scores of every finished trial, and the trial with the lowest value of each.

    `limit` is where the axis is cut, None for nowhere.
    """

    groups: tuple[ScorePairs, ...]
    raw_best: Mapping[str, Any] | None
    scaled_best: Mapping[str, Any] | None
    limit: float | None

    @property
    def empty(self) -> bool:
        """Whether no finished trial has both scores."""
        return self.raw_best is None

    @property
    def agree(self) -> bool:
        """Whether the same trial is lowest in both scores."""
        return not self.empty and _optima(self)[0]["number"] == _optima(self)[1]["number"]

    @property
    def epsilons(self) -> Floats:
        """The epsilon of every trial."""
        return np.concatenate([np.empty(0), *(group.epsilon for group in self.groups)])

    @property
    def values(self) -> Floats:
        """Both scores of all trials, concatenated."""
        return np.concatenate([np.empty(0), *(v for g in self.groups for v in (g.raw, g.scaled))])


def calibrated_data(trials: pd.DataFrame) -> Calibrated:
    """Return raw and scaled NLL by schedule, with the trial that is lowest in each."""
    done = finite_rows(finished_trials(trials), ["nll", "nll_calibrated"])
    groups = [_pairs("", done[done["epsilon"] == 0])]
    groups += [_pairs(name, rows) for name, rows in by_schedule(done).items()]
    drawn = tuple(group for group in groups if group.epsilon.size)
    raw, scaled = _lowest(done, "nll"), _lowest(done, "nll_calibrated")
    return Calibrated(drawn, raw, scaled, _limit(done))


def calibrated_figure(data: Calibrated) -> go.Figure:
    """Draw both scores side by side on the same scale; both optima are marked in each plot."""
    figure = go.Figure(layout=style.layout(480, _NARROW))
    for side in ("raw", "scaled"):
        figure.add_traces([*_traces(data, side), *_marks(data, side)])
    low, high = axes.axis_range(data.values, data.limit)
    figure.update_xaxes(range=axes.epsilon_range(data.epsilons))
    # Leave room for the label below the optimum.
    figure.update_yaxes(range=(low - 0.12 * (high - low), high))
    figure.update_layout(_WIDE, annotations=list(_labels(data)), shapes=list(_baselines(data)))
    return figure


def calibrated_notes(data: Calibrated) -> tuple[str, ...]:
    """Return sentences about the optima of both scores, and why they differ."""
    if data.empty:
        return ("No finished trial has both scores yet.",)
    return tuple(filter(None, (_same(data) if data.agree else _different(data), _limit_note(data))))


_TITLES = {"raw": "raw validation NLL (nats)", "scaled": "after temperature scaling (nats)"}
_WIDE, _NARROW = axes.side_by_side(
    {"xaxis": {"title": {"text": "ε"}}, "yaxis": {"title": {"text": _TITLES["raw"]}}},
    {
        "xaxis": {"title": {"text": "ε"}, "matches": "x"},
        "yaxis": {"title": {"text": _TITLES["scaled"]}, "matches": "y"},
    },
    gap=0.12,
)


def _pairs(schedule: str, rows: pd.DataFrame) -> ScorePairs:
    return ScorePairs(
        schedule,
        epsilon=rows["epsilon"].to_numpy(float),
        raw=rows["nll"].to_numpy(float),
        scaled=rows["nll_calibrated"].to_numpy(float),
        texts=markers.hovers(rows),
    )


def _lowest(done: pd.DataFrame, column: str) -> Mapping[str, Any] | None:
    rows = done.sort_values([column, "number"], kind="stable").to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else None


def _limit(done: pd.DataFrame) -> float | None:
    base = done[done["epsilon"] == 0]["nll"]
    return axes.upper_limit(done["nll"].to_numpy(float), shown=tuple(base))


def _optima(data: Calibrated) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if data.raw_best is None or data.scaled_best is None:
        raise ValueError("no finished trial has both scores; check `empty` first")
    return data.raw_best, data.scaled_best


def _axes(side: str) -> dict[str, str]:
    return axes.BOTH[side == "scaled"]


def _traces(data: Calibrated, side: str) -> Iterator[go.Scatter]:
    styles = style.styles(group.schedule for group in data.groups if group.schedule)
    for group in data.groups:
        values = getattr(group, side)
        marker = (
            markers.schedule_marker(styles[group.schedule], opacity=0.75)
            if group.schedule
            else markers.baseline_marker()
        )
        pairs = markers.Points(group.schedule, group.epsilon, values, group.texts)
        yield markers.clipped_dots(pairs, data.limit, marker, group.schedule, **_axes(side))
        if side == "raw":
            name = style.label(group.schedule) or "ε = 0 (baseline)"
            yield markers.legend_entry(name, marker, group.schedule)


def _marks(data: Calibrated, side: str) -> Iterator[go.Scatter]:
    if data.empty:
        return
    column = "nll" if side == "raw" else "nll_calibrated"
    names = ("lowest raw NLL", "lowest after scaling")
    for trial, name, symbol in zip(_optima(data), names, ("circle", "square"), strict=True):
        shown = {"name": name, "legendgroup": name, "showlegend": side == "raw"}
        yield markers.dots(
            [trial["epsilon"]],
            [trial[column]],
            [""],
            marker=markers.ring(symbol),
            hoverinfo="skip",
            legendrank=2000,
            **shown,
            **_axes(side),
        )


def _baselines(data: Calibrated) -> Iterator[dict[str, Any]]:
    base = next((group for group in data.groups if not group.schedule), None)
    for values, axis in () if base is None else ((base.raw, ""), (base.scaled, "2")):
        yield markers.baseline_line(values.min(), axis)


def _labels(data: Calibrated) -> Iterator[dict[str, Any]]:
    if data.empty:
        return
    for trial, side, column in zip(
        _optima(data), ("raw", "scaled"), ("nll", "nll_calibrated"), strict=True
    ):
        plot = _axes(side)
        yield {
            "text": f"lowest: ε = {fmt.epsilon(trial['epsilon'])}",
            "x": trial["epsilon"],
            "y": trial[column],
            "xanchor": _anchor(trial["epsilon"] / axes.epsilon_range(data.epsilons)[1]),
            "xref": plot["xaxis"],
            "yref": plot["yaxis"],
            "ax": 0,
            "ay": 32,
            "arrowwidth": 1,
            "arrowhead": 0,
            "standoff": 10,
            "arrowcolor": style.INK,
        }


def _anchor(place: float) -> str:
    # A centered label near the end of the axis would be cut off.
    return "left" if place < 0.2 else "right" if place > 0.8 else "center"


def _same(data: Calibrated) -> str:
    trial = _optima(data)[0]
    return (
        f"Both scores are lowest at {fmt.trial_name(trial)}, {fmt.trial_smoothing(trial)}: "
        f"{fmt.nll(trial['nll'])} raw, {fmt.nll(trial['nll_calibrated'])} after "
        f"temperature scaling. The search result is the same with and without scaling."
    )


def _different(data: Calibrated) -> str:
    raw, scaled = _optima(data)
    return (
        f"Raw NLL is lowest at {fmt.trial_smoothing(raw)} ({fmt.trial_name(raw)}), NLL after "
        f"temperature scaling at {fmt.trial_smoothing(scaled)} ({fmt.trial_name(scaled)}). They "
        f"differ because scaling improves {fmt.trial_name(scaled)} ({_improvement(scaled)}) more "
        f"than {fmt.trial_name(raw)} ({_improvement(raw)}){_reason(scaled)}. "
        f"{_advice(raw, scaled)}"
    )


def _improvement(trial: Mapping[str, Any]) -> str:
    return f"{fmt.nll(trial['nll'])} to {fmt.nll(trial['nll_calibrated'])}"


def _reason(trial: Mapping[str, Any]) -> str:
    temperature = trial["temperature"]
    if not math.isfinite(temperature) or abs(temperature - 1) < _ABOUT_ONE:
        return ""
    fault, side = ("under", "below") if temperature < 1 else ("over", "above")
    return (
        f": {fmt.trial_name(trial)} is {fault}confident (temperature "
        f"{fmt.two_figures(temperature)}, {side} 1), which increases its raw NLL and is corrected "
        f"by temperature scaling"
    )


def _advice(raw: Mapping[str, Any], scaled: Mapping[str, Any]) -> str:
    first = fmt.gap(raw["nll"], scaled["nll"])
    second = fmt.gap(scaled["nll_calibrated"], raw["nll_calibrated"])
    return (
        f"Without temperature scaling, the first is better by {first}; with temperature scaling, "
        f"the second is better by {second}. All trials share one seed, so differences of a few "
        f"thousandths may be noise."
    )


def _limit_note(data: Calibrated) -> str:
    return captions.clipped_note(data.values, data.limit, "marker")
