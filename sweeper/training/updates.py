"""Optimizer steps for the parameters of one model or of many runs at once.

This uses the functional kernels of torch's optimizers. The optimizer classes import torch's
compiler at their first step, which takes a second.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from sweeper.training.layout import Layout, Named
from sweeper.training.task import Optimizer

# The optimizer state of each parameter by its number, as in torch's `Optimizer.state_dict()`.
History = Mapping[int, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Moments:
    """The optimizer state of a parameter or of a row of parameters: moments and step count."""

    rows: Named
    steps: Tensor

    def state(self) -> Named:
        """Return the tensors under torch's names; not copied."""
        has_step = not self.rows.keys() <= {"momentum_buffer"}
        return {**({"step": self.steps} if has_step else {}), **self.rows}

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Load tensors that `state` returned."""
        for key, row in self.rows.items():
            row.copy_(state[key])
        self.steps.copy_(state.get("step", torch.ones_like(self.steps)))


def moments_of(settings: Optimizer, weights: Tensor) -> Moments:
    """Return the optimizer state of `weights` before the first step."""
    rows = {key: torch.zeros_like(weights) for key in _moment_names(settings)}
    return Moments(rows, torch.zeros((), device=weights.device))


def _moment_names(settings: Optimizer) -> tuple[str, ...]:
    momentum = ("momentum_buffer",) if settings.momentum else ()
    match settings.name:
        case "sgd":
            return momentum
        case "rmsprop":
            return ("square_avg", *momentum)
        case _:
            return ("exp_avg", "exp_avg_sq")


class ModelOptimizer:
    def __init__(self, settings: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
        self._settings = settings
        self._parameters = list(parameters)
        # Created at the first step of a parameter, so that frozen parameters use no memory.
        self._moments = dict[int, Moments]()

    def clear(self) -> None:
        """Set all gradients to None."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self, progress: float) -> None:
        """Update the parameters that have a gradient; `progress` sets the learning rate."""
        numbers = [n for n, p in enumerate(self._parameters) if p.grad is not None]
        update_weights(
            replace(self._settings, lr=self._settings.lr_at(progress)),
            [self._parameters[number] for number in numbers],
            [p.grad for p in self._parameters if p.grad is not None],
            [self._moments_at(number) for number in numbers],
        )

    def history(self) -> History:
        """Return the optimizer state; not copied."""
        return {number: m.state() for number, m in self._moments.items() if m.rows}

    def restore(self, history: History) -> None:
        """Load an optimizer state that `history` returned."""
        for number, state in history.items():
            self._moments_at(number).take(state)

    def _moments_at(self, number: int) -> Moments:
        if number not in self._moments:
            weights = self._parameters[number].detach()
            self._moments[number] = moments_of(self._settings, weights)
        return self._moments[number]


def packed_history(moments: Moments, layout: Layout, names: Sequence[str]) -> History:
    """Return the optimizer state of the parameters in a row, by their numbers in `names`."""
    if not (moments.steps and moments.rows):
        return {}
    parts = {key: layout.parts(row) for key, row in moments.rows.items()}
    return {
        names.index(name): Moments(
            {key: part[name] for key, part in parts.items()}, moments.steps
        ).state()
        for name in layout.names
    }


def restore_history(
    moments: Moments, history: History, layout: Layout, names: Sequence[str]
) -> Moments:
    """Load the result of `packed_history` into a row."""
    parts = {key: layout.parts(row) for key, row in moments.rows.items()}
    for name in layout.names:
        state = history.get(names.index(name))
        if state is not None:
            Moments({key: part[name] for key, part in parts.items()}, moments.steps).take(state)
    return moments


@torch.no_grad()
def update_weights(
    settings: Optimizer, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    """Make one step for each tensor in `weights`, with the same settings but independently."""
    step = {"sgd": _sgd, "rmsprop": _rmsprop}.get(settings.name, _adam)
    step(settings, weights, gradients, moments)


def _adam(
    settings: Optimizer, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    adam(
        weights,
        gradients,
        [m.rows["exp_avg"] for m in moments],
        [m.rows["exp_avg_sq"] for m in moments],
        [],
        [m.steps for m in moments],
        fused=True,
        amsgrad=False,
        beta1=settings.beta1,
        beta2=settings.beta2,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        eps=1e-8,
        maximize=False,
        decoupled_weight_decay=settings.name == "adamw",
    )


def _sgd(
    settings: Optimizer, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    # With zero-initialized buffers the first step equals torch's first step without buffers.
    buffers: list[Tensor | None] = [m.rows.get("momentum_buffer") for m in moments]
    sgd(
        weights,
        gradients,
        buffers,
        fused=True,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        lr=settings.lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    for m in moments:
        m.steps.add_(1)


def _rmsprop(
    settings: Optimizer, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    buffers = [m.rows["momentum_buffer"] for m in moments if "momentum_buffer" in m.rows]
    rmsprop(
        weights,
        gradients,
        [m.rows["square_avg"] for m in moments],
        [],
        buffers,
        [m.steps for m in moments],
        foreach=False,
        lr=settings.lr,
        alpha=0.99,
        eps=1e-8,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        centered=False,
    )


def l1_mask(layout: Layout, like: Tensor) -> Tensor:
    """Return a mask that is 1 for parameters with two or more dimensions and 0 elsewhere."""
    mask = torch.zeros_like(like)
    for part in layout.parts(mask).values():
        part.fill_(float(part.ndim > 1))
    return mask
