"""A made-up study with the shape of the digits study, for the tests of the report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sweeper.report import ReportInput
from sweeper.study.results import EPOCH_COLUMNS, TRIAL_COLUMNS

SCHEDULES = ("fixed", "linear", "cosine", "exponential", "step", "confidence", "error")
CLASSES = 10
EPOCHS = 40
_SCORES = ("nll", "accuracy", "accuracy_top5", "brier", "ece", "temperature", "nll_calibrated")
_COPIED = ("epsilon", "label_smoothing", "schedule", "rate", "value", *_SCORES)
_NONE = {"value": None, "temperature": None, "nll_calibrated": None}
PRUNED = {**_NONE, "state": "pruned", "epochs": 8}
FAILED = {
    **dict.fromkeys(_SCORES),
    "value": None,
    "state": "failed",
    "epochs": 3,
    "failure": "training diverged: the loss is nan in epoch 3",
}


def make_trials(count: int = 64, seed: int = 0) -> pd.DataFrame:
    """Return a study: raw NLL lowest at a small annealed epsilon, scaled NLL at a large fixed."""
    rng = np.random.default_rng(seed)
    rows = [make_trial(0, 0.0, "fixed", float("nan"), rng)]
    for number in range(1, count):
        schedule = SCHEDULES[number % len(SCHEDULES)]
        rate = float("nan") if schedule == "fixed" else float(np.exp(rng.uniform(-1.2, 2.5)))
        rows.append(make_trial(number, float(rng.uniform(0.005, 0.4)), schedule, rate, rng))
    for number in range(9, count, 11):
        rows[number] |= PRUNED | {"nll": 0.3 + rng.uniform(0, 0.5)}
    if count > 33:
        rows[23] |= FAILED
        rows[33] |= {"copied_from": 17, **{k: rows[17][k] for k in _COPIED}}
    return frame(rows)


def make_trial(
    number: int, epsilon: float, schedule: str, rate: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Return one finished trial as a row."""
    held = epsilon * (1.0 if schedule == "fixed" else float(np.exp(-0.3 * np.nan_to_num(rate))))
    noise = rng.normal(0, 0.004)
    nll = 0.126 - 0.25 * min(epsilon, 0.15) + 1.2 * max(held - 0.05, 0) ** 1.5 + noise
    scaled = 0.115 - 0.09 * held - 0.02 * epsilon + noise / 2
    return {
        "number": number,
        "ticket": number,
        "state": "complete",
        "epsilon": epsilon,
        "label_smoothing": epsilon * CLASSES / (CLASSES - 1),
        "schedule": schedule,
        "rate": rate,
        "copied_from": None,
        "value": nll,
        "nll": nll,
        "accuracy": round((0.967 + 0.03 * epsilon + rng.normal(0, 0.003)) * 360) / 360,
        "accuracy_top5": 0.999,
        "brier": 0.05 + rng.normal(0, 0.003),
        "ece": abs(0.014 - 0.4 * held) + 0.004,
        "temperature": 1.5 - 2.6 * held,
        "nll_calibrated": min(scaled, nll - 0.002),
        "epochs": EPOCHS,
        "seconds": 0.4 + rng.uniform(0, 0.2),
        "cores": 1.0,
        "core_hours": 0.00014,
        "gpu_hours": 0.0,
        "peak_memory": 0.21,
        "started": pd.Timestamp("2026-07-01T10:00:00") + pd.Timedelta(seconds=number),
        "finished": pd.Timestamp("2026-07-01T10:00:01") + pd.Timedelta(seconds=number),
        "failure": "",
    }


def make_epochs(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the epochs of the finished trials: epsilon decays, NLL falls from 2.3."""
    rows = [
        _epoch(trial, epoch)
        for trial in trials.to_dict("records")
        if trial["state"] == "complete"
        for epoch in range(1, EPOCHS + 1)
    ]
    return pd.DataFrame(rows, columns=list(EPOCH_COLUMNS))


def make_report(trials: pd.DataFrame | None = None, **changes: Any) -> ReportInput:
    """Return a whole report; `changes` replace fields of it."""
    trials = make_trials() if trials is None else trials
    fields: dict[str, Any] = {
        "name": "digits",
        "metric": "nll",
        "classes": CLASSES,
        "label_source": {"validation": "scikit-learn's digits as shipped, no noise added"},
        "trials": trials,
        "epochs": make_epochs(trials),
        "importance": {"epsilon": 0.58, "schedule": 0.27, "rate": 0.15},
        "facts": {"seed": "0", "spec": "3f9a1c2b", "torch": "2.13.0", "created": "2026-07-01"},
    }
    return ReportInput(**{**fields, **changes})


_USAGE = ("cores", "core_hours", "gpu_hours", "peak_memory")


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as `sweeper.study.frames` would."""
    built = pd.DataFrame(rows)
    built = built.reindex(columns=[*TRIAL_COLUMNS, *(set(built.columns) - set(TRIAL_COLUMNS))])
    numbers = ("epsilon", "label_smoothing", "rate", "value", *_SCORES, "seconds", *_USAGE)
    types = {**dict.fromkeys(numbers, "float64"), "copied_from": "Int64"}
    return built.astype(types)


def _epoch(trial: Mapping[Any, Any], epoch: int) -> dict[str, Any]:
    progress = epoch / EPOCHS
    left = np.exp(-6 * progress)
    return {
        "number": trial["number"],
        "epoch": epoch,
        "progress": progress,
        "epsilon": trial["epsilon"] * _factor(trial["schedule"], trial["rate"], progress),
        "train_loss": 0.5,
        "nll": trial["nll"] + 2.1 * left + 0.003 * np.sin(epoch),
        "accuracy": trial["accuracy"] - 0.5 * left,
        "brier": trial["brier"],
        "ece": trial["ece"],
    }


def _factor(schedule: str, rate: float, progress: float) -> float:
    factors = {
        "linear": max(0.0, 1 - rate * progress),
        "cosine": 0.5 * (1 + np.cos(np.pi * min(1.0, rate * progress))),
        "exponential": np.exp(-rate * progress),
        "step": float(progress < 1 / (1 + rate)),
    }
    return float(factors.get(schedule, 1.0))
