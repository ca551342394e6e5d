"""The results of a study as pandas frames, and selections from them.

`trials` frames have one row per trial, sorted by `number`. Their columns are `TRIAL_COLUMNS`,
`hp_<name>` for each hyperparameter of the space besides smoothing, and `extra_<name>` for each
extra metric that the training function reported. `epochs` frames have one row per evaluation.
"""

from typing import Final

import pandas as pd

from sweeper.metrics import METRICS

# The scores of a trial, in the order of its columns.
SCORES: Final = tuple(METRICS)
TRIAL_COLUMNS: Final = (
    "number",  # Optuna's trial number; int
    "ticket",  # int; 0 is the first trial at epsilon = 0
    "state",  # complete | pruned | failed | running | waiting (no worker runs it)
    "epsilon",  # in the convention `others`
    "label_smoothing",  # torch's argument; NaN unless the schedule is fixed
    "schedule",
    "rate",  # annealing rate; NaN if it has no effect (fixed, epsilon = 0)
    "copied_from",  # number of the trial that the result was copied from; NA if trained
    "value",  # the study's metric; NaN unless complete
    *SCORES,  # validation, unsmoothed; NaN if missing; see sweeper.scoring.Scores
    "epochs",
    "seconds",
    "cores",  # CPU cores of its slot, which the trials of a pack share
    "core_hours",  # of all attempts; NaN if there are none
    "gpu_hours",
    "peak_memory",  # GiB, of all processes of the trial, or of its pack; NaN if not measured
    "started",  # datetime64, UTC
    "finished",
    "failure",  # one line that summarizes the failure; "" if the trial did not fail
    "cause",  # raised | diverged | memory | timeout | exited | crashed | lost; ""
    "notes",  # unusual reports of the training function, one line per note; ""
    "code",  # int from 1; the revision of the study's code that the trial was trained with
)

EPOCH_COLUMNS: Final = (
    "number",
    "epoch",  # from 1
    "progress",  # in (0, 1]
    "epsilon",  # at the end of the epoch; for adaptive schedules the upper bound
    "mean_epsilon",  # mean over the training samples of the epoch; NaN if unknown
    "train_loss",  # the smoothed training loss, not comparable between trials
    "nll",
    "accuracy",
    "brier",
    "ece",
)


def complete(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the complete trials, best first; ties are ordered by number."""
    done = trials[trials["state"] == "complete"]
    return done.sort_values(["value", "number"], kind="stable")


def baseline(trials: pd.DataFrame) -> pd.Series | None:
    """Return the best complete trial at epsilon = 0, the baseline; None if there is none.

    There can be several trials at epsilon = 0 if other hyperparameters are searched too.
    """
    return best(trials[trials["epsilon"] == 0])


def best(trials: pd.DataFrame) -> pd.Series | None:
    """Return the complete trial with the lowest value; None if there is none."""
    rows = complete(trials)
    return None if rows.empty else rows.iloc[0]


def best_by_schedule(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the best complete trial with epsilon > 0 of each schedule, best first."""
    smoothed = complete(trials[trials["epsilon"] > 0])
    return smoothed.drop_duplicates("schedule")


def failures(trials: pd.DataFrame) -> dict[str, int]:
    """Return the number of failed trials by cause, the most common first."""
    causes = trials.loc[trials["state"] == "failed", "cause"]
    return {str(cause): int(count) for cause, count in causes.value_counts().items()}
