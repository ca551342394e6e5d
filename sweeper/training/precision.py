"""The precision of the built-in loop: float32, or bfloat16 in forward passes (`bf16`).

With `bf16`, forward pass and loss run under `torch.autocast`. Weights, optimizer state and
checkpoints stay float32, and logits are converted to float32 before the loss and the scores.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor

FLOAT32: Final = "float32"
BF16: Final = "bf16"
PRECISIONS: Final = (FLOAT32, BF16)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a forward pass and its loss."""
    if precision == FLOAT32:
        return nullcontext()
    # Without the cache, which would keep casts of stacked weights beyond the step.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def wide(precision: str, logits: Tensor) -> Tensor:
    """Return the logits of a forward pass under `autocast` as float32."""
    lowered = precision != FLOAT32 and logits.dtype == torch.bfloat16
    return logits.float() if lowered else logits
