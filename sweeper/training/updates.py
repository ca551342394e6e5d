"""The steps of torch's optimisers: for the parameters of one model, or for many runs at once.

By torch's own kernels, not by its classes: the first step of one of those imports torch's
compiler, which takes a second.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from sweeper.training.layout import Layout, Named
from sweeper.training.task import Optimiser

# What is remembered of each parameter, by its number, as torch's optimisers write it.
History = Mapping[int, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Moments:
    """What an optimiser remembers of a parameter, or of a row of them, and how many steps."""

    rows: Named
    steps: Tensor

    def state(self) -> Named:
        """Return the numbers under torch's names; not copied."""
        return {**({"step": self.steps} if "exp_avg" in self.rows else {}), **self.rows}

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Take numbers that `state` gave."""
        for key, row in self.rows.items():
            row.copy_(state[key])
        self.steps.copy_(state.get("step", torch.ones_like(self.steps)))


def moments_of(settings: Optimiser, weights: Tensor) -> Moments:
    """Return what is remembered of weights before their first step."""
    rows = {key: torch.zeros_like(weights) for key in _remembered(settings)}
    return Moments(rows, torch.zeros((), device=weights.device))


def _remembered(settings: Optimiser) -> tuple[str, ...]:
    if settings.name == "sgd":
        return ("momentum_buffer",) if settings.momentum else ()
    return ("exp_avg", "exp_avg_sq")


class Updates:
    """The steps of one model's parameters, by their gradients."""

    def __init__(self, settings: Optimiser, parameters: Iterable[nn.Parameter]) -> None:
        self._settings = settings
        self._parameters = list(parameters)
        # Of those that have made a step: what is frozen costs no memory.
        self._moments = dict[int, Moments]()

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self, progress: float) -> None:
        """Make a step, at a progress in [0, 1], for each parameter that has a gradient."""
        numbers = [n for n, of in enumerate(self._parameters) if of.grad is not None]
        update(
            replace(self._settings, lr=self._settings.lr_at(progress)),
            [self._parameters[number] for number in numbers],
            [of.grad for of in self._parameters if of.grad is not None],
            [self._moments_at(number) for number in numbers],
        )

    def history(self) -> History:
        """Return what is remembered; not copied."""
        return {number: of.state() for number, of in self._moments.items() if of.rows}

    def restore(self, history: History) -> None:
        """Take back what `history` gave."""
        for number, state in history.items():
            self._moments_at(number).take(state)

    def _moments_at(self, number: int) -> Moments:
        if number not in self._moments:
            weights = self._parameters[number].detach()
            self._moments[number] = moments_of(self._settings, weights)
        return self._moments[number]


def packed_history(moments: Moments, layout: Layout, names: Sequence[str]) -> History:
    """Return what is remembered of the parameters in a row, each by its number among `names`."""
    if not (moments.steps and moments.rows):
        return {}
    parts = {key: layout.parts(row) for key, row in moments.rows.items()}
    return {
        names.index(name): Moments(
            {key: of[name] for key, of in parts.items()}, moments.steps
        ).state()
        for name in layout.names
    }


def restored(moments: Moments, history: History, layout: Layout, names: Sequence[str]) -> Moments:
    """Take what `packed_history` gave into a row."""
    parts = {key: layout.parts(row) for key, row in moments.rows.items()}
    for name in layout.names:
        state = history.get(names.index(name))
        if state is not None:
            Moments({key: of[name] for key, of in parts.items()}, moments.steps).take(state)
    return moments


@torch.no_grad()
def update(
    settings: Optimiser, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    """Make one step for each of some weights, by equal settings; each is computed by itself."""
    step = _sgd if settings.name == "sgd" else _adam
    step(settings, weights, gradients, moments)


def _adam(
    one: Optimiser, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    adam(
        weights,
        gradients,
        [of.rows["exp_avg"] for of in moments],
        [of.rows["exp_avg_sq"] for of in moments],
        [],
        [of.steps for of in moments],
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=one.lr,
        weight_decay=one.weight_decay,
        eps=1e-8,
        maximize=False,
        decoupled_weight_decay=one.name == "adamw",
    )


def _sgd(
    one: Optimiser, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    # Buffers of zeros make the first step the one that torch makes without buffers.
    buffers: list[Tensor | None] = [of.rows.get("momentum_buffer") for of in moments]
    sgd(
        weights,
        gradients,
        buffers,
        fused=True,
        weight_decay=one.weight_decay,
        momentum=one.momentum,
        lr=one.lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    for of in moments:
        of.steps.add_(1)


def l1_mask(layout: Layout, like: Tensor) -> Tensor:
    """Return 1 where a row holds a weight, of two dimensions or more, and 0 elsewhere."""
    mask = torch.zeros_like(like)
    for part in layout.parts(mask).values():
        part.fill_(float(part.ndim > 1))
    return mask
