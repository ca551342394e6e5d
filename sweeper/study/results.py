"""What a study found, as pandas frames and a few choices made on them.

`trials` frames have one row a trial, sorted by `number`, with the columns of `TRIAL_COLUMNS`
followed by `hp_<name>` for every extra hyperparameter of the space and `extra_<name>` for
every extra metric that a task's own loop yielded. `epochs` frames have one row an evaluation.
"""

from typing import Final

import pandas as pd

TRIAL_COLUMNS: Final = (
    "number",  # Optuna's trial number; int
    "ticket",  # int; 0 is the baseline, epsilon = 0
    "state",  # complete | pruned | failed | running
    "epsilon",  # in the convention `others`
    "label_smoothing",  # the same in the convention `uniform`, torch's argument
    "schedule",
    "rate",  # NaN where it does not act (fixed, epsilon = 0)
    "copied_from",  # number of the trial whose stored result this one was given; NA
    "value",  # the study's metric; NaN unless complete
    "nll",  # validation, unsmoothed, nats; the last evaluation's, also of pruned trials
    "accuracy",  # in [0, 1]
    "accuracy_top5",  # NaN below 10 classes
    "brier",
    "ece",
    "temperature",  # NaN unless complete
    "nll_calibrated",  # after temperature scaling, cross-fitted; NaN unless complete
    "ece_calibrated",  # so is it; as are the others: see sweeper.scoring.Scores
    "ece_adaptive",
    "ece_classwise",
    "ece_debiased",
    "overconfidence",
    "underconfidence",
    "aurc",
    "eaurc",
    "entropy",
    "epochs",
    "seconds",
    "started",  # datetime64, UTC
    "finished",
    "failure",  # first line of what went wrong; "" if nothing did
    "cause",  # raised | diverged | memory | timeout | lost; "" if nothing went wrong
    "notes",  # what was unusual about its reports, one line per note; "" if nothing was
)

EPOCH_COLUMNS: Final = (
    "number",
    "epoch",  # from 1
    "progress",  # in (0, 1]
    "epsilon",  # in force at the end of the epoch; for adaptive schedules its ceiling
    "mean_epsilon",  # of what the epoch's training samples were smoothed with; NaN if not known
    "train_loss",  # the smoothed training loss, not comparable between trials
    "nll",
    "accuracy",
    "brier",
    "ece",
)


# The scores of a trial, in the order of its columns.
SCORES: Final = TRIAL_COLUMNS[TRIAL_COLUMNS.index("nll") : TRIAL_COLUMNS.index("epochs")]


def complete(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that ran to the end, best first; ties go to the smaller number."""
    done = trials[trials["state"] == "complete"]
    return done.sort_values(["value", "number"], kind="stable")


def baseline(trials: pd.DataFrame) -> pd.Series | None:
    """Return the finished trial at epsilon = 0 that every comparison is made against."""
    rows = trials[(trials["ticket"] == 0) & (trials["state"] == "complete")]
    return None if rows.empty else rows.iloc[0]


def best(trials: pd.DataFrame) -> pd.Series | None:
    """Return the finished trial with the lowest value of the study's metric."""
    rows = complete(trials)
    return None if rows.empty else rows.iloc[0]


def best_by_schedule(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the best finished trial of each schedule with epsilon > 0, best first."""
    smoothed = complete(trials[trials["epsilon"] > 0])
    return smoothed.drop_duplicates("schedule")


def failures(trials: pd.DataFrame) -> dict[str, int]:
    """Return how many trials failed, by cause, the commonest first."""
    causes = trials.loc[trials["state"] == "failed", "cause"]
    return {str(cause): int(count) for cause, count in causes.value_counts().items()}
