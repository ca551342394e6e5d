"""The loss of a Lightning model. It collects its arguments in evaluations."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from sweeper.training.outputs import Outputs
from sweeper.training.run import TrainingRun


class Criterion(nn.Module):
    """Replaces the one loss of a model. Raises ValueError if there are more, or none."""

    def __init__(self, run: TrainingRun, model: nn.Module) -> None:
        super().__init__()
        losses = {
            name: child
            for name, child in model.named_children()
            if isinstance(child, nn.CrossEntropyLoss) and child.label_smoothing == 0
        }
        if len(losses) != 1:
            raise ValueError(
                f"{type(model).__name__} has {len(losses)} attributes of type nn.CrossEntropyLoss "
                "without label_smoothing; it must have one, which its steps call"
            )
        name, self.plain = losses.popitem()
        arguments = {each: getattr(self.plain, each) for each in ("weight", "reduction")}
        self.smoothed = run.loss(ignore_index=self.plain.ignore_index, **arguments)
        self._run = run
        setattr(model, name, self)

    def begin(self, loader: Any, rank: int, ranks: int) -> None:
        """Start to collect the outputs for the data of a loader on one of several ranks."""
        self._sampler: Any = getattr(loader.batch_sampler, "sampler", loader.sampler)
        self._scorer = self._run.scorer(ignore_index=self.plain.ignore_index)
        self._next, self._step, self._structured = rank, ranks, False

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not self.training:
            # The numbers of the examples; a sampler gives rank r the examples r, r + ranks, …
            end = self._next + len(logits) * self._step
            self._scorer.add(logits, labels, torch.arange(self._next, end, self._step))
            self._next, self._structured = end, logits.dim() > 2
        loss: Tensor = (self.smoothed if self.training else self.plain)(logits, labels)
        return loss

    def outputs(self) -> Outputs:
        """Return the outputs that were collected on this rank."""
        logits, labels, groups = self._scorer.outputs()
        return Outputs(logits, labels, groups if self._structured else None)

    def gathered(self) -> Outputs:
        """Return the outputs of all ranks in the order of the dataset, each example once."""
        distributed = isinstance(self._sampler, DistributedSampler)
        if self._step == 1 or not distributed:
            return self.outputs()
        parts: list[Any] = [None] * self._step
        torch.distributed.all_gather_object(parts, tuple(self._scorer.outputs()))
        logits, labels, examples = (torch.cat([part[i] for part in parts]) for i in range(3))
        order = examples.argsort(stable=True)  # the sampler repeats some examples at the end
        order = order[examples[order] < len(self._sampler.dataset)]
        groups = examples[order] if self._structured else None
        return Outputs(logits[order], labels[order], groups)
