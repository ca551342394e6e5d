"""A grid of small plots: two per row on a wide page, one per row on a phone."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sweeper.report.figures.kit import style

# In pixels: height of one row of plots, and the parts of it that its heading and axis take.
_PITCH, _HEAD, _FOOT = 290, 56, 40
_EDGES: Final = 8 + 48
_LONGEST_HEADING: Final = 28


def axis_number(index: int) -> str:
    """Return the number of the axes of a plot in plotly's names: "" for the first, then "2"."""
    return "" if index == 0 else str(index + 1)


def height(count: int, columns: int) -> int:
    """Return the height of `count` plots in pixels."""
    return _PITCH * math.ceil(count / columns) + _EDGES


def domains(
    count: int, columns: int, gap: float, titles: tuple[str, str] = ("ε", "")
) -> dict[str, Any]:
    """Return the position of each plot, as a part of a plotly layout.

    `titles` are those of the x axes of the lowest plots and of the y axes of the first column.
    """
    plots = {}
    area = _PITCH * math.ceil(count / columns)
    width = (1 - gap * (columns - 1)) / columns
    for index in range(count):
        row, column = divmod(index, columns)
        left, top = column * (width + gap), row * _PITCH
        axis = axis_number(index)
        plots[f"xaxis{axis}"] = {
            "domain": [left, left + width],
            "anchor": f"y{axis}",
            "title": {"text": titles[0] if index + columns >= count else ""},
        }
        plots[f"yaxis{axis}"] = {
            "domain": [1 - (top + _PITCH - _FOOT) / area, 1 - (top + _HEAD) / area],
            "anchor": f"x{axis}",
            "title": {"text": "" if column else titles[1]},
        }
    return plots


def headings(
    axis: str, name: str, labels: Sequence[dict[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """Yield the annotations above a plot: its name in bold, and below it `labels`."""
    place = {
        "xref": f"x{axis} domain",
        "yref": f"y{axis} domain",
        "y": 1,
        "yanchor": "bottom",
        "showarrow": False,
    }
    text = f"<b>{style.plain(name, _LONGEST_HEADING)}</b>"
    yield {**place, "x": 0, "xanchor": "left", "yshift": 24, "text": text}
    for label in labels:
        yield {**place, "yshift": 4, **label}
