"""Trials as responses of the JSON API."""

import pandas as pd

from sweeper.api import Trial
from sweeper.service.api.models import EpochResponse, TrialDetail, TrialResponse
from sweeper.study.plain import plain_trial, plain_trials, plain_value
from sweeper.study.results import EPOCH_COLUMNS


def trial_responses(trials: pd.DataFrame) -> list[TrialResponse]:
    """Return one response per row."""
    return [TrialResponse(**row) for row in plain_trials(trials)]


def trial_detail(trial: Trial) -> TrialDetail:
    """Return one trial with its evaluations, output and environment."""
    return TrialDetail(
        trial=TrialResponse(**plain_trial(trial.row.to_dict())),
        evaluations=[
            EpochResponse(**{name: plain_value(row[name]) for name in EPOCH_COLUMNS[1:]})
            for row in trial.epochs.to_dict("records")
        ],
        log=trial.printed,
        failure=trial.result.failure,
        environment=dict(trial.result.environment),
    )
