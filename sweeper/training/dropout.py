"""Dropout with random numbers that depend only on the seed of the step.

torch's dropout draws a mask that depends on the dropout rate. Here each step draws one uniform
number in [0, 1) per unit and keeps the units whose number is at or above the rate. So trials with
different rates use common random numbers, whether they are trained alone or in a pack.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class DropoutDraws:
    """The random numbers of the dropout layers of one model or of stacked models."""

    def __init__(self) -> None:
        self._seeds: Sequence[int] = ()
        self._calls = Counter[int]()

    def begin(self, seeds: Sequence[int]) -> None:
        """Begin a step with one seed per model."""
        self._seeds = seeds
        self._calls.clear()

    def one(self, layer: int, like: Tensor) -> Tensor:
        """Return a layer's random numbers for a model that is trained alone; shaped like `like`."""
        return _uniform((self._seeds[0], layer, self._call(layer)), like)

    def stacked(self, layer: int, like: Tensor) -> Tensor:
        """Return a layer's random numbers (T, N, ...) for stacked models with input `like`."""
        call = self._call(layer)
        drawn = {seed: _uniform((seed, layer, call), like[0]) for seed in set(self._seeds)}
        if len(drawn) == 1:
            return drawn[self._seeds[0]].expand(like.shape)
        return torch.stack([drawn[seed] for seed in self._seeds])

    def _call(self, layer: int) -> int:
        # A model may use one layer in several places.
        self._calls[layer] += 1
        return self._calls[layer]


def _uniform(parts: tuple[int, int, int], like: Tensor) -> Tensor:
    # One generator per layer, so that a layer's numbers do not depend on the other layers.
    seed, layer, call = parts
    generator = torch.Generator(like.device)
    generator.manual_seed((seed + (layer << 20) + call) % 2**63)
    return torch.rand(like.shape, generator=generator, device=like.device)


class SharedDropout(nn.Module):
    """Dropout with its rate `p` as a buffer, so that models with different rates can be stacked."""

    p: Tensor

    def __init__(self, p: float, layer: int, draws: DropoutDraws) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(p), persistent=False)
        self.layer, self.draws, self.acts = layer, draws, p > 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply dropout in training mode; return the inputs unchanged in evaluation mode."""
        if not (self.training and self.acts):
            return inputs
        drawn: Tensor = _Draw.apply(inputs.detach(), self)  # type: ignore[no-untyped-call]
        return _apply_mask(inputs, drawn, self.p)

    def stacked(self, inputs: Tensor, rates: Tensor) -> Tensor:
        """Apply dropout to the inputs (T, N, ...) of stacked models with their `rates`."""
        if not (self.training and self.acts):
            return inputs
        return _apply_mask(inputs, self.draws.stacked(self.layer, inputs), rates)

    def extra_repr(self) -> str:
        """Return the rate for `print(model)`."""
        return f"p={self.p.tolist()}"


def _apply_mask(inputs: Tensor, drawn: Tensor, rates: Tensor) -> Tensor:
    mask = (drawn >= rates).to(inputs.dtype)
    return inputs * (mask / (1 - rates).to(inputs.dtype).clamp(min=1e-6))


class _Draw(torch.autograd.Function):
    """Draws a layer's random numbers. Its `vmap` rule draws for all stacked models at once."""

    @staticmethod
    def forward(like: Tensor, layer: SharedDropout) -> Tensor:
        return layer.draws.one(layer.layer, like)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, like: Tensor, layer: SharedDropout) -> tuple[Tensor, int]:
        return layer.draws.stacked(layer.layer, like.movedim(in_dims[0], 0)), 0


def share_draws(model: nn.Module) -> DropoutDraws:
    """Replace each `nn.Dropout` of a model by a `SharedDropout`; return their random numbers."""
    draws, shared = DropoutDraws(), dict[nn.Module, SharedDropout]()
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if type(child) is not nn.Dropout:  # a subclass may override forward
                continue
            if child not in shared:
                shared[child] = SharedDropout(child.p, len(shared), draws).train(child.training)
            setattr(module, name, shared[child])
    return draws
