"""Runs of one kind trained in one step: each has its own row in every stacked tensor."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from sweeper.smoothing import SCHEDULES, Schedule, SmoothingLoss, smoothing_loss
from sweeper.training.layout import Named
from sweeper.training.loop import (
    EVALUATION_ROWS,
    batch_order,
    check_logits,
    in_others,
    step_seeds,
    weighted_mean,
)
from sweeper.training.packed.stacking import Architecture
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.seeding import own_randomness, seed_global
from sweeper.training.task import Optimiser, Rows, Task
from sweeper.training.updates import Moments, l1_mask, packed_history, update

# In a run's state: its bits are a pack's, and it goes on as one of a pack.
PACKED: Final = "packed"


@dataclass(eq=False)
class Member:
    """One run of a pack; its tensors are rows of stacked ones while it is trained with others."""

    run: TrainingRun
    settings: Optimiser
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
        """What members have in common that are trained in one step."""
        shapes = [(rows[0].shape, rows[0].dtype) for rows in (self.train, self.valid)]
        convention = self.run.smoothing.convention
        return self.architecture, self.settings.name, convention, *shapes, *self.moments.rows

    def state(self) -> dict[str, Any]:
        """Return all that changes, as the loop of one run gives it, and its mark; not copied."""
        of, layout = self.architecture, self.architecture.layout
        mine = {**layout.parts(self.weights), **self.buffers}
        return {
            PACKED: True,
            "epochs": self.epochs,
            "model": {name: mine[first] for name, first in of.stored.items()},
            "optimiser": {"state": packed_history(self.moments, layout, of.parameters)},
        }


class Stack:
    """Members of one kind, stacked: row t of every tensor is member t's.

    One member is stacked with a ghost of its own: products of one matrix, and of many, are other
    code, of other last bits.
    """

    def __init__(self, given: Sequence[Member]) -> None:
        self.given = tuple(given)
        members = [*given, *map(_ghost, given)] if len(given) == 1 else list(given)
        self.members = members
        self.device = members[0].run.device
        self._of = members[0].architecture
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
            member.buffers = {name: of[place] for name, of in self._buffers.items()}
            rows = {key: of[place] for key, of in self._moments.items()}
            member.moments = replace(member.moments, rows=rows)
        self._rows = self._weights.unbind(0), self._gradients.unbind(0)
        layout = self._of.layout
        self._parameters = layout.parts(self._weights)
        self._slots = list(layout.parts(self._gradients).values())
        self._l1 = self._l1_factors()
        self._dropping = self._of.drops(self._buffers)

    def copied(self) -> list[Tensor]:
        """Return all that an epoch changes."""
        return [tensor.clone() for tensor in self._changing()]

    def restore(self, copied: Sequence[Tensor]) -> None:
        """Take back what an epoch that was not finished has changed."""
        for tensor, before in zip(self._changing(), copied, strict=True):
            tensor.copy_(before)

    def _changing(self) -> list[Tensor]:
        steps = [member.moments.steps for member in self.members]
        return [self._weights, *self._buffers.values(), *self._moments.values(), *steps]

    def epoch(self, task: Task) -> list[Evaluation]:
        """Train one epoch; return each member's evaluation."""
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
                    "train": partial(self._ask, place, member.train),
                    "test": partial(self._ask, place, member.test),
                },
                mean_epsilon=in_others(epsilons[place], task.classes, member.run),
            )
            for place, member in enumerate(self.given)
        ]

    def _train(self, task: Task) -> tuple[list[float], list[float]]:
        """Train every member for an epoch; return their means over the rows of loss and epsilon."""
        batches = Batches(task, self.members)
        losses, epsilons = list[Tensor](), list[Tensor]()
        with self.training():
            for step in range(batches.steps):
                loss, epsilon = self.step(batches, step)
                losses.append(loss)
                epsilons.append(epsilon)
        return batches.means(losses), batches.means(epsilons)

    def training(self) -> AbstractContextManager[None]:
        """Return what steps are made in."""
        return self._of.mode(training=True, dropping=self._dropping)

    def step(self, batches: "Batches", step: int) -> tuple[Tensor, Tensor]:
        """Make one step for every member; return their losses and mean epsilons, (T,)."""
        inputs, labels = batches.batch(step)
        self._of.draws.begin(batches.seeds[step])
        parameters = {name: p.detach().requires_grad_() for name, p in self._parameters.items()}
        logits = self._of.forward(parameters, self._buffers, inputs)
        epsilon, mean_epsilon = batches.epsilons(step, logits.detach(), labels)
        places, rows, classes = logits.shape
        each = smoothing_loss(
            logits.reshape(-1, classes),
            labels.reshape(-1),
            epsilon.reshape(-1),
            convention=self.members[0].run.smoothing.convention,
            reduction="none",
        )
        loss = each.view(places, rows).mean(1)
        found = torch.autograd.grad(loss.sum(), list(parameters.values()))
        for slot, gradient in zip(self._slots, found, strict=True):
            slot.copy_(gradient)
        self._update(batches.optimisers(step))
        return loss.detach(), mean_epsilon

    def _update(self, optimisers: Iterable[tuple[Optimiser, Sequence[int]]]) -> None:
        if self._l1 is not None:
            self._gradients.add_(self._weights.sign() * self._l1)
        weights, gradients = self._rows
        moments = [member.moments for member in self.members]
        for optimiser, places in optimisers:
            update(
                optimiser,
                [weights[place] for place in places],
                [gradients[place] for place in places],
                [moments[place] for place in places],
            )

    def _l1_factors(self) -> Tensor | None:
        if not any(member.settings.l1 for member in self.members):
            return None
        mask = l1_mask(self._of.layout, self._weights[0])
        return torch.stack([member.settings.l1 * mask for member in self.members])

    def _predict(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits (T, N, K) of each member for its inputs (N, ...)."""
        return _predicted(self._of, self._parameters, self._buffers, _stacked(inputs))

    def _ask(self, place: int, rows: Rows) -> Rows:
        """Return one member's logits (N, K) for rows, and their labels."""
        twice = [place, place]  # as in a stack of a member and its ghost
        parameters = {name: of[twice] for name, of in self._parameters.items()}
        buffers = {name: of[twice] for name, of in self._buffers.items()}
        with own_randomness(self.device):
            inputs = _stacked([rows[0], rows[0]])
            return _predicted(self._of, parameters, buffers, inputs)[0], rows[1]


def _ghost(member: Member) -> Member:
    moments = replace(member.moments, steps=member.moments.steps.clone())
    return replace(member, moments=moments)


def _predicted(of: Architecture, parameters: Named, buffers: Named, inputs: Tensor) -> Tensor:
    with of.mode(training=False, dropping=False), torch.inference_mode():
        parts = [
            of.forward(parameters, buffers, part)
            for part in torch.split(inputs, EVALUATION_ROWS, dim=1)
        ]
    return torch.cat(parts, dim=1)  # outside, so that the caller gets ordinary tensors


def _stacked(each: Sequence[Tensor]) -> Tensor:
    """Stack tensors; what is one and the same for all is not copied."""
    if all(one is each[0] for one in each):
        return each[0].expand(len(each), *each[0].shape)
    return torch.stack(list(each))


class Batches:
    """What each member of a stack is given in its coming epoch, step by step."""

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
        self._optimisers = dict[tuple[Optimiser, int], list[int]]()
        for place, m in enumerate(members):
            key = replace(m.settings, l1=0.0), m.epochs
            self._optimisers.setdefault(key, []).append(place)
        self._gates = self._gates_of(members)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs (T, B, ...) and the labels (T, B) of a step."""
        begin = step * self._task.batch_size
        made = [
            self._rows(source, source.order[begin : begin + self._task.batch_size], step)
            for source in self._sources
        ]
        inputs, labels = ([each[part] for each in made] for part in (0, 1))
        return self._spread(inputs), self._spread(labels)

    def _sources_of(self, orders: Sequence[Tensor]) -> "list[_Source]":
        """Return where batches come from: one source for members that are given the same."""
        found = dict[Any, _Source]()
        for place, (member, order) in enumerate(zip(self._members, orders, strict=True)):
            hparams = repr(sorted(member.hparams.items())) if self._task.augment else ""
            key = id(member.train[0]), id(order), hparams
            found.setdefault(key, _Source(member, order, [])).places.append(place)
        return list(found.values())

    def _rows(self, source: "_Source", rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        member = source.member
        inputs = member.train[0][rows]
        if self._task.augment is not None:
            seed_global(self._augment_seeds[step][source.places[0]], member.run.device)
            inputs = self._task.augment(inputs, member.hparams)
        return inputs, member.train[1][rows]

    def _spread(self, each: Sequence[Tensor]) -> Tensor:
        """Give every member what its source has."""
        if len(each) == 1:
            return each[0].expand(len(self._members), *each[0].shape)
        of = dict[int, Tensor]()
        for source, tensor in zip(self._sources, each, strict=True):
            of.update((place, tensor) for place in source.places)
        return torch.stack([of[place] for place in range(len(self._members))])

    def epsilons(self, step: int, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return epsilon of each sample, (T, B), and its mean for each member, (T,)."""
        ceilings = self._ceilings[:, step]
        epsilon, mean = ceilings.unsqueeze(1).expand(labels.shape), ceilings
        if self._gates:
            epsilon, mean = epsilon.clone(), mean.clone()
            for gate in self._gates:
                epsilon[gate.places] *= gate.of(logits[gate.places], labels[gate.places])
            # Of all rows, since that of a lone one would be rounded otherwise.
            means = epsilon.mean(1)
            for gate in self._gates:
                mean[gate.places] = means[gate.places]
        return epsilon, mean

    def _gates_of(self, members: Sequence[Member]) -> "list[_Gate]":
        """Return the adaptive schedules of members, each with the places that it is for.

        On a CPU each place has its own: the code for many numbers at once leaves the last few to
        other code, of other last bits, and which are the last must not be up to who is beside.
        """
        device = members[0].run.device
        found = dict[Any, list[int]]()
        for place, member in enumerate(members):
            if member.loss.adaptive:
                alone = place if device.type == "cpu" else None
                found.setdefault((member.run.smoothing.schedule, alone), []).append(place)
        return [
            _Gate(
                SCHEDULES[name],
                torch.tensor(places, device=device),
                torch.tensor([[members[place].run.smoothing.rate] for place in places]).to(device),
            )
            for (name, _), places in found.items()
        ]

    def optimisers(self, step: int) -> Iterator[tuple[Optimiser, Sequence[int]]]:
        """Yield optimisers with their learning rates now, each with the places that it is for."""
        for (settings, _), places in self._optimisers.items():
            lr = settings.lr_at(self._progress[places[0]][step])
            yield replace(settings, lr=lr), places

    def means(self, values: Sequence[Tensor]) -> list[float]:
        """Return the means over the epoch's rows of what each step gave, (T,) each."""
        # On the CPU, where it takes one look at the device and not one a member.
        by_member = torch.stack(list(values)).T.contiguous().cpu()
        sizes = torch.tensor(self._sizes)
        return [weighted_mean(row, sizes) for row in by_member]

    def _step_seeds(self, purpose: str) -> list[list[int]]:
        """Return for each step the seed of each member."""
        known = {
            key: step_seeds(key[0], purpose, key[1], self.steps)
            for key in {(m.run.seed, m.epochs) for m in self._members}
        }
        of_members = [known[m.run.seed, m.epochs] for m in self._members]
        return [list(seeds) for seeds in zip(*of_members, strict=True)]

    def _ceiling(self, place: int) -> Tensor:
        return self._members[place].loss.at(torch.tensor(self._progress[place]))


class _Gate(NamedTuple):
    """An adaptive schedule for the members at some `places` (G,), with their `rates` (G, 1)."""

    schedule: Schedule
    places: Tensor
    rates: Tensor

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the gate of each sample, (G, B)."""
        rates = self.rates.expand(labels.shape).flatten()
        gate = self.schedule.gate(logits.flatten(0, 1), labels.flatten(), rates)
        return gate.view(labels.shape)


class _Source(NamedTuple):
    """Rows in the order of an epoch, for the members at some places; `member` is one of them."""

    member: Member
    order: Tensor
    places: list[int]
