"""Raw NLL beside NLL after temperature scaling: the two often pick different epsilons."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper.report import wording
from sweeper.report.figures import scales, style
from sweeper.report.report_input import Floats, by_schedule, finished, with_numbers

# Within this of 1 a temperature says nothing.
_ABOUT_ONE = 0.1


class Pairs(NamedTuple):
    """Trials of one schedule, (N,) each; schedule "" is the baseline."""

    schedule: str
    epsilon: Floats
    raw: Floats
    scaled: Floats
    texts: style.Hovers


class Calibrated(NamedTuple):
    """Both scores of every finished trial, and the trial that each of them picks."""

    groups: tuple[Pairs, ...]
    raw_best: Mapping[str, Any] | None
    scaled_best: Mapping[str, Any] | None
    limit: float | None

    @property
    def empty(self) -> bool:
        """Whether no finished trial has both scores."""
        return self.raw_best is None

    @property
    def agree(self) -> bool:
        """Whether both scores pick the same trial."""
        return not self.empty and _picks(self)[0]["number"] == _picks(self)[1]["number"]

    @property
    def epsilons(self) -> Floats:
        """The epsilon of every trial."""
        return np.concatenate([np.empty(0), *(group.epsilon for group in self.groups)])

    @property
    def values(self) -> Floats:
        """Both scores of all trials, one after the other."""
        return np.concatenate([np.empty(0), *(v for g in self.groups for v in (g.raw, g.scaled))])


def calibrated_data(trials: pd.DataFrame) -> Calibrated:
    """Return raw and scaled NLL by schedule with the optimum of each."""
    done = with_numbers(finished(trials), ["nll", "nll_calibrated"])
    groups = [_pairs("", done[done["epsilon"] == 0])]
    groups += [_pairs(name, rows) for name, rows in by_schedule(done).items()]
    drawn = tuple(group for group in groups if group.epsilon.size)
    raw, scaled = _lowest(done, "nll"), _lowest(done, "nll_calibrated")
    return Calibrated(drawn, raw, scaled, _limit(done))


def calibrated_figure(data: Calibrated) -> go.Figure:
    """Draw both scores on one scale, side by side, with both optima marked in each."""
    figure = go.Figure(layout=style.layout(480, _NARROW))
    for side in ("raw", "scaled"):
        figure.add_traces([*_traces(data, side), *_marks(data, side)])
    low, high = scales.axis_range(data.values, data.limit)
    figure.update_xaxes(range=scales.epsilon_range(data.epsilons))
    # Room for the words below the optimum.
    figure.update_yaxes(range=(low - 0.12 * (high - low), high))
    figure.update_layout(_WIDE, annotations=list(_labels(data)), shapes=list(_baselines(data)))
    return figure


def calibrated_notes(data: Calibrated) -> tuple[str, ...]:
    """Say in words which epsilon each score picks, and why they differ or agree."""
    if data.empty:
        return ("No finished trial has both scores yet.",)
    return tuple(filter(None, (_same(data) if data.agree else _different(data), _limit_note(data))))


_TITLES = {"raw": "raw validation NLL (nats)", "scaled": "after temperature scaling (nats)"}
_WIDE = {
    "xaxis": {"title": {"text": "ε"}, "domain": [0, 0.44]},
    "xaxis2": {"title": {"text": "ε"}, "domain": [0.56, 1], "anchor": "y2", "matches": "x"},
    "yaxis": {"title": {"text": _TITLES["raw"]}},
    "yaxis2": {"title": {"text": _TITLES["scaled"]}, "anchor": "x2", "matches": "y"},
}
_NARROW = {
    "height": 860,
    "xaxis": {"domain": [0, 1]},
    "xaxis2": {"domain": [0, 1]},
    "yaxis": {"domain": [0.56, 1]},
    "yaxis2": {"domain": [0, 0.44]},
}


def _pairs(schedule: str, rows: pd.DataFrame) -> Pairs:
    return Pairs(
        schedule,
        epsilon=rows["epsilon"].to_numpy(float),
        raw=rows["nll"].to_numpy(float),
        scaled=rows["nll_calibrated"].to_numpy(float),
        texts=style.hovers(rows),
    )


def _lowest(done: pd.DataFrame, column: str) -> Mapping[str, Any] | None:
    rows = done.sort_values([column, "number"], kind="stable").to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else None


def _limit(done: pd.DataFrame) -> float | None:
    base = done[done["epsilon"] == 0]["nll"]
    return scales.upper_limit(done["nll"].to_numpy(float), shown=tuple(base))


def _picks(data: Calibrated) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if data.raw_best is None or data.scaled_best is None:
        raise ValueError("no finished trial has both scores; ask `empty` first")
    return data.raw_best, data.scaled_best


def _axes(side: str) -> dict[str, str]:
    return {"xaxis": "x", "yaxis": "y"} if side == "raw" else {"xaxis": "x2", "yaxis": "y2"}


def _traces(data: Calibrated, side: str) -> Iterator[go.Scatter]:
    styles = style.styles(group.schedule for group in data.groups if group.schedule)
    for group in data.groups:
        values = getattr(group, side)
        marker = _marker(styles[group.schedule]) if group.schedule else style.baseline_marker()
        drawn = {**marker, "symbol": style.symbols(values, data.limit, marker["symbol"])}
        shown = {"legendgroup": group.schedule, "showlegend": False, **_axes(side)}
        y = scales.clipped(values, data.limit)
        yield style.dots(group.epsilon, y, group.texts, marker=drawn, **shown)
        if side == "raw":
            name = style.label(group.schedule) or "ε = 0 (baseline)"
            yield style.entry(name, marker, group.schedule)


def _marker(chosen: style.Style) -> dict[str, Any]:
    return {"color": chosen.colour, "symbol": chosen.symbol, "size": 8, "opacity": 0.75}


def _marks(data: Calibrated, side: str) -> Iterator[go.Scatter]:
    if data.empty:
        return
    column = "nll" if side == "raw" else "nll_calibrated"
    names = ("lowest raw NLL", "lowest after scaling")
    for trial, name, symbol in zip(_picks(data), names, ("circle", "square"), strict=True):
        ring = {"symbol": f"{symbol}-open", "size": 19, "color": style.INK, "line": {"width": 2}}
        shown = {"name": name, "legendgroup": name, "showlegend": side == "raw"}
        yield style.dots(
            [trial["epsilon"]],
            [trial[column]],
            [""],
            marker=ring,
            hoverinfo="skip",
            legendrank=2000,
            **shown,
            **_axes(side),
        )


def _baselines(data: Calibrated) -> Iterator[dict[str, Any]]:
    base = next((group for group in data.groups if not group.schedule), None)
    for values, axis in () if base is None else ((base.raw, ""), (base.scaled, "2")):
        yield style.dashed(values[0], axis)


def _labels(data: Calibrated) -> Iterator[dict[str, Any]]:
    if data.empty:
        return
    for trial, side, column in zip(
        _picks(data), ("raw", "scaled"), ("nll", "nll_calibrated"), strict=True
    ):
        axes = _axes(side)
        yield {
            "text": f"lowest: ε = {wording.epsilon(trial['epsilon'])}",
            "x": trial["epsilon"],
            "y": trial[column],
            "xanchor": _anchor(trial["epsilon"] / scales.epsilon_range(data.epsilons)[1]),
            "xref": axes["xaxis"],
            "yref": axes["yaxis"],
            "ax": 0,
            "ay": 32,
            "arrowwidth": 1,
            "arrowhead": 0,
            "standoff": 10,
            "arrowcolor": style.INK,
        }


def _anchor(place: float) -> str:
    # Words centred near an end of the axis would be cut off there.
    return "left" if place < 0.2 else "right" if place > 0.8 else "center"


def _same(data: Calibrated) -> str:
    trial = _picks(data)[0]
    return (
        f"Both scores are lowest at {wording.name(trial)}, {wording.smoothing(trial)}: "
        f"{wording.nll(trial['nll'])} raw, {wording.nll(trial['nll_calibrated'])} after "
        f"temperature scaling. Whether you scale or not, the search gives the same answer."
    )


def _different(data: Calibrated) -> str:
    raw, scaled = _picks(data)
    return (
        f"Raw NLL is lowest at {wording.smoothing(raw)} ({wording.name(raw)}), NLL after "
        f"temperature scaling at {wording.smoothing(scaled)} ({wording.name(scaled)}). They "
        f"disagree because scaling does more for {wording.name(scaled)} "
        f"({_mended(scaled)}) than for {wording.name(raw)} ({_mended(raw)}){_reason(scaled)}. "
        f"{_advice(raw, scaled)}"
    )


def _mended(trial: Mapping[str, Any]) -> str:
    return f"{wording.nll(trial['nll'])} to {wording.nll(trial['nll_calibrated'])}"


def _reason(trial: Mapping[str, Any]) -> str:
    temperature = trial["temperature"]
    if not math.isfinite(temperature) or abs(temperature - 1) < _ABOUT_ONE:
        return ""
    fault, side = ("too cautious", "below") if temperature < 1 else ("too sure", "above")
    return (
        f": its probabilities are {fault} (temperature {wording.figure(temperature)}, {side} 1), "
        f"which raw NLL counts against it and one number puts right"
    )


def _advice(raw: Mapping[str, Any], scaled: Mapping[str, Any]) -> str:
    first = wording.gap(raw["nll"], scaled["nll"])
    second = wording.gap(scaled["nll_calibrated"], raw["nll_calibrated"])
    return (
        f"Where probabilities are used as the model gives them the first is better by {first}, "
        f"where a temperature is fitted afterwards the second by {second}; all from one seed, so "
        f"that a few thousandths may be noise."
    )


def _limit_note(data: Calibrated) -> str:
    if data.limit is None:
        return ""
    count = int(
        sum((g.raw > data.limit).sum() + (g.scaled > data.limit).sum() for g in data.groups)
    )
    markers = wording.counted(count, "marker")
    return f"Arrows at the upper edge: {markers} above {wording.nll(data.limit)}." if count else ""
