"""Reads a study from the database into the frames that `results` describes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from sweeper.smoothing import to_uniform
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, read_epochs
from sweeper.store.studies import StudyRecord
from sweeper.store.trials import TrialRow, read_table, trial_numbers
from sweeper.study.results import EPOCH_COLUMNS, SCORES
from sweeper.study.space import acting

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
    rows, params = read_table(store, study)
    return _frame(rows, params, {row.ticket: row.number for row in rows})


def some_trials(
    store: Store, study: StudyRecord, wanted: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """Return the same of some trials, in their order; each is Optuna's id and the ticket."""
    rows, params = read_table(store, study, [trial for trial, _ in wanted])
    copied = any(row.copied_from is not None for row in rows)
    numbers = trial_numbers(store, study.name) if copied else {}
    place = {ticket: at for at, (_, ticket) in enumerate(wanted)}
    return _frame(sorted(rows, key=lambda row: place[row.ticket]), params, numbers)


def _frame(
    rows: Iterable[TrialRow], params: Mapping[str, Mapping[int, Any]], numbers: Mapping[int, int]
) -> pd.DataFrame:
    """Return the frame of trials, column by column: of a hundred thousand rows it takes seconds."""
    none: Mapping[int, Any] = {}
    points = [params.get(name, none) for name in _SMOOTHING]
    kept = [row for row in rows if all(row.trial in values for values in points)]
    acts = [
        acting(dict(zip(_SMOOTHING, (values[row.trial] for values in points), strict=True)))
        for row in kept
    ]
    epsilons = [act.epsilon for act in acts]
    scores, extras = (
        json.loads(f"[{','.join(getattr(row, name) for row in kept)}]")
        for name in ("scores", "extra")
    )
    own = dict.fromkeys(name for name in params if name not in _SMOOTHING)
    more = dict.fromkeys(name for extra in extras for name in extra)
    columns: dict[str, list[Any]] = {
        "number": [row.number for row in kept],
        "ticket": [row.ticket for row in kept],
        "state": [STATE_WORDS[row.state] for row in kept],
        "epsilon": epsilons,
        "label_smoothing": [
            None if row.classes is None else to_uniform(epsilon, row.classes)
            for row, epsilon in zip(kept, epsilons, strict=True)
        ],
        "schedule": [act.schedule for act in acts],
        "rate": [act.rate for act in acts],
        "copied_from": [numbers.get(row.copied_from) for row in kept],  # type: ignore[arg-type]
        "value": [row.value if row.state == TrialState.COMPLETE else None for row in kept],
        **{name: [found.get(name) for found in scores] for name in SCORES},
        "epochs": [row.epochs for row in kept],
        "seconds": [row.seconds for row in kept],
        "started": [row.started for row in kept],
        "finished": [row.finished for row in kept],
        "failure": [last_line(row.failure) for row in kept],
        "cause": [row.cause for row in kept],
        **{f"hp_{name}": [params[name].get(row.trial) for row in kept] for name in own},
        **{f"extra_{name}": [extra.get(name) for extra in extras] for name in more},
    }
    return pd.DataFrame(columns).astype(_TYPES)


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
