"""A stack: runs of one kind trained in one step, each with its own row in every tensor."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sweeper.smoothing import SCHEDULES, Schedule, SmoothingLoss, smoothing_loss
from sweeper.training.layout import Named
from sweeper.training.loop import (
    EVALUATION_ROWS,
    batch_order,
    check_logits,
    epsilon_in_others,
    step_seeds,
    weighted_mean,
)
from sweeper.training.messages import PACKED
from sweeper.training.packed.stacking import Architecture
from sweeper.training.random_state import restored_random_state, seed_global
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.task import Optimizer, Rows, Task
from sweeper.training.updates import Moments, l1_mask, packed_history, update_weights


@dataclass(eq=False)
class Member:
    """A run in a pack. While it is in a stack, its tensors are rows of the stacked tensors."""

    run: TrainingRun
    settings: Optimizer
    hparams: Mapping[str, Any]
    train: Rows
    valid: Rows
    test: Rows
    loss: SmoothingLoss
    architecture: Architecture
    weights: Tensor
    buffers: Named
    moments: Moments
    epochs: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """The properties that members must share to be trained in one step."""
        shapes = [(rows[0].shape, rows[0].dtype) for rows in (self.train, self.valid)]
        convention = self.run.smoothing.convention
        return self.architecture, self.settings.name, convention, *shapes, *self.moments.rows

    def state(self) -> dict[str, Any]:
        """Return the state to save, as `loop.state_of` does, marked as packed; not copied."""
        architecture, layout = self.architecture, self.architecture.layout
        tensors = {**layout.parts(self.weights), **self.buffers}
        return {
            PACKED: True,
            "epochs": self.epochs,
            "model": {name: tensors[first] for name, first in architecture.stored.items()},
            "optimizer": {"state": packed_history(self.moments, layout, architecture.parameters)},
        }


class Stack:
    """Stacked members of one kind; row t of every tensor belongs to member t.

    A single member is stacked twice, because a batched matrix product with batch size 1 uses
    another kernel, which rounds differently.
    """

    def __init__(self, runs: Sequence[Member]) -> None:
        self.runs = tuple(runs)
        members = [*runs, *map(_duplicate, runs)] if len(runs) == 1 else list(runs)
        self.members = members
        self.device = members[0].run.device
        self._architecture = members[0].architecture
        self._weights = torch.stack([member.weights for member in members])
        self._buffers = {
            name: torch.stack([member.buffers[name] for member in members])
            for name in members[0].buffers
        }
        self._moments = {
            key: torch.stack([member.moments.rows[key] for member in members])
            for key in members[0].moments.rows
        }
        self._gradients = torch.zeros_like(self._weights)
        for place, member in enumerate(members):
            member.weights = self._weights[place]
            member.buffers = {name: stacked[place] for name, stacked in self._buffers.items()}
            rows = {key: stacked[place] for key, stacked in self._moments.items()}
            member.moments = replace(member.moments, rows=rows)
        self._rows = self._weights.unbind(0), self._gradients.unbind(0)
        layout = self._architecture.layout
        self._parameters = layout.parts(self._weights)
        self._gradient_parts = list(layout.parts(self._gradients).values())
        self._l1 = self._l1_factors()
        self._dropping = self._architecture.drops(self._buffers)

    def copy_tensors(self) -> list[Tensor]:
        """Return copies of all tensors that an epoch changes."""
        return [tensor.clone() for tensor in self._changing()]

    def restore(self, copied: Sequence[Tensor]) -> None:
        """Restore copies from `copy_tensors` after an epoch failed."""
        for tensor, before in zip(self._changing(), copied, strict=True):
            tensor.copy_(before)

    def _changing(self) -> list[Tensor]:
        steps = [member.moments.steps for member in self.members]
        return [self._weights, *self._buffers.values(), *self._moments.values(), *steps]

    def epoch(self, task: Task) -> list[Evaluation]:
        """Train one epoch; return the evaluation of each member."""
        losses, epsilons = self._train(task)
        logits = self._predict([member.valid[0] for member in self.members])
        check_logits(task, logits[0])
        for member in self.members:
            member.epochs += 1
        return [
            Evaluation(
                logits[place],
                member.valid[1],
                progress=member.epochs / task.epochs,
                train_loss=losses[place],
                state=member.state,
                splits={
                    "train": partial(self._predict_rows, place, member.train),
                    "test": partial(self._predict_rows, place, member.test),
                },
                mean_epsilon=epsilon_in_others(epsilons[place], task.classes, member.run),
            )
            for place, member in enumerate(self.runs)
        ]

    def _train(self, task: Task) -> tuple[list[float], list[float]]:
        """Train one epoch; return the mean loss and the mean epsilon of each member."""
        batches = Batches(task, self.members)
        losses, epsilons = list[Tensor](), list[Tensor]()
        with self.training():
            for step in range(batches.steps):
                loss, epsilon = self.step(batches, step)
                losses.append(loss)
                epsilons.append(epsilon)
        return batches.means(losses), batches.means(epsilons)

    def training(self) -> AbstractContextManager[None]:
        """Return the context in which `step` must be called."""
        return self._architecture.mode(training=True, dropping=self._dropping)

    def step(self, batches: "Batches", step: int) -> tuple[Tensor, Tensor]:
        """Make one step for every member; return losses (T,) and mean epsilons (T,)."""
        inputs, labels = batches.batch(step)
        self._architecture.draws.begin(batches.seeds[step])
        parameters = {name: p.detach().requires_grad_() for name, p in self._parameters.items()}
        logits = self._architecture.forward(parameters, self._buffers, inputs)
        epsilon, mean_epsilon = batches.epsilons(step, logits.detach(), labels)
        places, rows, classes = logits.shape
        losses = smoothing_loss(
            logits.reshape(-1, classes),
            labels.reshape(-1),
            epsilon.reshape(-1),
            convention=self.members[0].run.smoothing.convention,
            reduction="none",
        )
        loss = losses.view(places, rows).mean(1)
        gradients = torch.autograd.grad(loss.sum(), list(parameters.values()))
        for part, gradient in zip(self._gradient_parts, gradients, strict=True):
            part.copy_(gradient)
        self._update(batches.optimizers(step))
        return loss.detach(), mean_epsilon

    def _update(self, optimizers: Iterable[tuple[Optimizer, Sequence[int]]]) -> None:
        if self._l1 is not None:
            self._gradients.add_(self._weights.sign() * self._l1)
        weights, gradients = self._rows
        moments = [member.moments for member in self.members]
        for optimizer, places in optimizers:
            update_weights(
                optimizer,
                [weights[place] for place in places],
                [gradients[place] for place in places],
                [moments[place] for place in places],
            )

    def _l1_factors(self) -> Tensor | None:
        if not any(member.settings.l1 for member in self.members):
            return None
        mask = l1_mask(self._architecture.layout, self._weights[0])
        return torch.stack([member.settings.l1 * mask for member in self.members])

    def _predict(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits (T, N, K) of each member for its inputs (N, ...)."""
        return _predict(self._architecture, self._parameters, self._buffers, _stacked(inputs))

    def _predict_rows(self, place: int, rows: Rows) -> Rows:
        """Return the logits (N, K) of one member for rows, and the labels (N,)."""
        twice = [place, place]  # stacked twice, as in a stack of a single member
        parameters = {name: stacked[twice] for name, stacked in self._parameters.items()}
        buffers = {name: stacked[twice] for name, stacked in self._buffers.items()}
        with restored_random_state(self.device):
            inputs = _stacked([rows[0], rows[0]])
            logits = _predict(self._architecture, parameters, buffers, inputs)
            return logits[0], rows[1]


