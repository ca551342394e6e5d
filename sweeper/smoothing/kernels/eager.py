"""The loss for integer labels in eager mode on the CPU: one autograd node, few memory passes.

With lp the log-probabilities of a row, the loss is -(1 - e)·lp[y] - e/K·Σ lp. It is linear in lp,
so its gradient is the backward of log_softmax for a gradient of -e/K for each class, with -(1 - e)
added for y. Rows are independent: for logits (N, K), the loss and the gradient of a row are
bitwise the same regardless of the other rows.
"""

import math
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import Function, forward_ad

from sweeper.smoothing.checks import check_labels, values_readable

# torch's CPU kernels are ten times slower for rows that do not fill one vector register (16
# float32). Such rows are padded with -inf. With two classes padding does not help.
FULL_ROW = 16
MIN_FILLED = 3
# Logits per block and thread, so that intermediate results stay in the cache.
BLOCK = 2**19
# Up to this many rows, scattering a scalar is faster than scattering a filled tensor.
FEW_ROWS = 512

# Exact types only, because tensor subclasses may override operations.
_TYPES = (Tensor, nn.Parameter)
_FUSED = (torch.float32, torch.float16, torch.bfloat16)
_REDUCTIONS = {"mean": 1, "sum": 2}
_nll_loss = torch.ops.aten.nll_loss_forward.default


class TargetShares(NamedTuple):
    """Weights of log-probabilities in the loss: `own` for the label, `each` added for every class.

    Floats, or tensors that broadcast to (N, 1, d1, …), which are 0 for ignored labels.
    """

    own: Any
    each: Any


class Batch(NamedTuple):
    """A computed loss, and the data for its gradient.

    `log_p` has shape (N, K, d1, …), with K padded or not. `place` (N, 1, d1, …) are the labels, 0
    for ignored ones. `divisor` divides the sum over the batch, None without a reduction.
    """

    loss: Tensor
    log_p: Tensor
    place: Tensor
    shares: TargetShares
    divisor: int | None


def is_plain(logits: Tensor, labels: Tensor, epsilon: float | Tensor) -> bool:
    """Return whether `plain_loss` supports these arguments."""
    if isinstance(epsilon, Tensor) and (epsilon.requires_grad or not epsilon.is_cpu):
        return False
    return (
        values_readable()
        and type(logits) in _TYPES
        and type(labels) in _TYPES
        and logits.is_cpu
        and labels.is_cpu
        and not labels.is_floating_point()
        and forward_ad._current_level < 0
        and labels.numel() > 0
    )


def may_fuse(logits: Tensor, labels: Tensor, epsilon: float | Tensor) -> bool:
    """Return whether the fused GPU kernel supports these arguments."""
    if isinstance(epsilon, Tensor) and epsilon.requires_grad:
        return False
    return (
        logits.is_cuda
        and logits.dim() == 2
        and logits.dtype in _FUSED
        and type(logits) in _TYPES
        and type(labels) in _TYPES
        and labels.device == logits.device
        and not labels.is_floating_point()
        and values_readable()
        and forward_ad._current_level < 0
        and _has_triton()
    )


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def plain_loss(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    to_uniform: float,
    ignore_index: int,
    reduction: str,
) -> Tensor | None:
    """Return the loss, or None if a log-probability is not finite (masked, overflow or NaN).

    The arguments are those of `smoothing_loss`. `epsilon` must be checked and without gradient;
    `to_uniform` is the factor that converts it to the `uniform` convention. Raises ValueError for a
    label that is neither a class nor `ignore_index`.
    """
    log_p = _log_softmax(logits.detach())
    seen = _seen_log_p(log_p, logits.shape[1])
    labels = labels.long()
    shares = _shares(epsilon, to_uniform, seen)
    batch = None
    if reduction != "none" and isinstance(shares.own, float) and logits.dim() == 2:
        batch = _without_row_sums(log_p, seen, labels, shares, ignore_index, reduction)
    if batch is None:
        batch = _with_row_sums(log_p, seen, labels, shares, ignore_index, reduction)
    if batch is None or not (logits.requires_grad and torch.is_grad_enabled()):
        return batch and batch.loss
    loss: Tensor = _Smoothed.apply(logits, batch)  # type: ignore[no-untyped-call]
    return loss


