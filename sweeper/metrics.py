"""The metrics: labels, units, direction and formatting."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sweeper import formatting as fmt


class Metric(NamedTuple):
    """How a score of a model is displayed.

    `label` is its name in sentences and on axes, `heading` its name in tables. `write` formats a
    value. Differences are multiplied by `factor` and shown in `unit`.
    """

    label: str
    heading: str
    write: Callable[[float], str] = fmt.nll
    unit: str = ""
    factor: float = 1.0
    higher_is_better: bool = False


def _nats(label: str, heading: str) -> Metric:
    return Metric(label, heading, fmt.nll, "nats")


def _share(label: str, heading: str = "", *, higher_is_better: bool = False) -> Metric:
    return Metric(label, heading or label, fmt.percent, "points", 100.0, higher_is_better)


# In the order of the columns of a trials frame.
METRICS: Final[Mapping[str, Metric]] = {
    "nll": _nats("NLL", "NLL"),
    "accuracy": _share("accuracy", higher_is_better=True),
    "accuracy_top5": _share("top-5 accuracy", higher_is_better=True),
    "brier": Metric("Brier score", "Brier"),
    "ece": _share("ECE"),
    "temperature": Metric("temperature", "temp.", fmt.two_figures),
    "nll_calibrated": _nats("NLL after temperature scaling", "NLL scaled"),
    "ece_calibrated": _share("ECE after temperature scaling", "ECE scaled"),
    "ece_adaptive": _share("adaptive ECE"),
    "ece_classwise": _share("classwise ECE"),
    "ece_debiased": _share("debiased ECE"),
    "overconfidence": _share("overconfidence"),
    "underconfidence": _share("underconfidence"),
    "aurc": Metric("AURC", "AURC"),
    "eaurc": Metric("E-AURC", "E-AURC"),
    "entropy": _nats("entropy", "entropy"),
}


def validation_label(metric: str) -> str:
    """Return the name of a metric on the validation split, for use in sentences."""
    return f"validation {METRICS[metric].label}"


def validation_axis(metric: str) -> str:
    """Return the axis title of a metric on the validation split, with its unit."""
    unit = METRICS[metric].unit
    return validation_label(metric) + (f" ({unit})" if unit else "")
