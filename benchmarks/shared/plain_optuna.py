"""Parts of a plain Optuna script with the default space of a study."""

import warnings

import optuna

from sweeper.smoothing import SCHEDULES, Smoothing


def suggest_smoothing(trial: optuna.Trial) -> Smoothing:
    """Suggest epsilon, schedule and rate."""
    return Smoothing(
        trial.suggest_float("epsilon", 0.0, 0.4),
        trial.suggest_categorical("schedule", list(SCHEDULES)),
        trial.suggest_float("rate", 0.3, 12.0, log=True),
    )


def quiet_optuna() -> None:
    """Turn off Optuna's messages below errors, and its warnings about experimental features."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