def finite_rows(logits: Tensor) -> Tensor:
    """Return a mask (N,) of the rows (N, K) for which `plain_loss` can compute the loss."""
    log_p = _log_softmax(logits.detach())
    return row_sums(_seen_log_p(log_p, logits.shape[1])).squeeze(1).isfinite()


def _log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities in float32 or float64; short rows are padded."""
    if logits.dtype == torch.float64:
        return logits.log_softmax(1)
    if MIN_FILLED <= logits.shape[1] < FULL_ROW and logits.dim() == 2:
        missing = FULL_ROW - logits.shape[1]
        filled = torch.constant_pad_nd(logits.float(), (0, missing), -math.inf)
        return torch.log_softmax(filled, 1, out=filled)
    if logits.dtype == torch.float32:
        return logits.log_softmax(1)
    log_p = torch.empty(logits.shape)
    if logits.numel() <= BLOCK:
        return torch.log_softmax(log_p.copy_(logits), 1, out=log_p)
    for part in _blocks(logits):
        block = log_p[part].copy_(logits[part])
        torch.log_softmax(block, 1, out=block)
    return log_p


def _blocks(logits: Tensor) -> list[slice]:
    """Return slices of samples that are small enough for the cache."""
    samples = len(logits)
    size = max(1, BLOCK * torch.get_num_threads() * samples // logits.numel())
    return [slice(start, start + size) for start in range(0, samples, size)]


def _seen_log_p(rows: Tensor, classes: int) -> Tensor:
    return rows if rows.shape[1] == classes else rows.narrow(1, 0, classes)


def _shares(epsilon: float | Tensor, to_uniform: float, log_p: Tensor) -> TargetShares:
    if isinstance(epsilon, Tensor):
        shape = epsilon.shape[:1] + (1,) * (log_p.dim() - 1)
        epsilon = epsilon.to(log_p.dtype)
        epsilon = epsilon.reshape(shape) if epsilon.dim() == 1 else epsilon.unsqueeze(1)
    uniform = epsilon * to_uniform
    return TargetShares(1 - uniform, uniform / log_p.shape[1])


def _without_row_sums(
    log_p: Tensor,
    seen: Tensor,
    labels: Tensor,
    shares: TargetShares,
    ignore_index: int,
    reduction: str,
) -> Batch | None:
    """Return the batch without computing row sums, or None if `_with_row_sums` must be used.

    This works if no label is ignored and the loss is finite.
    """
    try:
        loss, counted = _nll_loss(log_p, labels, None, _REDUCTIONS[reduction], ignore_index)
    except IndexError:
        return None
    samples = labels.shape[0]
    divisor = samples if reduction == "mean" else 1
    value = shares.own * loss.item() - shares.each * seen.sum().item() / divisor
    if counted.item() != samples or not math.isfinite(value):
        return None
    return Batch(loss.fill_(value), log_p, labels.unsqueeze(1), shares, divisor)


def _with_row_sums(
    log_p: Tensor,
    seen: Tensor,
    labels: Tensor,
    shares: TargetShares,
    ignore_index: int,
    reduction: str,
) -> Batch | None:
    """Return the batch using row sums, or None if a log-probability is not finite."""
    total = row_sums(seen)
    if not math.isfinite(total.sum().item()) and not total.isfinite().all():
        return None
    counts = _counts(labels, seen.shape[1], ignore_index)
    divisor = (labels.numel() if reduction == "mean" else 1) if reduction != "none" else None
    if counts is not None:
        labels = labels * counts
        factor = counts.unsqueeze(1).to(log_p.dtype)
        shares = TargetShares(factor * shares.own, factor * shares.each)
        if reduction == "mean":
            divisor = max(int(counts.sum().item()), 1)
    place = labels.unsqueeze(1)
    losses = (shares.own * log_p.gather(1, place) + shares.each * total).squeeze(1).neg()
    loss = losses if divisor is None else losses.sum() / divisor
    return Batch(loss, log_p, place, shares, divisor)


def row_sums(rows: Tensor) -> Tensor:
    """Return the sum over the classes, (N, 1, d1, …), independent of the number of rows."""
    # torch splits the sum of a single row between threads, which rounds differently.
    if len(rows) == 1:
        return rows.expand(2, *rows.shape[1:]).sum(1, keepdim=True)[:1]
    return rows.sum(1, keepdim=True)


def _counts(labels: Tensor, classes: int, ignore_index: int) -> Tensor | None:
    """Return a mask of the labels that are not ignored, None if no label is ignored."""
    low, high = labels.aminmax()
    lowest, highest = low.item(), high.item()
    if lowest < 0 or highest >= classes:
        check_labels(labels, classes, ignore_index)
    return labels != ignore_index if lowest <= ignore_index <= highest else None


class _Smoothed(Function):
    """The loss as one autograd node."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, batch: Batch) -> Tensor:
        ctx.save_for_backward(logits, batch.log_p, batch.place)
        ctx.terms = batch.shares, batch.divisor
        return batch.loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, log_p, place = ctx.saved_tensors
        shares, divisor = ctx.terms
        if torch.is_grad_enabled() or not values_readable() or is_legacy_batchedtensor(grad):
            return _traced_gradient(logits, place, shares, divisor, grad), None
        each, label = _slopes(shares, divisor, grad)
        if isinstance(label, Tensor) and label.shape != place.shape:
            each, label = each.expand(place.shape), label.expand(place.shape)
        return _gradient(logits, log_p, place, each, label), None


