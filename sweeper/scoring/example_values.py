"""Per-example values, for statistics that pair the examples of two models."""

import math
from dataclasses import dataclass

from torch import Tensor

from sweeper.scoring.logits_file import Logits
from sweeper.scoring.samples import Columns, sample_values
from sweeper.scoring.score_inputs import blocks, check_inputs
from sweeper.scoring.temperature import margins, scaled_values


@dataclass(frozen=True, eq=False)
class Examples:
    """Values of each example: tensors (N,), `correct` bool and the others float64.

    `nll` is in nats, `brier` in [0, 2], `confidence` is the largest probability. `nll_calibrated`
    and `confidence_calibrated` are computed from softmax(logits / T). The scores are the means of
    these values, or their `weighted_ece` and `weighted_aurc`. Float64 values are NaN for examples
    with a NaN or +inf logit.
    """

    nll: Tensor
    nll_calibrated: Tensor
    brier: Tensor
    correct: Tensor
    confidence: Tensor
    confidence_calibrated: Tensor


def examples(logits: Logits, labels: Tensor, temperature: float) -> Examples:
    """Return the values of each example of logits (N, K) with hard labels (N,).

    `temperature` T > 0 should be fitted on other data. The logits can have any float type and
    device; values are computed in float64 on the CPU. Raises ValueError for an invalid T, and in
    the same cases as `score`.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be a finite number > 0, as returned by fit_temperature, got "
            f"{temperature}"
        )
    logits, labels = check_inputs(logits, labels)
    columns = Columns(len(labels))
    for block in blocks(logits, labels):
        (nll, brier, confidence, correct), _ = sample_values(*block)
        scaled = scaled_values(margins(*block), 1 / temperature)
        columns.add([nll, *scaled, brier, confidence, correct])
    names = "nll", "nll_calibrated", "confidence_calibrated", "brier", "confidence", "correct"
    return Examples(**dict(zip(names, columns.values, strict=True)))
