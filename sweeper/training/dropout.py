"""Dropout whose draw follows from the step's seed alone: one for all trials of a study.

torch's own draws a mask for its rate. Here a step draws one number in [0, 1) a unit and keeps
the units whose number is at or above the rate, so trials of different rates share their luck,
whether each is trained alone or many are trained in one step.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Draws:
    """What the dropout layers of a model, or of several in one step, draw from."""

    def __init__(self) -> None:
        self._seeds: Sequence[int] = ()
        self._calls = Counter[int]()

    def begin(self, seeds: Sequence[int]) -> None:
        """Begin a step: with one seed, or with one for each of the stacked models."""
        self._seeds = seeds
        self._calls.clear()

    def one(self, layer: int, like: Tensor) -> Tensor:
        """Return a layer's draw for a model that is trained alone."""
        return _uniform((self._seeds[0], layer, self._call(layer)), like)

    def stacked(self, layer: int, like: Tensor) -> Tensor:
        """Return a layer's draws (T, N, ...) for stacked models; `like` is their input."""
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
    # A generator a layer: what one of them draws does not depend on whether another does.
    seed, layer, call = parts
    generator = torch.Generator(like.device)
    generator.manual_seed((seed + (layer << 20) + call) % 2**63)
    return torch.rand(like.shape, generator=generator, device=like.device)


class SharedDropout(nn.Module):
    """Dropout with its rate `p` as a buffer, so that models of different rates are stacked."""

    p: Tensor

    def __init__(self, p: float, layer: int, draws: Draws) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor(p), persistent=False)
        self.layer, self.draws, self.acts = layer, draws, p > 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs; in training, a share p of them as 0 and the rest scaled up."""
        if not (self.training and self.acts):
            return inputs
        drawn: Tensor = _Draw.apply(inputs.detach(), self)  # type: ignore[no-untyped-call]
        return _thinned(inputs, drawn, self.p)

    def stacked(self, inputs: Tensor, rates: Tensor) -> Tensor:
        """Return the same for stacked models, of the inputs (T, N, ...) and their rates."""
        if not (self.training and self.acts):
            return inputs
        return _thinned(inputs, self.draws.stacked(self.layer, inputs), rates)

    def extra_repr(self) -> str:
        """Return the rate, for `print(model)`."""
        return f"p={self.p.tolist()}"


def _thinned(inputs: Tensor, drawn: Tensor, rates: Tensor) -> Tensor:
    kept = (drawn >= rates).to(inputs.dtype)
    return inputs * (kept / (1 - rates).to(inputs.dtype).clamp(min=1e-6))


class _Draw(torch.autograd.Function):
    """A layer's draw; `vmap` is how a function sees all of the stacked models at once."""

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


def share_draws(model: nn.Module) -> Draws:
    """Put a `SharedDropout` in the place of each `nn.Dropout` of a model; return their draws."""
    draws, shared = Draws(), dict[nn.Module, SharedDropout]()
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if type(child) is not nn.Dropout:  # a subclass has a forward of its own
                continue
            if child not in shared:
                shared[child] = SharedDropout(child.p, len(shared), draws).train(child.training)
            setattr(module, name, shared[child])
    return draws