def _slopes(shares: TargetShares, divisor: int | None, grad: Tensor) -> tuple[Any, Any]:
    """Return the derivatives of the loss by each log-probability and by that of the label.

    They are floats, or tensors with one value per row.
    """
    own, each = shares
    slope: Any
    if divisor is None:
        slope = grad.neg().unsqueeze(1)
    elif isinstance(own, Tensor):
        slope = grad / -divisor
    else:
        slope = grad.item() / -divisor
    return slope * each, slope * (own + each)


def _gradient(logits: Tensor, log_p: Tensor, place: Tensor, each: Any, label: Any) -> Tensor:
    """Return the gradient; large batches are computed in blocks."""
    if log_p.numel() <= BLOCK:
        return _block_gradient(logits, log_p, place, each, label)
    gradient = torch.empty(logits.shape, dtype=logits.dtype)
    for part in _blocks(logits):
        here = [slope[part] if isinstance(slope, Tensor) else slope for slope in (each, label)]
        _block_gradient(logits, log_p[part], place[part], here[0], here[1], gradient[part])
    return gradient


def _block_gradient(
    logits: Tensor, log_p: Tensor, place: Tensor, each: Any, label: Any, out: Tensor | None = None
) -> Tensor:
    """Return the gradient of a block in the type of the logits, stored in `out` if given."""
    slopes = torch.empty_like(log_p)
    seen = _seen_log_p(slopes, logits.shape[1])
    if seen is not slopes:
        slopes.zero_()
    if isinstance(each, Tensor):
        seen.copy_(each)
    else:
        seen.fill_(each)
    if isinstance(label, float) and place.shape[0] > FEW_ROWS:
        label = torch.full(place.shape, label, dtype=slopes.dtype)
    slopes.scatter_(1, place, label)
    if seen is slopes and slopes.dtype == logits.dtype:
        return torch._log_softmax_backward_data(slopes, log_p, 1, slopes.dtype, out=out)
    # In place is safe, because the kernel sums a row before it writes to it.
    torch._log_softmax_backward_data(slopes, log_p, 1, slopes.dtype, out=slopes)
    return seen.contiguous().to(logits.dtype) if out is None else out.copy_(seen)


def _traced_gradient(
    logits: Tensor, place: Tensor, shares: TargetShares, divisor: int | None, grad: Tensor
) -> Tensor:
    """Return the same gradient using differentiable operations, for second derivatives."""
    p = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    own, each = (torch.as_tensor(s, dtype=p.dtype).expand(place.shape) for s in shares)
    targets = each.expand(p.shape).scatter_add(1, place, own)
    slope = grad.unsqueeze(1) if divisor is None else grad / divisor
    return ((p * targets.sum(1, keepdim=True) - targets) * slope).to(logits.dtype)
