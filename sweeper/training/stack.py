"""Runs of one kind trained in one step: each has its own row in every stacked tensor."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sweeper.smoothing import SmoothingLoss, smoothing_loss
from sweeper.training.loop import (
    EVALUATION_ROWS,
    batch_order,
    check_logits,
    in_others,
    step_seeds,
    weighted_mean,
)
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.seeding import own_randomness, seed_global
from sweeper.training.stacking import Architecture, Named
from sweeper.training.task import Optimiser, Rows, Task
from sweeper.training.updates import Moments, l1_mask, update


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
        """Return all that changes, as the loop of one run gives it; not copied."""
        of, layout = self.architecture, self.architecture.layout
        mine = {**layout.parts(self.weights), **self.buffers}
        return {
            "epochs": self.epochs,
            "model": {name: mine[first] for name, first in of.stored.items()},
            "optimiser": self.moments.state_dict(layout, of.parameters),
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
        self._update(batches.settings(step))
        return loss.detach(), mean_epsilon

    def _update(self, settings: Sequence[Optimiser]) -> None:
        if self._l1 is not None:
            self._gradients.add_(self._weights.sign() * self._l1)
        weights, gradients = self._rows
        update(settings, weights, gradients, [member.moments for member in self.members])

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
            (m.run.seed, m.epochs): torch.split(
                batch_order(m.run.seed, m.epochs, len(m.train[1])).to(m.run.device),
                task.batch_size,
            )
            for m in members
        }
        self._orders = [orders[m.run.seed, m.epochs] for m in members]
        self.steps = len(self._orders[0])
        self.seeds = self._step_seeds("steps")
        self._augment_seeds = self._step_seeds("augment") if task.augment else []
        self._progress = [
            [
                (m.epochs * self.steps + step) / (task.epochs * self.steps)
                for step in range(self.steps)
            ]
            for m in members
        ]
        self._ceilings = torch.stack([self._ceiling(place) for place in range(len(members))])
        self._adaptive = [place for place, m in enumerate(members) if m.loss.adaptive]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs (T, B, ...) and the labels (T, B) of a step."""
        made = dict[Any, tuple[Tensor, Tensor]]()
        chosen = []
        for place, member in enumerate(self._members):
            key = self._batch_key(place)
            if key not in made:
                made[key] = self._rows(place, member, step)
            chosen.append(made[key])
        return _stacked([inputs for inputs, _ in chosen]), _stacked(
            [labels for _, labels in chosen]
        )

    def _batch_key(self, place: int) -> Any:
        """Return what members have in common that are given the same batch."""
        member = self._members[place]
        hparams = repr(sorted(member.hparams.items())) if self._task.augment else ""
        return id(member.train[0]), id(self._orders[place]), hparams

    def _rows(self, place: int, member: Member, step: int) -> tuple[Tensor, Tensor]:
        rows = self._orders[place][step]
        inputs = member.train[0][rows]
        if self._task.augment is not None:
            seed_global(self._augment_seeds[step][place], member.run.device)
            inputs = self._task.augment(inputs, member.hparams)
        return inputs, member.train[1][rows]

    def epsilons(self, step: int, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return epsilon of each sample, (T, B), and its mean for each member, (T,)."""
        ceilings = self._ceilings[:, step]
        epsilon, mean = ceilings.unsqueeze(1).expand(labels.shape), ceilings
        if self._adaptive:
            epsilon, mean = epsilon.clone(), mean.clone()
            for place in self._adaptive:
                epsilon[place] = self._members[place].loss.epsilon(logits[place], labels[place])
                mean[place] = epsilon[place].mean()
        return epsilon, mean

    def settings(self, step: int) -> list[Optimiser]:
        """Return each member's optimiser with its learning rate now."""
        return [
            replace(m.settings, lr=m.settings.lr_at(self._progress[place][step]))
            for place, m in enumerate(self._members)
        ]

    def means(self, values: Sequence[Tensor]) -> list[float]:
        """Return the means over the epoch's rows of what each step gave, (T,) each."""
        by_member = torch.stack(list(values)).T.contiguous()
        sizes = torch.tensor([len(rows) for rows in self._orders[0]], device=by_member.device)
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
        member = self._members[place]
        progress = torch.tensor(self._progress[place], device=member.run.device)
        return member.loss.at(progress)
