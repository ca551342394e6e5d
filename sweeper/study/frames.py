"""Reads a study from the database into the frames that `results` describes."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any

import pandas as pd
from optuna.trial import TrialState
from pydantic_core import from_json

from sweeper.smoothing import to_uniform
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, read_epochs
from sweeper.store.studies import StudyRecord
from sweeper.store.trials import TrialTable, read_table, trial_numbers
from sweeper.study.results import EPOCH_COLUMNS, SCORES
from sweeper.study.space import Acting, acting

STATE_WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}
_MOMENTS = ("started", "finished")
_NUMBERS = ("epsilon", "label_smoothing", "rate", "value", *SCORES, "seconds")
_SMOOTHING = ("epsilon", "schedule", "rate")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(_NUMBERS, "float64"),
    **dict.fromkeys(_MOMENTS, "datetime64[us]"),
    **dict.fromkeys(("number", "ticket", "epochs"), "int64"),
    "copied_from": "Int64",
}


def trials_frame(store: Store, study: StudyRecord) -> pd.DataFrame:
    """Return one row a trial, with the columns of `results.TRIAL_COLUMNS` and the extra ones."""
    with _uncollected():
        table = read_table(store, study)
        numbers = dict(zip(table.ticket, table.number, strict=True))
        return _frame(table, numbers).sort_values("number", ignore_index=True)


def some_trials(
    store: Store, study: StudyRecord, wanted: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """Return the same of some trials, in their order; each is Optuna's id and the ticket."""
    table = read_table(store, study, [trial for trial, _ in wanted])
    copied = any(ticket is not None for ticket in table.copied_from)
    frame = _frame(table, trial_numbers(store, study.name) if copied else {})
    place = {ticket: at for at, (_, ticket) in enumerate(wanted)}
    return frame.sort_values("ticket", key=lambda tickets: tickets.map(place), ignore_index=True)


def _frame(table: TrialTable, numbers: Mapping[int, int]) -> pd.DataFrame:
    """Return the frame of trials that have a point of ours; `numbers` are by ticket."""
    none = [None] * len(table.trial)
    points = [table.params.get(name, none) for name in _SMOOTHING]
    ours = [None not in point for point in zip(*points, strict=True)]

    def kept(column: Sequence[Any]) -> list[Any]:
        return list(compress(column, ours))

    epsilons, schedules, rates = map(kept, points)
    # Of a schedule all trials are alike: what acts at some ε, and what at 0.
    some = {name: _acting(1.0, name) for name in set(schedules)}
    zero = _acting(0.0, "fixed")
    scores, extras = (
        from_json(f"[{','.join(kept(texts))}]", cache_strings="keys")
        for texts in (table.scores, table.extra)
    )
    states, words = kept(table.state), {state.name: word for state, word in STATE_WORDS.items()}
    more = dict.fromkeys(name for extra in extras for name in extra)
    columns: dict[str, Any] = {
        "number": kept(table.number),
        "ticket": kept(table.ticket),
        "state": [words[state] for state in states],
        "epsilon": epsilons,
        "label_smoothing": [
            None if classes is None else to_uniform(epsilon, classes)
            for epsilon, classes in zip(epsilons, kept(table.classes), strict=True)
        ],
        "schedule": [
            name if epsilon else zero.schedule
            for name, epsilon in zip(schedules, epsilons, strict=True)
        ],
        "rate": [
            rate if epsilon and some[name].rate is not None else None
            for name, epsilon, rate in zip(schedules, epsilons, rates, strict=True)
        ],
        "copied_from": [
            None if ticket is None else numbers.get(ticket) for ticket in kept(table.copied_from)
        ],
        "value": [
            value if state == TrialState.COMPLETE.name else None
            for value, state in zip(kept(table.value), states, strict=True)
        ],
        **{name: [found.get(name) for found in scores] for name in SCORES},
        "epochs": kept(table.epochs),
        "seconds": kept(table.seconds),
        "started": pd.to_datetime(kept(table.started), format="ISO8601"),
        "finished": pd.to_datetime(kept(table.finished), format="ISO8601"),
        "failure": [last_line(text) for text in kept(table.failure)],
        "cause": kept(table.cause),
        "notes": kept(table.notes),
        **{
            f"hp_{name}": kept(values)
            for name, values in table.params.items()
            if name not in _SMOOTHING
        },
        **{f"extra_{name}": [extra.get(name) for extra in extras] for name in more},
    }
    return pd.DataFrame(columns).astype(_TYPES)


def _acting(epsilon: float, schedule: str) -> Acting:
    return acting({"epsilon": epsilon, "schedule": schedule, "rate": 1.0})


@contextmanager
def _uncollected() -> Iterator[None]:
    """Put garbage collection off: it goes through all rows again and again, and finds nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def epochs_frame(
    store: Store, study: StudyRecord, some: Mapping[int, int] | None = None
) -> pd.DataFrame:
    """Return one row an evaluation, with the columns of `results.EPOCH_COLUMNS`.

    `some` are the trials wanted, number by ticket; None for all.
    """
    numbers = trial_numbers(store, study.name) if some is None else some
    rows = [
        {**row, "number": numbers[row["number"]]}
        for row in read_epochs(store, study, numbers=None if some is None else [*some])
        if row["number"] in numbers
    ]
    return pd.DataFrame(rows, columns=list(EPOCH_COLUMNS)).sort_values(["number", "epoch"])


def epochs_of(rows: Iterable[EpochRow], number: int) -> pd.DataFrame:
    """Return the evaluations of one trial, as `epochs_frame` would."""
    kept = [{**vars(row), "number": number} for row in rows]
    return pd.DataFrame(kept, columns=list(EPOCH_COLUMNS))


def last_line(text: str) -> str:
    """Return the line of a failure that says what went wrong: a traceback's is its last."""
    lines = text.strip().splitlines()
    if not lines:
        return ""
    return lines[-1].strip() if lines[0].startswith("Traceback") else lines[0].strip()
