"""The recommended configuration and the lowest value of the search, as sentences.

Reports, pages, notes and commands show them in this order.
"""

import pandas as pd

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.metrics import METRICS, validation_label
from sweeper.study import results
from sweeper.study.space import effective_smoothing, hparams_of


def recommendation(candidate: Candidate | None) -> str:
    """Return `Recommended: ε = 0.17, cosine, rate 2.3`; None means that there is no verdict."""
    if candidate is None:
        return "No recommendation yet"
    smoothing = effective_smoothing(candidate.point)
    without = "" if smoothing.epsilon else " (no label smoothing)"
    return f"Recommended: {fmt.smoothing(*smoothing)}{without}"


def describe_hparams(candidate: Candidate) -> str:
    """Return the values that were searched besides smoothing, as `lr = 0.01, width = 64`."""
    return ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in hparams_of(candidate.point).items()
    )


def other_hyperparameters(candidate: Candidate) -> str:
    """Return the values that were searched besides smoothing, "" if there are none."""
    values = describe_hparams(candidate)
    return f"Other hyperparameters: {values}." if values else ""


def lowest_in_search(trials: pd.DataFrame, metric: str) -> str:
    """Return a sentence about the lowest value of the search, "" if no trial has finished."""
    row = results.best(trials)
    if row is None:
        return ""
    # Trials that reuse the result of a duplicate are not new evidence.
    count = int(results.complete(trials)["copied_from"].isna().sum())
    value = (
        f"Lowest in the search: {validation_label(metric)} {METRICS[metric].write(row['value'])} "
        f"with {fmt.trial_smoothing(row)} ({fmt.trial_name(row)})."
    )
    if count == 1:
        return f"{value} No other trial has finished."
    return (
        f"{value} This value is optimistic, because it was selected from {count:,} trials with one "
        "seed each."
    )
