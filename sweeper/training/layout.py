"""Where the parameters of a model lie in one flat tensor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

# Each model's weights begin at a cache line, so that their position in a pack decides nothing.
_LINE: Final = 16

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where each trained parameter of a model lies in one flat row of numbers."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    offsets: tuple[int, ...]
    width: int

    def parts(self, flat: Tensor) -> Named:
        """Return the parameters as views of a row, (width,), or of stacked ones, (T, width)."""
        return {
            name: flat[..., offset : offset + shape.numel()].view(*flat.shape[:-1], *shape)
            for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True)
        }


def layout_of(parameters: Mapping[str, nn.Parameter]) -> Layout:
    """Return where the parameters lie, each at a multiple of `_LINE` numbers."""
    offsets, width = list[int](), 0
    for parameter in parameters.values():
        offsets.append(width)
        width += math.ceil(parameter.numel() / _LINE) * _LINE
    shapes = tuple(parameter.shape for parameter in parameters.values())
    return Layout(tuple(parameters), shapes, tuple(offsets), width)
