"""Accuracy against NLL against calibration: which trials no other beats in all three."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeper.report import wording
from sweeper.report.figures import scales, style
from sweeper.report.report_input import Floats, finished, schedule_order, with_numbers

_MOST_NAMED = 12


class TradeOff(NamedTuple):
    """Finished trials, (N,) each: error and ECE in percent, NLL in nats, `front` as a mask.

    `limits` are where the scales of error, NLL and ECE end.
    """

    number: NDArray[np.int64]
    schedule: list[str]
    error: Floats
    nll: Floats
    ece: Floats
    front: NDArray[np.bool_]
    texts: style.Hovers
    limits: tuple[float | None, float | None, float | None]

    @property
    def empty(self) -> bool:
        """Whether no trial has finished."""
        return not self.number.size


def trade_off_data(trials: pd.DataFrame) -> TradeOff:
    """Return the three costs of each finished trial and the front (lower is better in all)."""
    done = with_numbers(finished(trials), ["nll", "accuracy", "ece"])
    costs = np.column_stack([done["nll"], 1 - done["accuracy"], done["ece"]]).astype(float)
    return TradeOff(
        number=done["number"].to_numpy().astype(np.int64),
        schedule=["" if epsilon == 0 else name for epsilon, name in _names(done)],
        error=100 * costs[:, 1],
        nll=costs[:, 0],
        ece=100 * costs[:, 2],
        front=scales.pareto_front(costs),
        texts=style.hovers(done),
        limits=_limits(done),
    )


def trade_off_figure(data: TradeOff) -> go.Figure:
    """Draw error by NLL, coloured by ECE, with a ring around each member of the front."""
    colours = {**_COLOURS, "cmin": 0, "cmax": _top_colour(data)}
    figure = go.Figure(layout=style.layout(480, _NARROW, coloraxis=colours))
    figure.add_traces([_rings(data), *_traces(data)])
    x, y = (scales.axis_range(*pair) for pair in zip(_axes(data), data.limits[:2], strict=True))
    figure.update_xaxes(title="validation error (%)", range=x)
    figure.update_yaxes(title="validation NLL (nats)", range=y)
    return figure


def trade_off_notes(data: TradeOff) -> tuple[str, ...]:
    """Name the members of the front and say how many lie beyond the axes."""
    return tuple(filter(None, (_front_note(data), _limit_note(data), _colour_note(data))))


_BAR = {"title": {"text": "ECE (%)"}, "thickness": 14, "outlinewidth": 0}
_COLOURS = {"colorscale": "Viridis", "colorbar": _BAR}
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
    error, nll, ece = (scales.upper_limit(cost, shown=tuple(cost[base])) for cost in values)
    return error, nll, ece


def _names(done: pd.DataFrame) -> Iterator[tuple[float, str]]:
    return zip(done["epsilon"], done["schedule"], strict=True)


def _top_colour(data: TradeOff) -> float:
    highest = float(data.ece.max(initial=0.0))
    return (highest if data.limits[2] is None else data.limits[2]) or 1.0


def _axes(data: TradeOff) -> tuple[Floats, Floats]:
    return data.error, data.nll


def _rings(data: TradeOff) -> go.Scatter:
    ring = {"symbol": "circle-open", "size": 19, "color": style.INK, "line": {"width": 2}}
    x, y = (scales.clipped(v, cut) for v, cut in zip(_axes(data), data.limits[:2], strict=True))
    texts = [""] * int(data.front.sum())
    shown = {"name": "Pareto front", "hoverinfo": "skip", "legendrank": 2000}
    return style.dots(x[data.front], y[data.front], texts, marker=ring, **shown)


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
        scales.clipped(v, cut)[mask] for v, cut in zip(_axes(data), data.limits[:2], strict=True)
    )
    places = np.flatnonzero(mask)
    texts = style.hovers(data.texts.rows.iloc[places], [_ending(data, at) for at in places])
    line = {"width": 1, "color": style.INK if symbol == "x" else style.FAINT}
    marker = {"symbol": symbol, "size": 10, "color": data.ece[mask], "coloraxis": "coloraxis"}
    group = {**shown, "legendgroup": shown["name"], "showlegend": False}
    return style.dots(x, y, texts, marker={**marker, "line": line}, **group)


def _legend_entry(symbol: str, name: str) -> go.Scatter:
    # The colour means ECE here, so that a legend can show only the shape.
    colour = style.INK if symbol == "x" else style.FAINT
    return style.entry(name, {"symbol": symbol, "size": 10, "color": colour}, name)


def _ending(data: TradeOff, index: np.intp) -> str:
    front = "<br>on the Pareto front" if data.front[index] else ""
    return f"<br>error {data.error[index]:.1f} %{front}"


def _front_note(data: TradeOff) -> str:
    numbers = [str(number) for number in np.sort(data.number[data.front])]
    more = len(numbers) - _MOST_NAMED
    named = wording.listed(numbers) if more <= 0 else ", ".join(numbers[:_MOST_NAMED])
    rest = f" and {more} more" if more > 0 else ""
    noun = "trial" if len(numbers) == 1 else "trials"
    return (
        f"On the front: {noun} {named}{rest}. No other finished trial is at least as good in "
        f"NLL, error and ECE and better in one; point at a ring for its numbers."
    )


def _limit_note(data: TradeOff) -> str:
    error, nll, _ = data.limits
    beyond = _beyond(data.error, error) | _beyond(data.nll, nll)
    if not beyond.any():
        return ""
    edges = [f"{error:.1f} % error"] if error is not None else []
    edges += [f"NLL {wording.nll(nll)}"] if nll is not None else []
    count = wording.counted(int(beyond.sum()), "trial")
    return f"Laid on the edge: {count} beyond {wording.listed(edges)}, so that the others show."


def _colour_note(data: TradeOff) -> str:
    ece = data.limits[2]
    return (
        "" if ece is None else f"The colour ends at an ECE of {ece:.1f} %; some trials have more."
    )


def _beyond(values: Floats, limit: float | None) -> NDArray[np.bool_]:
    return np.zeros(len(values), np.bool_) if limit is None else values > limit
