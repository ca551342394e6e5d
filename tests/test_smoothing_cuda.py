"""The loss on a GPU, beside the same on the CPU in float64; skipped where there is none."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sweeper.smoothing import CONVENTIONS, smoothing_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def batch(rows: int, classes: int, dtype: torch.dtype, masked: bool) -> tuple[Tensor, ...]:
    torch.manual_seed(rows + classes)
    logits = (3 * torch.randn(rows, classes)).to(dtype)
    labels = torch.randint(classes, (rows,))
    labels[1] = -100
    if masked:
        logits[2:4, : classes // 2] = -math.inf
        labels[2:4] = classes - 1
    return logits, labels, torch.linspace(0, 1, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 10, 1000, 9000])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("masked", [False, True])
def test_is_the_cpu_loss(
    dtype: torch.dtype, classes: int, convention: str, reduction: str, masked: bool
) -> None:
    logits, labels, epsilon = batch(24, classes, dtype, masked)
    wide = logits.double().requires_grad_()
    cpu = smoothing_loss(wide, labels, epsilon.double(), convention=convention, reduction=reduction)
    leaf = logits.cuda().requires_grad_()
    gpu = smoothing_loss(
        leaf, labels.cuda(), epsilon.cuda(), convention=convention, reduction=reduction
    )
    assert "Fused" in type(gpu.grad_fn).__name__
    assert_close(gpu.cpu().double(), cpu, rtol=1e-4, atol=1e-5)
    slope = torch.linspace(1, 2, cpu.numel(), dtype=torch.float64).reshape(cpu.shape)
    (wanted,) = torch.autograd.grad(cpu, wide, slope)
    (found,) = torch.autograd.grad(gpu, leaf, slope.cuda().to(gpu))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert_close(found.cpu().double(), wanted, rtol=tolerance, atol=1e-5)


def test_rows_do_not_mix() -> None:
    logits, labels, epsilon = (of.cuda() for of in batch(64, 1000, torch.float32, True))
    losses = smoothing_loss(logits, labels, epsilon, reduction="none")
    some = torch.randperm(64, device="cuda")[:7]
    alone = smoothing_loss(logits[some], labels[some], epsilon[some], reduction="none")
    assert torch.equal(alone, losses[some])


def test_second_derivatives() -> None:
    logits, labels, _ = batch(4, 5, torch.float32, False)

    def second(device: str) -> Tensor:
        leaf = logits.to(device).double().float().requires_grad_()
        loss = smoothing_loss(leaf, labels.to(device), 0.2)
        (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0].cpu()

    assert_close(second("cuda"), second("cpu"))
