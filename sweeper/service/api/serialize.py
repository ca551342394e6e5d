"""Rows of frames as plain data for the JSON API: no number that JSON does not have."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from sweeper.api import Trial
from sweeper.service.api.models import EpochAnswer, TrialAnswer, TrialDetail
from sweeper.study.results import EPOCH_COLUMNS, SCORES


def trial_answers(trials: pd.DataFrame) -> list[TrialAnswer]:
    """Return the answer of each row."""
    return [_trial({str(k): v for k, v in row.items()}) for row in trials.to_dict("records")]


def trial_detail(trial: Trial) -> TrialDetail:
    """Return one trial with all that is kept of it."""
    return TrialDetail(
        trial=_trial({str(key): value for key, value in trial.row.items()}),
        evaluations=[
            EpochAnswer(**{name: _plain(row[name]) for name in EPOCH_COLUMNS[1:]})
            for row in trial.epochs.to_dict("records")
        ],
        log=trial.result.log,
        failure=trial.result.failure,
        environment=dict(trial.result.environment),
    )


def _trial(row: Mapping[str, Any]) -> TrialAnswer:
    plain = {name: _plain(value) for name, value in row.items()}
    return TrialAnswer(
        number=plain["number"],
        state=plain["state"],
        epsilon=plain["epsilon"],
        label_smoothing=plain["label_smoothing"],
        schedule=plain["schedule"],
        rate=plain["rate"],
        value=plain["value"],
        scores={name: plain[name] for name in SCORES},
        hparams=dict(_prefixed(plain, "hp_")),
        extra=dict(_prefixed(plain, "extra_")),
        epochs=plain["epochs"],
        seconds=plain["seconds"],
        started=plain["started"],
        finished=plain["finished"],
        copied_from=plain["copied_from"],
        failure=plain["failure"],
        cause=plain["cause"],
        notes=plain["notes"],
    )


def _prefixed(row: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    return (
        (name.removeprefix(prefix), value) for name, value in row.items() if name.startswith(prefix)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return f"{value.isoformat()}Z"
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
