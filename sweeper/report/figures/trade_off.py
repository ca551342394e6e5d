"""The trade-off between error, NLL and calibration, with the Pareto front."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeper import formatting as fmt
from sweeper.report.figures.kit import axes, markers, statistics, style
from sweeper.report.report_input import Floats, finished_trials, finite_rows, schedule_order

_MAX_NAMED = 12


class TradeOff(NamedTuple):
    """Finished trials, (N,) each: error and ECE in percent, NLL in nats, `front` as a mask.

    `recommended` is the number of the trial of the recommended configuration, None without one.
    `limits` are where the scales of error, NLL and ECE are cut, None for nowhere.
    """

    number: NDArray[np.int64]
    schedule: list[str]
    error: Floats
    nll: Floats
    ece: Floats
    front: NDArray[np.bool_]
    texts: markers.Hovers
    limits: tuple[float | None, float | None, float | None]
    recommended: int | None = None

    @property
    def empty(self) -> bool:
        return not self.number.size


def trade_off_data(trials: pd.DataFrame, recommended: int | None = None) -> TradeOff:
    """Return NLL, error and ECE of each finished trial and their Pareto front."""
    done = finite_rows(finished_trials(trials), ["nll", "accuracy", "ece"])
    costs = np.column_stack([done["nll"], 1 - done["accuracy"], done["ece"]]).astype(float)
    return TradeOff(
        number=done["number"].to_numpy().astype(np.int64),
        schedule=["" if epsilon == 0 else name for epsilon, name in _names(done)],
        error=100 * costs[:, 1],
        nll=costs[:, 0],
        ece=100 * costs[:, 2],
        front=statistics.pareto_front(costs),
        texts=markers.hovers(done),
        limits=_limits(done),
        recommended=recommended,
    )


def trade_off_figure(data: TradeOff) -> go.Figure:
    """Draw NLL against error, colored by ECE, with a ring around each trial on the front."""
    colors = {**_COLORS, "cmin": 0, "cmax": _top_color(data)}
    figure = go.Figure(layout=style.layout(480, _NARROW, coloraxis=colors))
    figure.add_traces([_rings(data), *_traces(data), *_recommended(data)])
    x, y = (axes.axis_range(*pair) for pair in zip(_costs(data), data.limits[:2], strict=True))
    figure.update_xaxes(title="validation error (%)", range=x)
    figure.update_yaxes(title="validation NLL (nats)", range=y)
    return figure


def trade_off_notes(data: TradeOff) -> tuple[str, ...]:
    """Return sentences with the trials on the front and the number of clipped ones."""
    return tuple(filter(None, (_front_note(data), _limit_note(data), _color_note(data))))


_BAR = {"title": {"text": "ECE (%)"}, "thickness": 14, "outlinewidth": 0}
_COLORS = {"colorscale": "Viridis", "colorbar": _BAR}
_FLAT = {"orientation": "h", "x": 0.5, "y": -0.24, "yanchor": "top", "xanchor": "center"}
_NARROW = {
    "height": 600,
    "margin": {"b": 130},
    "coloraxis": {"colorbar": {**_FLAT, "title": {"side": "top"}, "len": 1}},
}


def _limits(done: pd.DataFrame) -> tuple[float | None, float | None, float | None]:
    base = (done["epsilon"] == 0).to_numpy()
    costs = (100 * (1 - done["accuracy"]), done["nll"], 100 * done["ece"])
    values = [cost.to_numpy(float) for cost in costs]
    error, nll, ece = (axes.upper_limit(cost, shown=tuple(cost[base])) for cost in values)
    return error, nll, ece


def _names(done: pd.DataFrame) -> Iterator[tuple[float, str]]:
    return zip(done["epsilon"], done["schedule"], strict=True)


def _top_color(data: TradeOff) -> float:
    highest = float(data.ece.max(initial=0.0))
    return (highest if data.limits[2] is None else data.limits[2]) or 1.0


def _costs(data: TradeOff) -> tuple[Floats, Floats]:
    return data.error, data.nll


def _rings(data: TradeOff) -> go.Scatter:
    x, y = (axes.clipped(v, cut) for v, cut in zip(_costs(data), data.limits[:2], strict=True))
    texts = [""] * int(data.front.sum())
    shown = {"name": "Pareto front", "hoverinfo": "skip", "legendrank": 2000}
    return markers.dots(x[data.front], y[data.front], texts, marker=markers.ring(), **shown)


def _recommended(data: TradeOff) -> Iterator[go.Scatter]:
    at = data.number == data.recommended
    if not at.any():
        return
    x, y = (axes.clipped(v, cut) for v, cut in zip(_costs(data), data.limits[:2], strict=True))
    shown = {"name": "recommended", "hoverinfo": "skip", "legendrank": 1}
    yield markers.dots(x[at], y[at], [""], marker=markers.recommended(), **shown)


def _traces(data: TradeOff) -> Iterator[go.Scatter]:
    styles = style.styles(filter(None, data.schedule))
    for schedule in sorted(set(data.schedule), key=_order):
        symbol = styles[schedule].symbol if schedule else "x"
        shown = {"name": style.label(schedule) if schedule else "ε = 0 (baseline)"}
        yield _trace(data, np.array([name == schedule for name in data.schedule]), symbol, shown)
        yield _legend_entry(symbol, shown["name"])


def _order(schedule: str) -> tuple[bool, tuple[int, str]]:
    return bool(schedule), schedule_order(schedule)


def _trace(
    data: TradeOff, mask: NDArray[np.bool_], symbol: str, shown: dict[str, str]
) -> go.Scatter:
    x, y = (
        axes.clipped(v, cut)[mask] for v, cut in zip(_costs(data), data.limits[:2], strict=True)
    )
    positions = np.flatnonzero(mask)
    texts = markers.hovers(data.texts.rows.iloc[positions], [_ending(data, at) for at in positions])
    line = {"width": 1, "color": style.INK if symbol == "x" else style.FAINT}
    marker = {"symbol": symbol, "size": 10, "color": data.ece[mask], "coloraxis": "coloraxis"}
    group = {**shown, "legendgroup": shown["name"], "showlegend": False}
    return markers.dots(x, y, texts, marker={**marker, "line": line}, **group)


def _legend_entry(symbol: str, name: str) -> go.Scatter:
    # The color is the ECE, so the legend shows only the marker shape.
    color = style.INK if symbol == "x" else style.FAINT
    return markers.legend_entry(name, {"symbol": symbol, "size": 10, "color": color}, name)


def _ending(data: TradeOff, index: np.intp) -> str:
    front = "<br>on the Pareto front" if data.front[index] else ""
    return f"<br>error {data.error[index]:.1f}%{front}"


def _front_note(data: TradeOff) -> str:
    numbers = [str(number) for number in np.sort(data.number[data.front])]
    more = len(numbers) - _MAX_NAMED
    listed = fmt.join_words(numbers) if more <= 0 else ", ".join(numbers[:_MAX_NAMED])
    rest = f" and {more} more" if more > 0 else ""
    noun = "trial" if len(numbers) == 1 else "trials"
    return (
        f"Pareto front: {noun} {listed}{rest}. No other finished trial is at least as good in "
        f"NLL, error and ECE and better in one of them. Hover over a ring for its values."
    )


def _limit_note(data: TradeOff) -> str:
    error, nll, _ = data.limits
    beyond = _beyond(data.error, error) | _beyond(data.nll, nll)
    if not beyond.any():
        return ""
    edges = [f"{error:.1f}% error"] if error is not None else []
    edges += [f"NLL {fmt.nll(nll)}"] if nll is not None else []
    count = int(beyond.sum())
    drawn = "is drawn at the edge" if count == 1 else "are drawn at the edge"
    return f"{fmt.count_noun(count, 'trial')} above {fmt.join_words(edges)} {drawn}."


def _color_note(data: TradeOff) -> str:
    ece = data.limits[2]
    return (
        ""
        if ece is None
        else f"The color scale ends at an ECE of {ece:.1f}%; some trials exceed it."
    )


def _beyond(values: Floats, limit: float | None) -> NDArray[np.bool_]:
    return np.zeros(len(values), np.bool_) if limit is None else values > limit
