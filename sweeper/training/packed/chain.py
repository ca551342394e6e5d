"""Models that are a chain of layers, stacked by hand: a small step takes a quarter less.

`vmap` finds out for every operation what it is for stacked models; for a chain that is known.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from sweeper.training.dropout import SharedDropout

# All parameters and buffers of the models by name, stacked.
Tensors = Mapping[str, Tensor]
# From the output (T, N, ...) of the layer before to the layer's own.
Link = Callable[[Tensor, Tensors], Tensor]

# What these make of a number depends on no other, and on no parameter.
_ELEMENTWISE: Final = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
)
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def chain_of(model: nn.Module) -> tuple[Link, ...] | None:
    """Return a model's layers one after the other, None where it is more than a chain.

    Known are `Sequential`, `Linear`, `LayerNorm` of the last axis, `Flatten` of all but the
    first, dropout, and activations.
    """
    # By identity: of tensors that layers share there is one, under its first name.
    names = {id(of): name for name, of in model.named_parameters()}
    names |= {id(of): name for name, of in model.named_buffers()}
    try:
        return tuple(_links(model, names))
    except _NotKnown:
        return None


class _NotKnown(Exception):
    """A module is none of those that are known here."""


def _links(module: nn.Module, names: Mapping[int, str]) -> Iterator[Link]:
    if "forward" in vars(module) or any(getattr(module, hooks) for hooks in _HOOKS):
        raise _NotKnown
    if type(module) is nn.Sequential:
        for child in module:  # one that is there twice comes twice
            yield from _links(child, names)
    else:
        yield _link(module, names)


def _link(module: nn.Module, names: Mapping[int, str]) -> Link:
    def of(key: str) -> str | None:
        tensor = getattr(module, key)
        return None if tensor is None else names[id(tensor)]

    if type(module) is nn.Linear:
        return partial(_linear, names[id(module.weight)], of("bias"))
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return partial(_layer_norm, module, of("weight"), of("bias"))
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return lambda inputs, _: inputs.flatten(2)
    if type(module) is SharedDropout:
        return partial(_dropped, module, names[id(module.p)])
    if type(module) in _ELEMENTWISE:
        return partial(_activated, _not_in_place(module))
    raise _NotKnown


def _not_in_place(module: Any) -> nn.Module:
    """Return an activation that leaves its input: the first layer's are the task's own rows."""
    other = copy(module)
    if getattr(module, "inplace", False):
        other.inplace = False
    return other  # type: ignore[no-any-return]


def _linear(weight: str, bias: str | None, inputs: Tensor, tensors: Tensors) -> Tensor:
    rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    transposed = tensors[weight].transpose(1, 2)
    if bias is None:
        out = torch.bmm(rows, transposed)
    else:
        out = torch.baddbmm(tensors[bias].unsqueeze(1), rows, transposed)
    return out.view(*inputs.shape[:-1], -1)


def _layer_norm(
    module: nn.LayerNorm, weight: str | None, bias: str | None, inputs: Tensor, tensors: Tensors
) -> Tensor:
    out = functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    if weight is not None:
        out = out * _beside(tensors[weight], inputs)
    return out if bias is None else out + _beside(tensors[bias], inputs)


def _dropped(module: SharedDropout, rate: str, inputs: Tensor, tensors: Tensors) -> Tensor:
    return module.stacked(inputs, _beside(tensors[rate].unsqueeze(1), inputs))


def _activated(module: nn.Module, inputs: Tensor, _: Tensors) -> Tensor:
    out: Tensor = module(inputs)
    return out


def _beside(rows: Tensor, inputs: Tensor) -> Tensor:
    """Return the (T, width) of each model so that it broadcasts to (T, N, ..., width)."""
    return rows.view(len(rows), *[1] * (inputs.dim() - 2), -1)
