"""The smoothing of a loss, read from its gradient at the logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sweeper.smoothing import SmoothingLoss
from sweeper.training.observation.targets import label_smoothing_of

Loss = Callable[[Tensor, Tensor], Tensor]


def measured(loss: Loss, classes: int, scale: float) -> float | None:
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(64, classes, generator=generator)
    labels = torch.randint(classes, (64,), generator=generator)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    return label_smoothing_of(logits.softmax(1), gradient)


def mixed(smoothing: float) -> Loss:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        targets = F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
        return F.cross_entropy(logits, 0.7 * targets + 0.3 * targets.flip(0))

    return loss


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    nll = F.cross_entropy(logits, labels, reduction="none")
    value: Tensor = ((1 - (-nll).exp()) ** 2 * nll).mean()
    return value


def weighted(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, weight=torch.linspace(0.5, 2, logits.shape[1]))


def distilled(logits: Tensor, labels: Tensor) -> Tensor:
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).softmax(1)
    return F.cross_entropy(logits, labels) + F.cross_entropy(logits, teacher)


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


def by_sweeper(logits: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = SmoothingLoss(0.1 * (1 - 1 / logits.shape[1]))(logits, labels)
    return loss


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("classes", [4, 10, 1000])
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (F.cross_entropy, 0.0),
        (weighted, 0.0),
        (focal, 0.0),
        (mixed(0.0), 0.0),
        (smoothed, 0.1),
        (by_sweeper, 0.1),
        (mixed(0.1), 0.1),
    ],
)
def test_the_smoothing_is_exact_for_many_classes(
    loss: Loss, expected: float, classes: int, scale: float
) -> None:
    assert measured(loss, classes, scale) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("loss", "expected"),
    [(F.cross_entropy, 0.0), (weighted, 0.0), (smoothed, 0.1), (by_sweeper, 0.1)],
)
def test_the_smoothing_is_exact_for_few_classes(loss: Loss, expected: float, classes: int) -> None:
    assert measured(loss, classes, 1.0) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", [focal, mixed(0.0), mixed(0.1)])
def test_other_targets_of_few_classes_are_not_measured(loss: Loss, classes: int) -> None:
    assert measured(loss, classes, 1.0) is None


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_targets_without_a_common_mass_are_not_measured(classes: int) -> None:
    assert measured(distilled, classes, 1.0) is None
