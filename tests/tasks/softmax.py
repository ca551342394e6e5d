"""Softmax regression with label smoothing in NumPy, shared by the scripts of the tests."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CLASSES = 4


def data(split: str) -> tuple[Floats, NDArray[np.int64]]:
    """Return inputs (N, 5) and labels (N,) of a split."""
    rows = {"train": 120, "valid": 80, "test": 100}[split]
    draws = np.random.default_rng(["train", "valid", "test"].index(split))
    labels = draws.integers(0, CLASSES, rows)
    inputs = np.eye(CLASSES, 5)[labels] + draws.normal(0, 0.8, (rows, 5))
    return inputs, labels


def train(epsilon: float, lr: float, epochs: int, seed: int) -> Iterator[Floats]:
    """Yield the weights (5, CLASSES) after each epoch."""
    inputs, labels = data("train")
    weights = np.random.default_rng(seed).normal(0, 0.01, (5, CLASSES))
    targets = np.full((len(labels), CLASSES), epsilon / (CLASSES - 1))
    targets[np.arange(len(labels)), labels] = 1 - epsilon
    for _ in range(epochs):
        for _ in range(20):
            exponents = np.exp(inputs @ weights)
            gradient = inputs.T @ (exponents / exponents.sum(1, keepdims=True) - targets)
            weights = weights - lr * gradient / len(labels)
        yield weights
