"""The metric that a study minimizes."""

from collections.abc import Mapping

from sweeper.study.spec import Metric


def metric_of(scores: Mapping[str, float | None], metric: Metric) -> float:
    """Return the value of the study's metric; raises `ValueError` if it was not computed."""
    value = scores[metric]
    if value is None:
        raise ValueError(f"the scores do not include {metric}")
    return value
