"""How to use a configuration in other training code. Does not import torch."""

from typing import Final, NamedTuple

from sweeper.smoothing.conventions import to_uniform
from sweeper.smoothing.names import ADAPTIVE, BUILT_IN

FROM_FILE: Final = """\
from sweeper.smoothing import SmoothingLoss

loss = SmoothingLoss.from_file("best.json")
loss.progress = 0.0  # set before each step: the fraction of training done, from 0 to 1
value = loss(logits, labels)
"""
IN_TORCH: Final = """\
from torch.nn import functional as F

value = F.cross_entropy(logits, labels, label_smoothing={})
"""


class Usage(NamedTuple):
    """Sentences about how to use a configuration, and code to copy ("" if none is needed)."""

    sentence: str
    code: str


def usage(epsilon: float, schedule: str, classes: int | None) -> Usage:
    """Return how to train with a configuration whose effective schedule is `schedule`."""
    if epsilon == 0:
        return Usage("Train with plain cross-entropy, the default of torch.", "")
    argument = label_smoothing(epsilon, schedule, classes)
    if argument is not None:
        return Usage(
            "In torch, use the argument label_smoothing.", IN_TORCH.format(f"{argument:.4g}")
        )
    register = (
        ""
        if schedule in BUILT_IN
        else f" First register {schedule!r} with sweeper.smoothing.register_schedule."
    )
    reason = why_no_label_smoothing(schedule, classes)
    return Usage(
        f"There is no label_smoothing value: {reason} Load best.json instead.{register}", FROM_FILE
    )


def label_smoothing(epsilon: float, schedule: str, classes: int | None) -> float | None:
    """Return torch's `label_smoothing` for an `others` epsilon; None if torch has no equivalent.

    `schedule` is the effective schedule: "fixed" at epsilon 0. `why_no_label_smoothing` says why
    there is none.
    """
    if epsilon == 0:
        return 0.0
    if schedule != "fixed" or classes is None or classes < 2:
        return None
    value = to_uniform(epsilon, classes)
    return value if value <= 1 else None


def why_no_label_smoothing(schedule: str, classes: int | None) -> str:
    """Return why `label_smoothing` returned None, as one sentence."""
    constant = "torch's label_smoothing is one constant number"
    if schedule in BUILT_IN and BUILT_IN[schedule].kind == ADAPTIVE:
        return f"{constant}, but the {schedule} schedule gives each example its own ε."
    if schedule != "fixed":
        return f"{constant}, but the {schedule} schedule changes ε during training."
    if classes is None or classes < 2:
        return "torch's label_smoothing depends on the number of classes, which is not known."
    return "torch's label_smoothing must be at most 1, and this ε corresponds to a larger value."
