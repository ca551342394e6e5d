"""The layout of a model's parameters in one flat tensor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

# Parameters start at multiples of a cache line (16 float32), so that results do not depend on the
# position of a model in its pack.
_ALIGNMENT: Final = 16

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Names, shapes and offsets of the trained parameters in a flat row of `width` numbers."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    offsets: tuple[int, ...]
    width: int

    def parts(self, flat: Tensor) -> Named:
        """Return the parameters as views of a row (width,) or of stacked rows (T, width)."""
        return {
            name: flat[..., offset : offset + shape.numel()].view(*flat.shape[:-1], *shape)
            for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True)
        }


def layout_of(parameters: Mapping[str, nn.Parameter]) -> Layout:
    """Return a layout with each parameter at a multiple of `_ALIGNMENT` numbers."""
    offsets, width = list[int](), 0
    for parameter in parameters.values():
        offsets.append(width)
        width += math.ceil(parameter.numel() / _ALIGNMENT) * _ALIGNMENT
    shapes = tuple(parameter.shape for parameter in parameters.values())
    return Layout(tuple(parameters), shapes, tuple(offsets), width)
