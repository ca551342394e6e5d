"""Stands in for torchvision, which timm imports: it has no build for the tests' torch.

timm uses these names when it is imported; its models do not need them.
"""

import sys
from enum import Enum
from types import ModuleType

from torch import nn


def _module(name: str, *classes: str, **values: object) -> ModuleType:
    module = ModuleType(f"torchvision.{name}")
    for cls in classes:
        setattr(module, cls, type(cls, (), {}))
    vars(module).update(values)
    sys.modules[module.__name__] = module
    return module


_INTERPOLATIONS = {
    name: name.lower() for name in ["NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"]
}
functional = _module(
    "transforms.functional", InterpolationMode=Enum("InterpolationMode", _INTERPOLATIONS)
)
transforms = _module("transforms", "ToTensor", "Compose", functional=functional)
misc = _module("ops.misc", FrozenBatchNorm2d=type("FrozenBatchNorm2d", (nn.Module,), {}))
ops = _module("ops", misc=misc)
datasets = _module(
    "datasets", "CIFAR100", "CIFAR10", "MNIST", "KMNIST", "FashionMNIST", "ImageFolder"
)
