"""What each example gets, for statistics that pair the examples of two models."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.scoring.samples import judged
from sweeper.scoring.score_inputs import blocks, checked
from sweeper.scoring.temperature import margins, softened


@dataclass(frozen=True, eq=False)
class Examples:
    """What each example gets, tensors (N,), float64 but for `correct`, which is bool.

    `nll` in nats, `brier` in [0, 2], `confidence` the largest probability; `nll_calibrated` and
    `confidence_calibrated` are those of softmax(logits / T). Their means, and `ece_of` and
    `aurc_of`, are the scores. Float64 values are NaN where the example's logits hold NaN or +inf.
    """

    nll: Tensor
    nll_calibrated: Tensor
    brier: Tensor
    correct: Tensor
    confidence: Tensor
    confidence_calibrated: Tensor


def examples(logits: Tensor, labels: Tensor, temperature: float) -> Examples:
    """Return what each example of logits (N, K) gets against hard labels (N,).

    `temperature` T is above 0, and fitted on other data. Any float type and device; computed in
    float64 on the CPU. Raises ValueError for another T, and as `score` does.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"the temperature is {temperature}; it is a finite number above 0, "
            "as fit_temperature returns"
        )
    parts = _parts(*checked(logits, labels), 1 / temperature)
    names = "nll", "nll_calibrated", "confidence_calibrated", "brier", "confidence", "correct"
    values = (torch.cat(each) for each in zip(*parts, strict=True))
    return Examples(**dict(zip(names, values, strict=True)))


def _parts(logits: Tensor, labels: Tensor, beta: float) -> Iterator[tuple[Tensor, ...]]:
    for block in blocks(logits, labels):
        (nll, brier, confidence, correct), _ = judged(*block)
        yield nll, *softened(margins(*block), beta), brier, confidence, correct
