"""The table of trials: the text of each cell and the value that it is sorted by; and as CSV."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from io import StringIO
from typing import Any, Final, NamedTuple

import pandas as pd

from sweeper import formatting as fmt
from sweeper.metrics import METRICS
from sweeper.study import results
from sweeper.study.plain import plain_value


class Column(NamedTuple):
    """A column of the table.

    `title` explains the heading. `shown` formats a number, None for text. `printed` is False if
    the column is left out on paper.
    """

    key: str
    heading: str
    title: str
    shown: Callable[[float], str] | None
    printed: bool = True


class Cell(NamedTuple):
    """The text of a cell, its full value ("" if missing), and whether that is a number."""

    text: str
    value: str
    number: bool


class TableRow(NamedTuple):
    """One trial; `mark` is its badge (recommended, pick, lowest, baseline), "" for none."""

    state: str
    schedule: str
    mark: str
    cells: tuple[Cell, ...]


class Table(NamedTuple):
    """The rows of the table and the values that the filters offer; `total` counts all trials."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    total: int
    states: tuple[str, ...]
    schedules: tuple[str, ...]


# More rows make sorting and filtering in the browser slow.
MAX_ROWS: Final = 2000


def _score(key: str, title: str, printed: bool = True) -> Column:
    return Column(key, METRICS[key].heading, title, METRICS[key].write, printed)


_COLUMNS: Final = (
    Column("number", "trial", "trial number", lambda value: f"{value:.0f}"),
    Column("state", "state", "complete, pruned, failed, running or waiting", None),
    Column("epsilon", "ε", "share taken from the true class", fmt.epsilon),
    Column(
        "label_smoothing",
        "ε (torch)",
        "equivalent label_smoothing of torch; only for a fixed schedule",
        fmt.epsilon,
        False,
    ),
    Column("schedule", "schedule", "how ε changes during training", None),
    Column("rate", "rate", "annealing rate; – if the schedule has none", fmt.two_figures),
    _score("nll", "validation NLL in nats; for pruned trials, the last one reported"),
    _score("nll_calibrated", "validation NLL after temperature scaling"),
    _score("accuracy", "validation accuracy"),
    _score("ece", "validation expected calibration error"),
    _score("brier", "validation Brier score", False),
    _score("temperature", "fitted temperature", False),
    Column("epochs", "epochs", "epochs trained", lambda value: f"{value:.0f}", False),
    Column("seconds", "time", "training time", fmt.duration, False),
    Column("core_hours", "core hours", "CPU core hours of all attempts", fmt.hours, False),
    Column("gpu_hours", "GPU hours", "GPU hours of all attempts", fmt.hours, False),
    Column("peak_memory", "memory", "peak memory of all processes", fmt.gibibytes, False),
    Column("note", "note", "exception, trial whose result was reused, or older code", None),
)


def trials_table(
    trials: pd.DataFrame, marked: Mapping[str, int | None], most: int = MAX_ROWS
) -> Table:
    """Return the table of a prepared frame; `marked` are numbers of trials by badge.

    It has at most `most` rows: the marked trials and those with the lowest NLL.
    """
    columns = _columns(trials)
    selected = trials if len(trials) <= most else _lowest(trials, most, marked.values())
    code = int(trials["code"].max(skipna=True)) if trials["code"].notna().any() else 1
    rows = tuple(_row(row, columns, marked, code) for row in selected.to_dict("records"))
    filters = _distinct(selected["state"]), _distinct(selected["schedule"])
    return Table(columns, rows, len(trials), *filters)


# A spreadsheet takes a cell that begins with one of these for a formula and runs it.
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")


def trials_csv(trials: pd.DataFrame) -> str:
    """Return the columns of a trials frame as CSV, at full precision; missing values are empty.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    table = trials.drop(columns="ticket")
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_csv_value, table.columns))
    writer.writerows(map(_csv_value, row) for row in table.itertuples(index=False, name=None))
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    plain = plain_value(value)
    return f"'{plain}" if isinstance(plain, str) and plain.startswith(_FORMULAS) else plain


def _lowest(trials: pd.DataFrame, most: int, marked: Iterable[int | None]) -> pd.DataFrame:
    is_marked = trials["number"].isin([number for number in marked if number is not None])
    first = trials.index[is_marked | (trials["epsilon"] == 0)]
    order = trials["nll"].drop(first).sort_values(kind="stable").index
    return trials.loc[[*first, *order][:most]].sort_values("number")


def _columns(trials: pd.DataFrame) -> tuple[Column, ...]:
    known = set(results.TRIAL_COLUMNS)
    more = tuple(_extra(str(name), trials) for name in trials.columns if name not in known)
    return (*_COLUMNS[:-1], *more, _COLUMNS[-1])


def _extra(name: str, trials: pd.DataFrame) -> Column:
    heading = name.removeprefix("hp_").removeprefix("extra_")
    title = "hyperparameter; – if inactive" if name.startswith("hp_") else "reported by the task"
    numeric = pd.api.types.is_numeric_dtype(trials[name].dropna().infer_objects())
    return Column(name, heading, f"{heading}: {title}", fmt.setting if numeric else None)


def _row(
    trial: Mapping[Any, Any], columns: Iterable[Column], marked: Mapping[str, int | None], code: int
) -> TableRow:
    cells = tuple(_cell(trial, column, code) for column in columns)
    return TableRow(str(trial["state"]), str(trial["schedule"]), _mark(trial, marked), cells)


def _mark(trial: Mapping[Any, Any], marked: Mapping[str, int | None]) -> str:
    marks = [word for word, number in marked.items() if trial["number"] == number]
    marks += ["baseline"] if trial["epsilon"] == 0 else []
    return ", ".join(marks)


def _cell(trial: Mapping[Any, Any], column: Column, code: int) -> Cell:
    if column.key == "note":
        return _note(trial, code)
    value = trial[column.key]
    if _missing(value) and (column.shown is not None or column.key.startswith("hp_")):
        return Cell(fmt.NOTHING, "", column.shown is not None)
    if column.shown is None:
        text = "" if _missing(value) else str(value)
        return Cell(text, text, False)
    return Cell(column.shown(value), f"{value!r}", True)


def _note(trial: Mapping[Any, Any], code: int) -> Cell:
    lines = str(trial["failure"]).splitlines()
    copied = trial["copied_from"]
    if lines:
        return Cell(lines[0], str(trial["failure"]), False)
    texts = [] if math.isnan(copied) else [f"duplicate of trial {copied:.0f}: result reused"]
    if trial["code"] < code:
        texts.append(f"older code (revision {trial['code']:.0f})")
    text = "; ".join(texts)
    return Cell(text, text, False)


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _distinct(column: "pd.Series") -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in column}))
