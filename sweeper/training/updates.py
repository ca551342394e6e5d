"""One step of torch's optimisers for many runs: each with its own settings and its own history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from sweeper.training.stacking import Layout, Named
from sweeper.training.task import Optimiser


@dataclass(frozen=True)
class Moments:
    """What an optimiser remembers of one run: rows as long as its weights, and a count.

    `groups` are the settings that torch's own optimiser would write into its state.
    """

    rows: Named
    steps: Tensor
    groups: Sequence[Mapping[str, Any]]

    def state_dict(self, layout: Layout, names: Sequence[str]) -> dict[str, Any]:
        """Return the state of torch's optimiser of the parameters of these names; not copied."""
        parts = {key: layout.parts(row) for key, row in self.rows.items()}
        state = {
            names.index(name): {
                **({"step": self.steps} if "exp_avg" in parts else {}),
                **{key: of[name] for key, of in parts.items()},
            }
            for name in layout.names
        }
        begun = bool(self.steps) and bool(parts)
        return {"state": state if begun else {}, "param_groups": [dict(g) for g in self.groups]}


def moments_of(
    optimiser: torch.optim.Optimizer,
    settings: Optimiser,
    weights: Tensor,
    layout: Layout,
    names: Sequence[str],
) -> Moments:
    """Return the rows that hold the state of one of torch's optimisers, which may be fresh."""
    given = optimiser.state_dict()
    rows = {key: torch.zeros_like(weights) for key in _remembered(settings)}
    steps = torch.zeros((), device=weights.device)
    for name in layout.names:
        state = given["state"].get(names.index(name), {})
        for key, row in rows.items():
            if state.get(key) is not None:
                layout.parts(row)[name].copy_(state[key])
        steps = torch.as_tensor(state.get("step", steps)).clone()
    if rows and given["state"] and "exp_avg" not in rows:
        steps = torch.ones_like(steps)
    return Moments(rows, steps, given["param_groups"])


def _remembered(settings: Optimiser) -> tuple[str, ...]:
    if settings.name == "sgd":
        return ("momentum_buffer",) if settings.momentum else ()
    return ("exp_avg", "exp_avg_sq")


@torch.no_grad()
def update(
    settings: Optimiser, weights: list[Tensor], gradients: list[Tensor], moments: list[Moments]
) -> None:
    """Make one step for each of runs with equal settings; every row is computed by itself."""
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
