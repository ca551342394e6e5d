"""How good a model is on held-out data, whatever it was trained with."""

import math
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from sweeper.scoring.calibration import binned_gap
from sweeper.scoring.inputs import checked
from sweeper.scoring.temperature import cross_fitted_nll, fitted_beta, margins

_TOP = 5
_FEWEST_CLASSES_FOR_TOP = 10


@dataclass(frozen=True)
class Scores:
    """The unsmoothed scores of one evaluation, against hard labels.

    `nll` in nats; `accuracy` and `accuracy_top5` in [0, 1], the latter None below 10 classes;
    `brier` in [0, 2], the squared error summed over classes; `ece` in [0, 1], 15 equal bins.
    `temperature` is fitted on all samples; `nll_calibrated` is the NLL after scaling with a
    temperature fitted on the other half. Both are None when not asked for. Every number is NaN
    when the logits hold NaN or +inf.
    """

    nll: float
    accuracy: float
    brier: float
    ece: float
    accuracy_top5: float | None = None
    temperature: float | None = None
    nll_calibrated: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields as plain data."""
        return asdict(self)


def score(logits: Tensor, labels: Tensor, *, full: bool = True) -> Scores:
    """Return the scores of logits (N, K) against hard labels (N,).

    Any float type and device; computed in float64 on the CPU. `full` adds accuracy_top5,
    temperature and nll_calibrated. A logit of -inf masks its class. Ties go to the lower class.
    Raises ValueError for other shapes and types, no samples, and labels outside [0, K); NaN and
    +inf give NaN.
    """
    logits, labels = checked(logits, labels)
    log_p = logits.log_softmax(0)
    own = log_p.gather(0, labels.unsqueeze(0))
    scores = _scores(log_p, own, labels)
    if not full:
        return scores
    shifted = margins(logits, labels)
    beta = fitted_beta(shifted)
    return replace(
        scores,
        accuracy_top5=_top_accuracy(log_p, own, labels),
        temperature=1 / beta,
        nll_calibrated=cross_fitted_nll(shifted, start=beta),
    )


def _scores(log_p: Tensor, own: Tensor, labels: Tensor) -> Scores:
    # Runs every epoch, where each operation costs more than its arithmetic: few of them.
    count = len(labels)
    nll = -own.sum().item() / count
    if math.isnan(nll):
        return Scores(math.nan, math.nan, math.nan, math.nan)
    p = log_p.exp()
    confidence, predicted = p.max(0)
    correct = predicted == labels
    # Σ (p - q)² with q one-hot is Σ p² - 2·p_y + 1 (Brier 1950).
    squares = p.square().sum().item() - 2 * own.exp().sum().item()
    return Scores(
        nll=nll,
        accuracy=correct.sum().item() / count,
        brier=squares / count + 1,
        ece=binned_gap(confidence, correct),
    )


def _top_accuracy(log_p: Tensor, own: Tensor, labels: Tensor) -> float | None:
    classes = len(log_p)
    if classes < _FEWEST_CLASSES_FOR_TOP:
        return None
    if own.isnan().any():
        return math.nan
    tied_before = (log_p == own) & (torch.arange(classes).unsqueeze(1) < labels)
    rank = ((log_p > own) | tied_before).sum(0)
    return (rank < _TOP).double().mean().item()