def _duplicate(member: Member) -> Member:
    moments = replace(member.moments, steps=member.moments.steps.clone())
    return replace(member, moments=moments)


def _predict(
    architecture: Architecture, parameters: Named, buffers: Named, inputs: Tensor
) -> Tensor:
    with architecture.mode(training=False, dropping=False), torch.inference_mode():
        parts = [
            architecture.forward(parameters, buffers, part)
            for part in torch.split(inputs, EVALUATION_ROWS, dim=1)
        ]
    # Concatenated outside of inference mode, so that the caller gets normal tensors.
    return torch.cat(parts, dim=1)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors; if all are the same object, return an expanded view instead of a copy."""
    if all(tensor is tensors[0] for tensor in tensors):
        return tensors[0].expand(len(tensors), *tensors[0].shape)
    return torch.stack(list(tensors))


class Batches:
    """The batches, seeds, epsilons and learning rates of the members of a stack for one epoch."""

    def __init__(self, task: Task, members: Sequence[Member]) -> None:
        self._task, self._members = task, members
        orders = {
            (seed, epoch): batch_order(seed, epoch, rows).to(members[0].run.device)
            for seed, epoch, rows in {(m.run.seed, m.epochs, len(m.train[1])) for m in members}
        }
        self._sources = self._sources_of([orders[m.run.seed, m.epochs] for m in members])
        parts = torch.split(members[0].train[1], task.batch_size)
        self._sizes = [len(part) for part in parts]
        self.steps = len(self._sizes)
        self.seeds = self._step_seeds("steps")
        self._augment_seeds = self._step_seeds("augment") if task.augment else []
        self._progress = [
            [
                (m.epochs * self.steps + step) / (task.epochs * self.steps)
                for step in range(self.steps)
            ]
            for m in members
        ]
        ceilings = torch.stack([self._ceiling(place) for place in range(len(members))])
        self._ceilings = ceilings.to(members[0].run.device)
        self._optimizers = dict[tuple[Optimizer, int], list[int]]()
        for place, m in enumerate(members):
            key = replace(m.settings, l1=0.0), m.epochs
            self._optimizers.setdefault(key, []).append(place)
        self._gates = self._gates_of(members)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs (T, B, ...) and the labels (T, B) of a step."""
        begin = step * self._task.batch_size
        batches = [
            self._rows(source, source.order[begin : begin + self._task.batch_size], step)
            for source in self._sources
        ]
        inputs, labels = ([batch[part] for batch in batches] for part in (0, 1))
        return self._spread(inputs), self._spread(labels)

    def _sources_of(self, orders: Sequence[Tensor]) -> "list[_Source]":
        """Return the sources of the batches; members with equal batches share a source."""
        sources = dict[Any, _Source]()
        for place, (member, order) in enumerate(zip(self._members, orders, strict=True)):
            hparams = repr(sorted(member.hparams.items())) if self._task.augment else ""
            key = id(member.train[0]), id(order), hparams
            sources.setdefault(key, _Source(member, order, [])).places.append(place)
        return list(sources.values())

    def _rows(self, source: "_Source", rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        member = source.member
        inputs = member.train[0][rows]
        if self._task.augment is not None:
            seed_global(self._augment_seeds[step][source.places[0]], member.run.device)
            inputs = self._task.augment(inputs, member.hparams)
        return inputs, member.train[1][rows]

    def _spread(self, by_source: Sequence[Tensor]) -> Tensor:
        """Stack the tensors of the sources, one row per member."""
        if len(by_source) == 1:
            return by_source[0].expand(len(self._members), *by_source[0].shape)
        by_place = dict[int, Tensor]()
        for source, tensor in zip(self._sources, by_source, strict=True):
            by_place.update((place, tensor) for place in source.places)
        return torch.stack([by_place[place] for place in range(len(self._members))])

    def epsilons(self, step: int, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return epsilon per sample (T, B) and its mean per member (T,)."""
        ceilings = self._ceilings[:, step]
        epsilon, mean = ceilings.unsqueeze(1).expand(labels.shape), ceilings
        if self._gates:
            epsilon, mean = epsilon.clone(), mean.clone()
            for gate in self._gates:
                epsilon[gate.places] *= gate.values(logits[gate.places], labels[gate.places])
            # Computed for all rows, because the mean of a single row may round differently.
            means = epsilon.mean(1)
            for gate in self._gates:
                mean[gate.places] = means[gate.places]
        return epsilon, mean

    def _gates_of(self, members: Sequence[Member]) -> "list[_Gate]":
        """Return the gates of adaptive schedules, each with the places of its members.

        On a CPU each place has a separate gate. Vectorized kernels process the last few numbers
        with scalar code that rounds differently, and which numbers are last must not depend on the
        other members.
        """
        device = members[0].run.device
        places_of = dict[Any, list[int]]()
        for place, member in enumerate(members):
            if member.loss.adaptive:
                separate = place if device.type == "cpu" else None
                key = member.run.smoothing.schedule, separate
                places_of.setdefault(key, []).append(place)
        return [
            _Gate(
                SCHEDULES[name],
                torch.tensor(places, device=device),
                torch.tensor([[members[place].run.smoothing.rate] for place in places]).to(device),
            )
            for (name, _), places in places_of.items()
        ]

    def optimizers(self, step: int) -> Iterator[tuple[Optimizer, Sequence[int]]]:
        """Yield each optimizer, with the learning rate of `step`, and the places that use it."""
        for (settings, _), places in self._optimizers.items():
            lr = settings.lr_at(self._progress[places[0]][step])
            yield replace(settings, lr=lr), places

    def means(self, values: Sequence[Tensor]) -> list[float]:
        """Return the mean over the rows per member, from the means (T,) of each step."""
        # On the CPU, so that the GPU is synchronized once and not once per member.
        by_member = torch.stack(list(values)).T.contiguous().cpu()
        sizes = torch.tensor(self._sizes)
        return [weighted_mean(row, sizes) for row in by_member]

    def _step_seeds(self, purpose: str) -> list[list[int]]:
        seeds = {
            key: step_seeds(key[0], purpose, key[1], self.steps)
            for key in {(m.run.seed, m.epochs) for m in self._members}
        }
        by_member = [seeds[m.run.seed, m.epochs] for m in self._members]
        return [list(of_step) for of_step in zip(*by_member, strict=True)]

    def _ceiling(self, place: int) -> Tensor:
        return self._members[place].loss.at(torch.tensor(self._progress[place]))


class _Gate(NamedTuple):
    """An adaptive schedule of the members at `places` (G,), with their `rates` (G, 1)."""

    schedule: Schedule
    places: Tensor
    rates: Tensor

    def values(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the gate value of each sample, (G, B)."""
        rates = self.rates.expand(labels.shape).flatten()
        gate = self.schedule.gate(logits.flatten(0, 1), labels.flatten(), rates)
        return gate.view(labels.shape)


class _Source(NamedTuple):
    """The batches of one epoch for the members at `places`; `member` is one of these members."""

    member: Member
    order: Tensor
    places: list[int]
