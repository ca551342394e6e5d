"""Train many runs of a task in one vectorized step.

The result of a member is bitwise independent of the number of other members and of its position
among them. Each member has its own row in every stacked tensor, its random numbers are derived
from its own (seed, epoch, step), and no sum runs over several members.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn

from sweeper.training.device import is_out_of_memory
from sweeper.training.dropout import share_draws
from sweeper.training.loop import new_model, rows_on_device, train
from sweeper.training.messages import PACKED
from sweeper.training.packed.stack import Member, Stack
from sweeper.training.packed.stacking import Architecture, architecture_of, skeleton
from sweeper.training.random_state import restored_random_state
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.task import Task
from sweeper.training.updates import moments_of, restore_history

_log = logging.getLogger(__name__)

# The outcome of an epoch for a member: its evaluation, or the exception that its training raised.
Outcome = Evaluation | Exception
Members = tuple[Member, ...]


class Pack:
    """Runs of one task that are trained together. Members can join and leave between epochs.

    At most `at_once` members are trained in one step; the number is halved when memory runs out.
    Members whose models or splits differ in shape are trained in separate steps.
    """

    def __init__(self, task: Task, at_once: int) -> None:
        self.at_once = at_once
        self._task = task
        self._members: list[Member] = []
        self._stacks: dict[Members, Stack] = {}
        self._architectures: list[tuple[Mapping[str, Any], Architecture]] = []

    def __len__(self) -> int:
        return len(self._members)

    def join(self, run: TrainingRun) -> Member:
        """Add a run, new or resumed from its state, and return its member.

        Raises `Unstackable` if the run must be trained alone, and any exception of its task.
        """
        with restored_random_state(run.device):
            member = self._member(run)
        self._members.append(member)
        return member

    def leave(self, member: Member) -> None:
        self._members.remove(member)

    def epoch(self) -> Iterator[tuple[Member, Outcome]]:
        """Train every member for one epoch; yield each member with its outcome.

        Until the next epoch, members may leave, and the functions `state` and `splits` of the
        evaluations may be called.
        """
        stacked, self._stacks = self._stacks, {}
        waiting = self._parts()
        while waiting:
            members, *waiting = waiting
            stack, outcomes = self._train(members, stacked.get(members))
            if outcomes is None:
                waiting = [*self._smaller(members), *waiting]
                continue
            if stack is not None:
                self._stacks[members] = stack
            yield from zip(members, outcomes, strict=True)

    def _member(self, run: TrainingRun) -> Member:
        task = self._task
        settings, hparams = task.settings(run.hparams)
        train, valid, test = rows_on_device(task, run.data_seed, run.device)
        fresh = partial(new_model, task, hparams, run)
        model = fresh()
        share_draws(model)
        architecture = self._architecture(hparams, model, fresh, train[0])
        names = architecture.parameters
        if run.state is not None:
            model.load_state_dict(run.state["model"])
        weights, buffers = architecture.tensors_of(model)
        moments, epochs = moments_of(settings, weights), 0
        if run.state is not None:
            history, epochs = run.state["optimizer"]["state"], int(run.state["epochs"])
            restore_history(moments, history, architecture.layout, names)
        rows = train, valid, test
        return Member(
            run,
            settings,
            hparams,
            *rows,
            run.loss(),
            architecture,
            weights,
            buffers,
            moments,
            epochs,
        )

    def _architecture(
        self,
        hparams: Mapping[str, Any],
        model: nn.Module,
        fresh: Callable[[], nn.Module],
        inputs: Tensor,
    ) -> Architecture:
        """Return the architecture of the model; it is created once for all equal models."""
        model_skeleton = skeleton(model)
        for known_hparams, architecture in self._architectures:
            if known_hparams == hparams or architecture.skeleton == model_skeleton:
                return architecture
        architecture = architecture_of(fresh, inputs, self._task.precision)
        self._architectures.append((dict(hparams), architecture))
        return architecture

    def _parts(self) -> list[Members]:
        """Return groups of members that are trained in one step: same kind, at most `at_once`."""
        kinds: dict[Any, list[Member]] = {}
        for member in self._members:
            kinds.setdefault(member.kind, []).append(member)
        return [part for kind in kinds.values() for part in in_groups(kind, self.at_once)]

    def _train(
        self, members: Members, stack: "Stack | None"
    ) -> tuple["Stack | None", Sequence[Outcome] | None]:
        """Train members for one epoch; return their stack and outcomes.

        The outcomes are None if the step failed and must be repeated with fewer members.
        """
        before = list[Tensor]()
        try:
            with restored_random_state(members[0].run.device):
                stack = stack or Stack(members)
                before = stack.copy_tensors() if len(members) > 1 else []
                return stack, stack.epoch(self._task)
        except Exception as error:
            if len(members) == 1:
                return None, [error]
            if stack is not None:
                stack.restore(before)
            self._fewer(len(members), error)
            return None, None

    def _fewer(self, tried: int, error: Exception) -> None:
        """Halve `at_once` if memory ran out."""
        if is_out_of_memory(error):
            self.at_once = max(1, tried // 2)
            _log.warning(
                "out of memory with %d trials in one step; continuing with %d",
                tried,
                self.at_once,
            )

    def _smaller(self, members: Members) -> list[Members]:
        # Another exception was raised by one of the members; training each alone shows by which.
        size = self.at_once if self.at_once < len(members) else 1
        return list(in_groups(members, size))


def train_or_resume(task: Task, run: TrainingRun) -> Iterator[Evaluation]:
    """Train a task once, in a pack if the run's state was saved in a pack, else in the loop."""
    return train_packed(task, run) if is_packed(run) else train(task, run)


def is_packed(run: TrainingRun) -> bool:
    """Return whether a run resumes from a state that was saved in a pack."""
    return run.state is not None and bool(run.state.get(PACKED))


def train_packed(task: Task, run: TrainingRun) -> Iterator[Evaluation]:
    """Train a task once, like `train`, with results bitwise equal to those in a pack.

    Raises `Unstackable` if the model cannot be stacked, and the exceptions of `train`.
    """
    pack = Pack(task, 1)
    member = pack.join(run)
    while member.epochs < task.epochs:
        for _, outcome in pack.epoch():
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


def in_groups(members: Sequence[Member], size: int) -> Iterator[Members]:
    """Yield members in groups of at most `size`."""
    remaining = iter(members)
    while part := tuple(islice(remaining, size)):
        yield part
