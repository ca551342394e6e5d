"""Observe the gradient at the logits in each training step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from sweeper.smoothing import SmoothingLoss
from sweeper.training.observation.targets import label_smoothing_of

# Nodes of the graph that are searched for a softmax: it is near the loss.
_NODES: Final = 400
# The smoothing is estimated in so many steps, and then in every step with a power of two.
_FIRST_STEPS: Final = 8


@dataclass
class Targets:
    """What the gradients say about the targets of a loss with K classes.

    `steps` is the number of estimates that were tried, `smoothing` the estimates that succeeded, in
    torch's convention. `labels` (K,) counts the labels.
    """

    classes: int
    steps: int = 0
    smoothing: list[float] = field(default_factory=list)
    labels: Tensor = field(default_factory=lambda: torch.zeros(0))
    seen: int = 0

    def add(self, p: Tensor, g: Tensor) -> None:
        """Add the probabilities (n, K) and gradients (n, K) of a step."""
        if not len(self.labels):
            self.labels = torch.zeros(self.classes, dtype=torch.int64)
        used = g.abs().amax(1) > 0
        found = g[used].argmin(1).cpu()
        self.labels += torch.bincount(found, minlength=self.classes)
        self.seen += 1
        if self.seen <= _FIRST_STEPS or self.seen & (self.seen - 1) == 0:
            self.steps += 1
            estimate = label_smoothing_of(p, g)
            if estimate is not None:
                self.smoothing.append(estimate)


class GradientObserver:
    """Finds the logits of a loss at each backward pass, and reads the gradient there.

    The logits are the input of a log_softmax near the loss, or of a `SmoothingLoss`. Only the
    gradient of the loss counts, and not that of other uses of the logits.
    """

    def __init__(self) -> None:
        self.targets: dict[int, Targets] = {}
        self._backward = torch.autograd.backward
        # By the place of the logits in the graph: log-probabilities, class axis, sum of gradients.
        self._sums: dict[Any, tuple[Tensor, int, Tensor | None]] = {}

    def begin(self) -> None:
        torch.autograd.backward = self._observed_backward

    def end(self) -> None:
        torch.autograd.backward = self._backward

    def on_loss(self, module: object, arguments: Sequence[Any]) -> tuple[Any, ...] | None:
        """Observe a call of a `SmoothingLoss`; return the arguments to use in place of these."""
        logits = arguments[0] if arguments else None
        if not isinstance(module, SmoothingLoss) or not isinstance(logits, Tensor):
            return None
        if not logits.requires_grad or logits.dim() < 2 or logits.shape[1] < 2:
            return None
        kept, view = logits.detach(), logits.view_as(logits)
        view.register_hook(  # type: ignore[no-untyped-call]
            lambda g: self._add(kept.float().softmax(1), g, 1)
        )
        return (view, *arguments[1:])

    def _observed_backward(self, tensors: Any, *given: Any, **options: Any) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        for node in _softmax_nodes([root.grad_fn for root in roots if root.grad_fn is not None]):
            saved: Tensor = node._saved_result  # noqa: SLF001  (the public interface of autograd)
            axis = node._saved_dim  # noqa: SLF001
            axis = axis if axis < saved.dim() else axis - 2**64  # negative ones are unsigned
            place = node.next_functions[0]
            self._sums[place] = saved.detach(), axis, None
            node.register_hook(partial(self._sum, place))
        try:
            self._backward(tensors, *given, **options)
        finally:
            sums, self._sums = self._sums, {}
        for log_p, axis, gradient in sums.values():
            if gradient is not None:
                self._add(log_p.exp(), gradient, axis)

    def _sum(self, place: Any, gradients: Sequence[Tensor | None], _: Any) -> None:
        if place in self._sums and gradients[0] is not None:
            log_p, axis, before = self._sums[place]
            gradient = gradients[0].detach()
            self._sums[place] = log_p, axis, gradient if before is None else before + gradient

    def _add(self, p: Tensor, g: Tensor, axis: int) -> None:
        classes = p.shape[axis]
        if p.dim() < 2 or classes < 2:
            return
        p, g = (values.detach().movedim(axis, -1).reshape(-1, classes) for values in (p, g))
        self.targets.setdefault(classes, Targets(classes)).add(p, g)


def _softmax_nodes(roots: Sequence[Any]) -> Iterator[Any]:
    """Yield the nodes of log_softmax near the loss."""
    waiting, seen = list(roots), set(roots)
    for node in waiting:
        if node.name() == "LogSoftmaxBackward0":
            yield node
            continue
        below = [after for after, _ in node.next_functions if after is not None]
        new = [after for after in dict.fromkeys(below) if after not in seen]
        if len(waiting) < _NODES:
            seen.update(new)
            waiting += new
