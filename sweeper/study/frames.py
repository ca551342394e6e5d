"""Reads a study from the database into the frames that `results` describes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from sweeper.smoothing import to_uniform
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, Result, read_epochs, read_results
from sweeper.store.studies import StudyRecord
from sweeper.store.trials import StoredTrial, read_trials, trial_numbers
from sweeper.study.results import EPOCH_COLUMNS, SCORES, TRIAL_COLUMNS
from sweeper.study.space import acting, hparams_of

STATE_WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}
_MOMENTS = ("started", "finished")
_NUMBERS = ("epsilon", "label_smoothing", "rate", "value", *SCORES, "seconds")
_NO_RESULT = Result()


def trials_frame(store: Store, study: StudyRecord) -> pd.DataFrame:
    """Return one row a trial, with the columns of `results.TRIAL_COLUMNS` and the extra ones."""
    trials, results = read_trials(store, study.name), read_results(store, study)
    numbers = {trial.ticket: trial.number for trial in trials}
    return _typed(_rows(trials, results, numbers)).sort_values("number", ignore_index=True)


def some_trials(
    store: Store, study: StudyRecord, wanted: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """Return the same of some trials, in their order; each is Optuna's id and the ticket."""
    trials = read_trials(store, study.name, [trial for trial, _ in wanted])
    results = read_results(store, study, numbers=[ticket for _, ticket in wanted])
    copied = any(result.copied_from is not None for result in results.values())
    numbers = trial_numbers(store, study.name) if copied else {}
    place = {ticket: at for at, (_, ticket) in enumerate(wanted)}
    return _typed(_rows(sorted(trials, key=lambda t: place[t.ticket]), results, numbers))


def _rows(
    trials: Iterable[StoredTrial], results: Mapping[int, Result], numbers: Mapping[int, int]
) -> list[dict[str, Any]]:
    return [
        _trial_row(trial, results.get(trial.ticket, _NO_RESULT), numbers)
        for trial in trials
        if trial.params.keys() >= {"epsilon", "schedule", "rate"}
    ]


def epochs_frame(store: Store, study: StudyRecord) -> pd.DataFrame:
    """Return one row an evaluation, with the columns of `results.EPOCH_COLUMNS`."""
    numbers = trial_numbers(store, study.name)
    rows = [
        {**row, "number": numbers[row["number"]]}
        for row in read_epochs(store, study)
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


def _trial_row(trial: StoredTrial, result: Result, numbers: Mapping[int, int]) -> dict[str, Any]:
    smoothing = acting(trial.params)
    classes = result.classes
    copied = None if result.copied_from is None else numbers.get(result.copied_from)
    return {
        "number": trial.number,
        "ticket": trial.ticket,
        "state": STATE_WORDS[trial.state],
        "epsilon": smoothing.epsilon,
        "label_smoothing": None if classes is None else to_uniform(smoothing.epsilon, classes),
        "schedule": smoothing.schedule,
        "rate": smoothing.rate,
        "copied_from": copied,
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        **{name: result.scores.get(name) for name in SCORES},
        "epochs": result.epochs,
        "seconds": result.seconds,
        "started": trial.started,
        "finished": trial.finished,
        "failure": last_line(result.failure),
        "cause": result.cause,
        **{f"hp_{name}": value for name, value in hparams_of(trial.params).items()},
        **{f"extra_{name}": value for name, value in result.extra.items()},
    }


def _typed(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows))
    extra = [column for column in frame.columns if column not in TRIAL_COLUMNS]
    frame = frame.reindex(columns=[*TRIAL_COLUMNS, *extra])
    types: dict[str, Any] = {
        **dict.fromkeys(_NUMBERS, "float64"),
        **dict.fromkeys(_MOMENTS, "datetime64[us]"),
        **dict.fromkeys(("number", "ticket", "epochs"), "int64"),
        "copied_from": "Int64",
    }
    return frame.astype(types)
