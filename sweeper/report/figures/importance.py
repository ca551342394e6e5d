"""The importance of the searched hyperparameters for the metric."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from sweeper.report.figures.kit import style


class Importance(NamedTuple):
    """Hyperparameters and their shares in percent, least important first."""

    names: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def empty(self) -> bool:
        """Whether there are no shares."""
        return not self.names


def importance_data(importance: Mapping[str, float]) -> Importance:
    """Return the shares in percent, sorted; non-finite values are left out."""
    finite = {name: value for name, value in importance.items() if math.isfinite(value)}
    ordered = sorted(finite, key=lambda name: finite[name])
    return Importance(tuple(ordered), tuple(100 * finite[name] for name in ordered))


def importance_figure(data: Importance) -> go.Figure:
    """Draw one bar per hyperparameter, the most important on top."""
    figure = go.Figure(layout=style.layout(90 + 36 * max(len(data.names), 1), showlegend=False))
    figure.add_bar(
        x=data.shares,
        y=[style.label(_display_name(name)) for name in data.names],
        orientation="h",
        marker={"color": style.FAINT},
        text=[f"{share:.0f}%" for share in data.shares],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.update_xaxes(title="importance (% of the total)", range=(0, 112))
    figure.update_yaxes(type="category", showgrid=False)
    return figure


def importance_notes(data: Importance) -> tuple[str, ...]:
    """Return no notes: the figure needs none."""
    return ()


def _display_name(name: str) -> str:
    return {"epsilon": "ε"}.get(name, name.removeprefix("hp_"))
