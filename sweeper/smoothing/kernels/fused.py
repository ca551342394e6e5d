"""The loss for integer labels on a GPU: a forward and a backward kernel, one program per row.

The forward kernel reads each logit once; the backward kernel reads it once and writes its gradient.
This is 12 bytes per logit in float32 and 6 in half precision, and no tensor of the size of the
logits is stored in between. Rows are independent. Requires Triton, which is part of torch's CUDA
builds.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

# Logits per program and iteration.
BLOCK = 4096

# Returns the same loss using operations that have second derivatives.
General = Callable[[Tensor], Tensor]


def fused_loss(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    others: bool,
    ignore_index: int,
    reduction: str,
    general: General,
) -> Tensor:
    """Return the loss of logits (N, K) on a GPU for labels (N,).

    `epsilon` is a float or a tensor, 0-dim or (N,), without a gradient. `others` is true for the
    convention `others`, false for `uniform`. Tensor values are not checked, so labels out of range
    raise no error.
    """
    if not isinstance(epsilon, Tensor):
        epsilon = torch.full((), epsilon, device=logits.device)
    epsilon = epsilon.to(logits.device, torch.float32).expand(len(logits))
    terms = logits.contiguous(), labels.contiguous(), epsilon.contiguous()
    loss: Tensor = _Fused.apply(*terms, others, ignore_index, reduction, general)  # type: ignore[no-untyped-call]
    return loss


class _Fused(Function):
    """The loss as one autograd node."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        epsilon: Tensor,
        others: bool,
        ignore_index: int,
        reduction: str,
        general: General,
    ) -> Tensor:
        rows, classes = logits.shape
        losses, lse, own, each = logits.new_empty((4, rows), dtype=torch.float32)
        block = min(triton.next_power_of_2(classes), BLOCK)
        if rows:
            _forward[(rows,)](
                *(logits, labels, epsilon, losses, lse, own, each),
                *(classes, ignore_index, others, block),
                num_warps=_warps(block),
            )
        divisor = None
        if reduction == "mean":
            divisor = (labels != ignore_index).sum().clamp(min=1)
        ctx.save_for_backward(logits, labels, lse, own, each)
        ctx.terms = divisor, ignore_index, block, general
        ctx.summed = reduction != "none"
        loss: Tensor = losses.sum() if ctx.summed else losses
        return loss if divisor is None else loss / divisor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, lse, own, each = ctx.saved_tensors
        divisor, ignore_index, block, general = ctx.terms
        nothing = (None,) * 6
        if torch.is_grad_enabled():
            with torch.enable_grad():
                return *torch.autograd.grad(
                    general(logits), logits, grad, create_graph=True
                ), *nothing
        gradient = torch.empty_like(logits)
        slope = grad if divisor is None else grad / divisor
        if len(logits):
            _backward[(len(logits),)](
                *(logits, labels, lse, own, each, slope.contiguous(), gradient),
                *(logits.shape[1], ignore_index, ctx.summed, block),
                num_warps=_warps(block),
            )
        return gradient, *nothing


def _warps(block: int) -> int:
    return 8 if block >= 2048 else 4 if block >= 256 else 1


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    logits, labels, epsilon, losses, lse_out, own_out, each_out,
    classes, ignore_index, others: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    counts = label != ignore_index
    begin = logits + row * classes
    highest = float("-inf")
    scale = 0.0
    total = 0.0
    allowed = 0.0
    for start in range(0, classes, block):
        column = start + tl.arange(0, block)
        x = tl.load(begin + column, mask=column < classes, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(x, 0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        scale = scale * tl.exp(highest - base) + tl.sum(tl.exp(x - base), 0)
        highest = higher
        free = x != float("-inf")  # NaN is not masked, so that it makes the loss NaN
        total += tl.sum(tl.where(free, x, 0.0), 0)
        allowed += tl.sum(free.to(tl.float32), 0)
    lse = highest + tl.log(scale)
    label_logit = tl.load(begin + tl.where(counts, label, 0)).to(tl.float32)
    uniform = tl.load(epsilon + row)
    if others:
        uniform = tl.where(allowed > 1, uniform * (allowed / (allowed - 1)), 0.0)
    each = uniform / allowed
    own = 1 - uniform
    loss = own * (lse - label_logit) + each * (allowed * lse - total)
    tl.store(losses + row, tl.where(counts, loss, 0.0))
    tl.store(lse_out + row, lse)
    tl.store(own_out + row, own)
    tl.store(each_out + row, each)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    logits, labels, lse_in, own_in, each_in, slopes, gradient,
    classes, ignore_index, summed: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    counts = label != ignore_index
    lse = tl.load(lse_in + row)
    own = tl.load(own_in + row)
    each = tl.load(each_in + row)
    slope = tl.load(slopes) if summed else tl.load(slopes + row)
    slope = slope.to(tl.float32)
    begin = row * classes
    for start in range(0, classes, block):
        column = start + tl.arange(0, block)
        inside = column < classes
        x = tl.load(logits + begin + column, mask=inside, other=float("-inf")).to(tl.float32)
        target = tl.where(x != float("-inf"), each, 0.0) + tl.where(column == label, own, 0.0)
        derivative = slope * (tl.exp(x - lse) - target)
        tl.store(gradient + begin + column, tl.where(counts, derivative, 0.0), mask=inside)
