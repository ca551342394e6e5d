"""The table of `sweeper trials`."""

from collections.abc import Sequence
from typing import Final

import pandas as pd
from rich.cells import cell_len
from rich.table import Table

from sweeper.report.earlier_table import earlier_table
from sweeper.report.report_input import prepare_trials
from sweeper.report.trial_table import Cell, Column, trials_table

# The most important columns first: those that do not fit the terminal are left out.
_PRIORITY: Final = (
    *("number", "state", "epsilon", "schedule", "rate", "nll", "hp_", "accuracy"),
    *("nll_calibrated", "ece", "epochs", "seconds", "worker", "note", "extra_"),
    *("core_hours", "gpu_hours", "peak_memory"),
)
# The columns from left to right.
_ORDER: Final = (
    *("number", "state", "epsilon", "schedule", "rate", "hp_", "nll", "nll_calibrated"),
    *("accuracy", "ece", "epochs", "seconds", "core_hours", "gpu_hours", "peak_memory"),
    *("worker", "extra_", "note"),
)
_WIDEST_CELL: Final = 24
_GAP: Final = 2


def trial_table(trials: pd.DataFrame, width: int) -> tuple[Table, list[str]]:
    """Return a table of trials of at most `width` characters, and the columns that do not fit.

    Columns without any value are left out.
    """
    prepared = prepare_trials(trials).assign(worker=trials["worker"])
    source = trials_table(prepared, {}, most=len(trials))
    cells: dict[Column, Sequence[Cell]] = dict(
        zip(source.columns, zip(*(row.cells for row in source.rows), strict=True), strict=True)
    )
    usable = [
        column
        for column in cells
        if _place(column, _PRIORITY) is not None and any(cell.value for cell in cells[column])
    ]
    usable.sort(key=lambda column: _place(column, _PRIORITY) or 0)
    shown, left = [], width + _GAP
    for column in usable:
        needed = _GAP + _width(column, cells[column])
        if needed <= left:
            shown.append(column)
            left -= needed
    shown.sort(key=lambda column: _place(column, _ORDER) or 0)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for column in shown:
        table.add_column(
            column.heading,
            justify="left" if column.shown is None else "right",
            max_width=_width(column, cells[column]),
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in zip(*(cells[column] for column in shown), strict=True):
        table.add_row(*(cell.text for cell in row))
    return table, [column.heading for column in usable if column not in shown]


def earlier_trials(earlier: pd.DataFrame) -> Table:
    """Return a table of the trials of an earlier study that inform the sampler."""
    source = earlier_table(earlier)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for heading in source.headings:
        table.add_column(heading)
    for row in source.rows:
        table.add_row(*row)
    return table


def _width(column: Column, cells: Sequence[Cell]) -> int:
    longest = max(cell_len(text) for text in (column.heading, *(cell.text for cell in cells)))
    return min(longest, _WIDEST_CELL)


def _place(column: Column, order: Sequence[str]) -> int | None:
    """Return the place of a column in an order, None if the table does not have it."""
    prefixes = {"hp_", "extra_"}
    prefix = next((start for start in prefixes if column.key.startswith(start)), column.key)
    return order.index(prefix) if prefix in order else None
