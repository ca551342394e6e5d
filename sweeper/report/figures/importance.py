"""Which of the searched parameters the metric depended on most."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from sweeper.report.figures import style


class Importance(NamedTuple):
    """Parameters and their shares in percent, least important first."""

    names: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def empty(self) -> bool:
        """Whether no share is known."""
        return not self.names


def importance_data(importance: Mapping[str, float]) -> Importance:
    """Return the shares in percent, sorted; those that are no number are left out."""
    known = {name: value for name, value in importance.items() if math.isfinite(value)}
    ordered = sorted(known, key=lambda name: known[name])
    return Importance(tuple(ordered), tuple(100 * known[name] for name in ordered))


def importance_figure(data: Importance) -> go.Figure:
    """Draw one bar a parameter, the most important on top."""
    figure = go.Figure(layout=style.layout(90 + 36 * max(len(data.names), 1), showlegend=False))
    figure.add_bar(
        x=data.shares,
        y=[style.label(_spoken(name)) for name in data.names],
        orientation="h",
        marker={"color": style.FAINT},
        text=[f"{share:.0f} %" for share in data.shares],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.update_xaxes(title="importance (% of the total)", range=(0, 112))
    figure.update_yaxes(type="category", showgrid=False)
    return figure


def importance_notes(data: Importance) -> tuple[str, ...]:
    """Say nothing more: the shares speak."""
    return ()


def _spoken(name: str) -> str:
    return {"epsilon": "ε"}.get(name, name.removeprefix("hp_"))
