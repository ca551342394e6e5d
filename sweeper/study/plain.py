"""Rows of data frames as plain data for JSON; NaN and infinity become None."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from sweeper.study.results import SCORES, TRIAL_COLUMNS

_FIELDS = tuple(name for name in TRIAL_COLUMNS if name not in (*SCORES, "ticket"))


def plain_trials(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dictionary per row of a trials frame.

    The scores, the extra hyperparameters and the extra metrics are dictionaries `scores`, `hparams`
    and `extra`.
    """
    return [plain_trial(row) for row in trials.to_dict("records")]


def plain_trial(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return one row of a trials frame as a dictionary; see `plain_trials`."""
    plain = {str(name): plain_value(value) for name, value in row.items()}
    return {
        **{name: plain[name] for name in _FIELDS},
        "scores": {name: plain[name] for name in SCORES},
        "hparams": dict(_prefixed(plain, "hp_")),
        "extra": dict(_prefixed(plain, "extra_")),
    }


def plain_value(value: Any) -> Any:
    """Return a value of a frame as JSON can write it."""
    if isinstance(value, pd.Timestamp):
        return f"{value.isoformat()}Z"
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _prefixed(row: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    return (
        (name.removeprefix(prefix), value) for name, value in row.items() if name.startswith(prefix)
    )
