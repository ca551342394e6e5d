"""Read a study from the database into the frames that `sweeper.study.results` describes."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any

import pandas as pd
from optuna.trial import TrialState
from pydantic_core import from_json

from sweeper.smoothing.usage import label_smoothing
from sweeper.store.damage import reports_damage
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, read_epochs
from sweeper.store.studies import EarlierTrial, StudyRecord
from sweeper.store.trials import TrialRows, read_table, trial_numbers
from sweeper.study.dimensions import Space
from sweeper.study.load import read_stored
from sweeper.study.results import EPOCH_COLUMNS, SCORES
from sweeper.study.space import EffectiveSmoothing, effective_smoothing, inactive

# Characters of a failure that are shown in a table.
_LONGEST_LINE = 300

STATE_WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_MOMENTS = ("started", "finished")
_USAGE = ("cores", "core_hours", "gpu_hours", "peak_memory")
_NUMBERS = ("epsilon", "label_smoothing", "rate", "value", *SCORES, "seconds", *_USAGE)
_SMOOTHING = ("epsilon", "schedule", "rate")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(_NUMBERS, "float64"),
    **dict.fromkeys(_MOMENTS, "datetime64[us]"),
    **dict.fromkeys(("number", "ticket", "epochs", "code"), "int64"),
    "copied_from": "Int64",
}


@reports_damage
def trials_frame(store: Store, study: StudyRecord) -> pd.DataFrame:
    """Return one row per trial, with the columns described in `sweeper.study.results`."""
    with _gc_disabled():
        table = read_table(store, study)
        numbers = dict(zip(table.ticket, table.number, strict=True))
        space = read_stored(study).spec.space
        return _frame(table, numbers, space).sort_values("number", ignore_index=True)


@reports_damage
def trials_by_id(
    store: Store, study: StudyRecord, wanted: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """Return the rows of the wanted trials, in that order.

    Each wanted trial is a pair of Optuna's trial id and the ticket.
    """
    table = read_table(store, study, [trial for trial, _ in wanted])
    copied = any(ticket is not None for ticket in table.copied_from)
    numbers = trial_numbers(store, study.name) if copied else {}
    frame = _frame(table, numbers, read_stored(study).spec.space)
    place = {ticket: index for index, (_, ticket) in enumerate(wanted)}
    return frame.sort_values("ticket", key=lambda tickets: tickets.map(place), ignore_index=True)


def earlier_frame(trials: Sequence[EarlierTrial], space: Space) -> pd.DataFrame:
    """Return one row per trial of an earlier study that informs the sampler.

    The columns are study, trial (its number there), state, epsilon, schedule, rate, value (of a
    pruned trial, the last one reported) and hp_NAME.
    """
    smoothing = [effective_smoothing(trial.point) for trial in trials]
    columns: dict[str, Any] = {
        "study": [trial.source for trial in trials],
        "trial": [trial.trial for trial in trials],
        "state": ["complete" if trial.step is None else "pruned" for trial in trials],
        **{name: [getattr(each, name) for each in smoothing] for name in _SMOOTHING},
        "value": [trial.value for trial in trials],
    }
    params = {name: [trial.point[name] for trial in trials] for name in space.dimensions}
    frame = pd.DataFrame(columns | dict(_hyperparameters(params, space)))
    return frame.astype({"epsilon": "float64", "rate": "float64", "value": "float64"})


def _frame(table: TrialRows, numbers: Mapping[int, int], space: Space) -> pd.DataFrame:
    """Return the frame of the trials that sweeper created; `numbers` are by ticket.

    Hyperparameters that are inactive in a trial have no value there.

    Trials that something else added to the Optuna study may lack epsilon, schedule or rate. They
    are left out.
    """
    none = [None] * len(table.trial)
    points = [table.params.get(name, none) for name in _SMOOTHING]
    ours = [None not in point for point in zip(*points, strict=True)]

    def select(column: Sequence[Any]) -> list[Any]:
        return list(compress(column, ours))

    epsilons, schedules, rates = map(select, points)
    # Whether the rate has an effect depends only on the schedule and on whether ε is 0.
    by_schedule = {name: _effective_smoothing(1.0, name) for name in set(schedules)}
    zero = _effective_smoothing(0.0, "fixed")
    scores, extras = (
        from_json(f"[{','.join(select(texts))}]", cache_strings="keys")
        for texts in (table.scores, table.extra)
    )
    states, words = select(table.state), {state.name: word for state, word in STATE_WORDS.items()}
    extra_names = dict.fromkeys(name for extra in extras for name in extra)
    effective = [
        name if epsilon else zero.schedule
        for name, epsilon in zip(schedules, epsilons, strict=True)
    ]
    columns: dict[str, Any] = {
        "number": select(table.number),
        "ticket": select(table.ticket),
        "state": [words[state] for state in states],
        "epsilon": epsilons,
        "label_smoothing": [
            label_smoothing(*trial)
            for trial in zip(epsilons, effective, select(table.classes), strict=True)
        ],
        "schedule": effective,
        "rate": [
            rate if epsilon and by_schedule[name].rate is not None else None
            for name, epsilon, rate in zip(schedules, epsilons, rates, strict=True)
        ],
        "copied_from": [
            None if ticket is None else numbers.get(ticket) for ticket in select(table.copied_from)
        ],
        "value": [
            value if state == TrialState.COMPLETE.name else None
            for value, state in zip(select(table.value), states, strict=True)
        ],
        **{name: [trial.get(name) for trial in scores] for name in SCORES},
        "epochs": select(table.epochs),
        "seconds": select(table.seconds),
        "cores": select(table.cores),
        "core_hours": [seconds / 3600 or None for seconds in select(table.core_seconds)],
        "gpu_hours": [seconds / 3600 or None for seconds in select(table.gpu_seconds)],
        "peak_memory": [
            None if peak is None else peak / 2**30 for peak in select(table.peak_memory)
        ],
        "started": pd.to_datetime(select(table.started), format="ISO8601"),
        "finished": pd.to_datetime(select(table.finished), format="ISO8601"),
        "failure": [failure_summary(text) for text in select(table.failure)],
        "cause": select(table.cause),
        "notes": select(table.notes),
        "code": select(table.code),
        **dict(
            _hyperparameters({name: select(values) for name, values in table.params.items()}, space)
        ),
        **{f"extra_{name}": [extra.get(name) for extra in extras] for name in extra_names},
    }
    return pd.DataFrame(columns).astype(_TYPES)


def _hyperparameters(params: Mapping[str, list[Any]], space: Space) -> Iterator[tuple[str, Any]]:
    """Yield the columns of the hyperparameters, without the values that were not used."""
    unused = (
        [
            inactive(dict(zip(params, point, strict=True)), space)
            for point in zip(*params.values(), strict=True)
        ]
        if space.conditions
        else []
    )
    for name, values in params.items():
        if name in _SMOOTHING:
            continue
        if name in space.conditions:
            values = [
                None if name in off else value for value, off in zip(values, unused, strict=True)
            ]
        # pandas would convert integers to floats if values are missing.
        is_integer = None in values and any(type(value) is int for value in values)
        yield f"hp_{name}", pd.Series(values, dtype="object") if is_integer else values


def _effective_smoothing(epsilon: float, schedule: str) -> EffectiveSmoothing:
    return effective_smoothing({"epsilon": epsilon, "schedule": schedule, "rate": 1.0})


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable garbage collection, which would repeatedly scan all rows for no benefit."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@reports_damage
def epochs_frame(
    store: Store, study: StudyRecord, wanted: Mapping[int, int] | None = None
) -> pd.DataFrame:
    """Return one row per evaluation, with the columns of `results.EPOCH_COLUMNS`.

    `wanted` are trial numbers by ticket; None means all trials.
    """
    numbers = trial_numbers(store, study.name) if wanted is None else wanted
    rows = [
        {**row, "number": numbers[row["number"]]}
        for row in read_epochs(store, study, numbers=None if wanted is None else [*wanted])
        if row["number"] in numbers
    ]
    return pd.DataFrame(rows, columns=list(EPOCH_COLUMNS)).sort_values(["number", "epoch"])


def epochs_of(rows: Iterable[EpochRow], number: int) -> pd.DataFrame:
    """Return the evaluations of one trial as a frame like that of `epochs_frame`."""
    records = [{**vars(row), "number": number} for row in rows]
    return pd.DataFrame(records, columns=list(EPOCH_COLUMNS))


def failure_summary(text: str) -> str:
    """Return the line that summarizes a failure: the last of a traceback, else the first."""
    lines = text.strip().splitlines()
    if not lines:
        return ""
    line = lines[-1].strip() if lines[0].startswith("Traceback") else lines[0].strip()
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"
