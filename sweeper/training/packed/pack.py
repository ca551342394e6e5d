"""Many runs of a task trained in one vectorised step, each as if it were alone.

What a member of a pack becomes does not depend, to the last bit, on how many others there are
or on its place among them: each has its own row in every stacked tensor, randomness follows
from its own (seed, epoch, step), and no sum runs over two members.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn

from sweeper.training.device import is_out_of_memory
from sweeper.training.dropout import share_draws
from sweeper.training.loop import fresh_model, rows_on, train
from sweeper.training.packed.stack import PACKED, Member, Stack
from sweeper.training.packed.stacking import Architecture, architecture_of, skeleton
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.seeding import own_randomness
from sweeper.training.task import Task
from sweeper.training.updates import moments_of, restored

_log = logging.getLogger(__name__)

# What an epoch gives for a member: its evaluation, or what its training raised.
Given = Evaluation | Exception
Members = tuple[Member, ...]


class Pack:
    """Runs of one task that are trained together, epoch by epoch; between them any come and go.

    At most `at_once` are trained in one step, half as many from where memory did not suffice.
    Members whose models or splits differ in shape are trained one kind after the other.
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
        """Take a run in, at its start or where its state says, and return its place.

        Raises `Unstackable` where it has to be trained alone, and what its task raises.
        """
        with own_randomness(run.device):
            member = self._member(run)
        self._members.append(member)
        return member

    def leave(self, member: Member) -> None:
        """Take a member out: it has come to its end, or is not to."""
        self._members.remove(member)

    def epoch(self) -> Iterator[tuple[Member, Given]]:
        """Train every member for an epoch, and yield what came of each.

        A member may leave, and what its evaluation gives be asked for, until the next epoch.
        """
        stacked, self._stacks = self._stacks, {}
        waiting = self._parts()
        while waiting:
            members, *waiting = waiting
            stack, given = self._trained(members, stacked.get(members))
            if given is None:
                waiting = [*self._smaller(members), *waiting]
                continue
            if stack is not None:
                self._stacks[members] = stack
            yield from zip(members, given, strict=True)

    def _member(self, run: TrainingRun) -> Member:
        task = self._task
        settings, hparams = task.settings(run.hparams)
        train, valid, test = rows_on(task, run.data_seed, run.device)
        fresh = partial(fresh_model, task, hparams, run)
        model = fresh()
        share_draws(model)
        architecture = self._architecture(hparams, model, fresh, train[0])
        names = architecture.parameters
        if run.state is not None:
            model.load_state_dict(run.state["model"])
        weights, buffers = architecture.taken(model)
        moments, epochs = moments_of(settings, weights), 0
        if run.state is not None:
            history, epochs = run.state["optimiser"]["state"], int(run.state["epochs"])
            restored(moments, history, architecture.layout, names)
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
        """Return how the model is stacked, found out once for all that are alike."""
        bones = skeleton(model)
        for known, architecture in self._architectures:
            if known == hparams or architecture.skeleton == bones:
                return architecture
        found = architecture_of(fresh, inputs)
        self._architectures.append((dict(hparams), found))
        return found

    def _parts(self) -> list[Members]:
        """Return the members as they are trained together: of one kind, and not too many."""
        kinds: dict[Any, list[Member]] = {}
        for member in self._members:
            kinds.setdefault(member.kind, []).append(member)
        return [part for kind in kinds.values() for part in batched(kind, self.at_once)]

    def _trained(
        self, members: Members, stack: "Stack | None"
    ) -> tuple["Stack | None", Sequence[Given] | None]:
        """Return what an epoch gave members; None where it has to be tried with fewer."""
        before = list[Tensor]()
        try:
            with own_randomness(members[0].run.device):
                stack = stack or Stack(members)
                before = stack.copied() if len(members) > 1 else []
                return stack, stack.epoch(self._task)
        except Exception as error:
            if len(members) == 1:
                return None, [error]
            if stack is not None:
                stack.restore(before)
            self._fewer(len(members), error)
            return None, None

    def _fewer(self, tried: int, error: Exception) -> None:
        """Train half as many from now on, where memory did not suffice."""
        if is_out_of_memory(error):
            self.at_once = max(1, tried // 2)
            _log.warning(
                "memory does not suffice for %d trials in one step; from here on for %d",
                tried,
                self.at_once,
            )

    def _smaller(self, members: Members) -> list[Members]:
        # What one of them raised is that one's failure: found by training each alone.
        size = self.at_once if self.at_once < len(members) else 1
        return list(batched(members, size))


def train_as_begun(task: Task, run: TrainingRun) -> Iterator[Evaluation]:
    """Train a task once: as one of a pack where the run's state is one's, else by the loop."""
    return train_packed(task, run) if is_packed(run) else train(task, run)


def is_packed(run: TrainingRun) -> bool:
    """Return whether a run goes on from a state that a pack gave."""
    return run.state is not None and bool(run.state.get(PACKED))


def train_packed(task: Task, run: TrainingRun) -> Iterator[Evaluation]:
    """Train a task once, as `train` does, with the bits of any pack that it might be in.

    Raises `Unstackable` where the model has to be trained by itself, and what `train` does.
    """
    pack = Pack(task, 1)
    member = pack.join(run)
    while member.epochs < task.epochs:
        for _, given in pack.epoch():
            if isinstance(given, Exception):
                raise given
            yield given


def batched(members: Sequence[Member], size: int) -> Iterator[Members]:
    """Yield members in parts of at most a size."""
    left = iter(members)
    while part := tuple(islice(left, size)):
        yield part
