"""The table of trials: what each cell shows, and what it is sorted by."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import pandas as pd

from sweeper.report import wording
from sweeper.study import results


class Column(NamedTuple):
    """A column: its key, heading and what that means, how a number is shown, if on paper too."""

    key: str
    heading: str
    title: str
    shown: Callable[[float], str] | None
    printed: bool = True


class Cell(NamedTuple):
    """What is shown, the full value behind it ("" for none), and whether it is a number."""

    text: str
    value: str
    number: bool


class TableRow(NamedTuple):
    """One trial; `mark` says why it stands out, "" if it does not."""

    state: str
    schedule: str
    mark: str
    cells: tuple[Cell, ...]


class Table(NamedTuple):
    """All trials, and what they can be filtered by."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    total: int
    states: tuple[str, ...]
    schedules: tuple[str, ...]


# What a browser sorts and filters at once.
MOST_ROWS: Final = 2000

_COLUMNS: Final = (
    Column("number", "trial", "number of the trial", lambda value: f"{value:.0f}"),
    Column("state", "state", "complete, pruned, failed or running", None),
    Column("epsilon", "ε", "share taken from the true class", wording.epsilon),
    Column(
        "label_smoothing",
        "ε (torch)",
        "the same as torch's label_smoothing",
        wording.epsilon,
        False,
    ),
    Column("schedule", "schedule", "how ε changes over the training", None),
    Column("rate", "rate", "annealing rate; – where it does not act", wording.figure),
    Column("nll", "NLL", "validation NLL in nats; of pruned trials the last", wording.nll),
    Column("nll_calibrated", "NLL scaled", "validation NLL after temperature scaling", wording.nll),
    Column("accuracy", "accuracy", "validation accuracy", wording.percent),
    Column("ece", "ECE", "validation expected calibration error", wording.percent),
    Column("brier", "Brier", "validation Brier score", wording.nll, False),
    Column("temperature", "temp.", "fitted temperature", wording.figure, False),
    Column("epochs", "epochs", "epochs trained", lambda value: f"{value:.0f}", False),
    Column("seconds", "time", "time of training", wording.seconds, False),
    Column("note", "note", "what went wrong, or whose result was used", None),
)


def trials_table(
    trials: pd.DataFrame, best: int | None, pick: int | None = None, most: int = MOST_ROWS
) -> Table:
    """Return the trials of a prepared frame; those with the numbers given are marked.

    Where there are more than `most`, those with the lowest NLL are kept, and the marked ones.
    """
    columns = _columns(trials)
    marked = {"best": best, "pick": pick}
    kept = trials if len(trials) <= most else _lowest(trials, most, [best, pick])
    rows = tuple(_row(row, columns, marked) for row in kept.to_dict("records"))
    filters = _distinct(kept["state"]), _distinct(kept["schedule"])
    return Table(columns, rows, len(trials), *filters)


def _lowest(trials: pd.DataFrame, most: int, marked: Iterable[int | None]) -> pd.DataFrame:
    named = trials["number"].isin([number for number in marked if number is not None])
    first = trials.index[named | (trials["ticket"] == 0)]
    order = trials["nll"].drop(first).sort_values(kind="stable").index
    return trials.loc[[*first, *order][:most]].sort_values("number")


def _columns(trials: pd.DataFrame) -> tuple[Column, ...]:
    known = set(results.TRIAL_COLUMNS)
    more = tuple(_extra(str(name), trials) for name in trials.columns if name not in known)
    return (*_COLUMNS[:-1], *more, _COLUMNS[-1])


def _extra(name: str, trials: pd.DataFrame) -> Column:
    heading = name.removeprefix("hp_").removeprefix("extra_")
    title = "searched besides smoothing" if name.startswith("hp_") else "yielded by the task"
    numeric = pd.api.types.is_numeric_dtype(trials[name])
    return Column(name, heading, f"{heading}: {title}", _short if numeric else None)


def _short(value: float) -> str:
    if not math.isfinite(value):
        return wording.figure(value)
    return f"{value:.3g}"


def _row(
    trial: Mapping[Any, Any], columns: Iterable[Column], marked: Mapping[str, int | None]
) -> TableRow:
    cells = tuple(_cell(trial, column) for column in columns)
    return TableRow(str(trial["state"]), str(trial["schedule"]), _mark(trial, marked), cells)


def _mark(trial: Mapping[Any, Any], marked: Mapping[str, int | None]) -> str:
    marks = [word for word, number in marked.items() if trial["number"] == number]
    marks += ["baseline"] if trial["ticket"] == 0 else []
    return ", ".join(marks)


def _cell(trial: Mapping[Any, Any], column: Column) -> Cell:
    if column.key == "note":
        return _note(trial)
    value = trial[column.key]
    if column.shown is None:
        text = "" if _missing(value) else str(value)
        return Cell(text, text, False)
    if math.isnan(value):
        return Cell(wording.NOTHING, "", True)
    return Cell(column.shown(value), f"{value!r}", True)


def _note(trial: Mapping[Any, Any]) -> Cell:
    lines = str(trial["failure"]).splitlines()
    copied = trial["copied_from"]
    if lines:
        return Cell(lines[0], str(trial["failure"]), False)
    text = "" if math.isnan(copied) else f"same point as trial {copied:.0f}: result taken over"
    return Cell(text, text, False)


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _distinct(column: "pd.Series") -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in column}))
