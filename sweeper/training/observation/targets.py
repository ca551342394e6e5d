"""Estimate how much a loss smooths the labels, from its gradient at the logits.

For a cross-entropy with the target q, the gradient at the logits of one row is g = s·(p - q), where
p are the probabilities and s > 0 is unknown: it depends on the batch size, class weights, gradient
accumulation and the scale of mixed precision. Smoothing gives every class the same mass f, so for
all classes but the labels the points (p, g) are on a line that crosses g = 0 at p = f. Without
smoothing f is 0, also for mixup, whose target has mass on two labels only, and for every loss that
is a function of the probability of the label, such as focal loss. A target without such a common
mass, as in distillation, gives no line and no estimate.
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

# Rows and classes of a batch that are used: the lines are exact, so more would add nothing.
_ROWS: Final = 32
_CLASSES: Final = 16
# Share of the points that must be on one line if it is fitted to the rows of one label. With mixup
# of two classes, about half of the rows are on another line.
_ON_LINE: Final = 0.8
# Rounding errors, relative to the largest gradient: float32 has 24 bits and loses some in the sum.
_ROUNDING: Final = 1e-5
_HALF_ROUNDING: Final = 1e-2
_GROWTH: Final = 5.0
# Nearby points are also on the tangent of a curve, as that of focal loss.
_SPREAD: Final = 0.05
# An estimate is used if its rounding error is below this value of label_smoothing.
_RESOLUTION: Final = 0.01


def label_smoothing_of(p: Tensor, g: Tensor) -> float | None:
    """Return the label smoothing of a batch in torch's convention, K·f; None if not measurable.

    `p` are probabilities (n, K) and `g` the gradients at the logits (n, K).
    """
    rounding = _HALF_ROUNDING if g.dtype in (torch.float16, torch.bfloat16) else _ROUNDING
    p, g = p.detach().double().cpu(), g.detach().double().cpu()
    used = g.isfinite().all(1) & (g.abs().amax(1) > 0)
    p, g = p[used], g[used]
    if not len(p):
        return None
    classes = p.shape[1]
    estimates = [
        estimate * classes
        for points in (_rows(p, g) if classes > 3 else _labels(p, g))
        if (estimate := _crossing(*points, rounding, _RESOLUTION / classes)) is not None
    ]
    if not estimates:
        return None
    found = torch.tensor(estimates, dtype=torch.float64)
    middle = float(found.median())
    near = (found - middle).abs() < _RESOLUTION + 0.05 * abs(middle)
    return middle if near.double().mean() >= _ON_LINE else None


def _rows(p: Tensor, g: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the points of each row without its label, and how many must be on the line.

    One more may be off the line, the second label of mixup.
    """
    for row_p, row_g in zip(p[:_ROWS], g[:_ROWS], strict=True):
        others = row_p.argsort()
        others = others[others != row_g.argmin()]
        step = max(1, len(others) // _CLASSES)
        chosen = torch.cat([others[:-1:step], others[-1:]])  # with both ends
        yield row_p[chosen], row_g[chosen], max(3, len(chosen) - 1)


def _labels(p: Tensor, g: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the points of all rows with the same label: with few classes a row has too few."""
    labels = g.argmin(1)
    for label in range(p.shape[1]):
        rows = (labels == label).nonzero().squeeze(1)[:_ROWS]
        others = [number for number in range(p.shape[1]) if number != label]
        points_p, points_g = p[rows][:, others].flatten(), g[rows][:, others].flatten()
        if not len(rows) or points_p.max() - points_p.min() < _SPREAD:
            continue
        yield points_p, points_g, max(4, round(_ON_LINE * len(points_p)))


def _crossing(x: Tensor, y: Tensor, needed: int, rounding: float, precision: float) -> float | None:
    """Return where the line through most points crosses y = 0; None without a precise line.

    `needed` points must be on the line, and the standard error must be below `precision`.
    """
    if len(x) < needed:
        return None
    first, second = torch.combinations(torch.arange(len(x))).T
    run = x[second] - x[first]
    usable = run.abs() > 0
    first, run = first[usable], run[usable]
    slopes = (y[second[usable]] - y[first]) / run
    residuals = (y - y[first][:, None] - slopes[:, None] * (x - x[first][:, None])).abs()
    # The rounding error of a line grows with the distance from the two points that define it. With
    # a higher limit, two near points would accept a curve as a line.
    growth = (1 + (x - x[first][:, None]).abs() / run.abs()[:, None]).clamp(max=_GROWTH)
    on_line = residuals <= rounding * y.abs().max() * growth
    if not len(on_line):
        return None
    best = on_line[on_line.sum(1).argmax()]
    if int(best.sum()) < needed:
        return None
    return _fitted_crossing(x[best], y[best], rounding, precision)


def _fitted_crossing(x: Tensor, y: Tensor, rounding: float, precision: float) -> float | None:
    center = x.mean()
    spread = ((x - center) ** 2).sum()
    slope = ((x - center) * (y - y.mean())).sum() / spread
    if not (spread > 0 and slope > 0):
        return None
    crossing = center - y.mean() / slope
    noise = (y - y.mean() - slope * (x - center)).abs().max() + rounding * y.abs().max() / 10
    error = noise / slope * (1 / len(x) + (crossing - center) ** 2 / spread).sqrt()
    return float(crossing) if error < precision else None
