"""A worker's pack: tickets of one study trained in one step, each a trial of its own.

Every ticket keeps its lease, reports, pruning, failure and checkpoint. One that ends leaves its
place to the next ticket, between two epochs.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import StringIO

from sweeper.smoothing import Smoothing
from sweeper.store.tickets import SEARCH, LeaseLost, Ticket, hand_back
from sweeper.study.objective import Failed, Followed, Training, go_on_alone
from sweeper.study.registration import defaults_of
from sweeper.study.space import baseline_point
from sweeper.training.packed.pack import Given, Pack
from sweeper.training.packed.sizing import measured_size
from sweeper.training.packed.stack import Member
from sweeper.training.packed.stacking import Unstackable
from sweeper.training.task import Task
from sweeper.worker.attempt import run_ticket
from sweeper.worker.leases import Leases, Vigil
from sweeper.worker.open_study import OpenStudy
from sweeper.worker.replicate import run_replicate
from sweeper.worker.stopping import StopRequest
from sweeper.worker.watched import Stopped, training_run

_log = logging.getLogger(__name__)


def pack_size(study: OpenStudy) -> int:
    """Return how many trials of a study are trained in one step, 0 for each by itself.

    Measured where the study leaves it open; what a task raises when it is measured is left to
    its trials.
    """
    task, spec = study.file.task.task, study.file.spec
    asked = spec.budget.pack
    if task is None or asked == "off":
        return 0
    if asked != "auto":
        return asked
    first = baseline_point(spec.space, defaults_of(study.file))
    run = replace(training_run(spec, first, study.device), smoothing=Smoothing(0.1, "cosine", 1.0))
    try:
        found = measured_size(task, run, spec.budget.trials)
    except Exception as error:
        _log.info("each trial by itself: the size of a pack could not be measured: %s", error)
        return 0
    _log.info("%s", found.reason)
    return found.size


# Claims a ticket for a pack that has so many tickets already; None where there is none for it.
Claim = Callable[[int], Ticket | None]


@dataclass(eq=False)
class _Place:
    """A ticket that is trained in the pack, from its first epoch to its last."""

    ticket: Ticket
    vigil: Vigil
    trial: Followed[None]
    training: Training
    member: Member
    lease: ExitStack


class TicketPack:
    """The tickets of a study that one worker trains together, `size` at most."""

    def __init__(
        self,
        study: OpenStudy,
        size: int,
        claim: Claim,
        ended: Callable[[Ticket], None],
        leases: Leases,
        stop: StopRequest,
    ) -> None:
        self._study, self._task = study, _task_of(study)
        self._size, self._claim, self._ended = size, claim, ended
        self._leases, self._stop = leases, stop
        self._pack = Pack(self._task, size)
        self._places: list[_Place] = []
        self._said = set[str]()

    def run(self) -> bool:
        """Train tickets until there is none to claim; return whether there was one."""
        try:
            found = self._fill()
            while self._places:
                held = len(self._places)
                self._train()
                if len(self._places) < held:
                    self._fill()
        except KeyboardInterrupt:
            for place in self._places:
                hand_back(self._study.store, place.ticket)
            raise
        finally:
            for place in self._places:
                place.lease.close()
        return found

    def _fill(self) -> bool:
        """Claim tickets for the free places; return whether there was one."""
        found = False
        while not self._stop and len(self._places) < self._size and not self._guarded:
            ticket = self._claim(len(self._places))
            if ticket is None:
                break
            found = True
            self._begin(ticket)
        return found

    @property
    def _guarded(self) -> bool:
        """Whether a ticket is trained that workers have died of: by itself, for the others."""
        return any(place.ticket.attempts > 1 for place in self._places)

    def _begin(self, ticket: Ticket) -> None:
        vigil = Vigil(ticket, self._study.pace, sharing=self._size)
        run = run_ticket if ticket.phase == SEARCH else run_replicate
        trial = run(self._study, ticket, self._stop, vigil)
        with ExitStack() as lease:
            lease.enter_context(self._leases.held(vigil))
            with self._parting(ticket):
                training = next(trial)
                member = self._joined(trial, training)
                if member is not None:
                    kept = lease.pop_all()
                    self._places.append(_Place(ticket, vigil, trial, training, member, kept))
                    return
                with self._resting():
                    go_on_alone(self._study.file.task.trainer, trial, training)
                self._ended(ticket)

    def _joined(self, trial: Followed[None], training: Training) -> Member | None:
        """Return the trial's place in the pack, None where it cannot have one."""
        if training.run.state is not None and not training.packed:
            return None  # begun by the loop of one run, and to have its bits to the end
        try:
            with training.fence():
                member = self._pack.join(training.run)
                training.packed = True
                return member
        except Unstackable as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                _log.warning("trained by itself, not in a pack: %s", error)
            return None
        except Failed as error:
            trial.throw(error)
            raise AssertionError("a failed trial has ended") from error

    def _train(self) -> None:
        """Train all for an epoch, and give each what came of it."""
        began, said = time.perf_counter(), StringIO()
        with Training(self._places[0].training.run, said).fence():
            given = list(self._pack.epoch())
        share = (time.perf_counter() - began) / len(given)
        of = {place.member: place for place in self._places}
        for member, evaluation in given:
            place = of[member]
            place.training.log.write(said.getvalue())
            place.training.seconds += share
            with self._parting(place.ticket, place):
                self._send(place, evaluation)

    def _send(self, place: _Place, given: Given) -> None:
        if isinstance(given, Exception):
            try:
                with place.training.fence():
                    raise given
            except Failed as error:
                place.trial.throw(error)
            return
        place.trial.send(given)
        if place.member.epochs == self._task.epochs:
            place.trial.send(None)

    @contextmanager
    def _parting(self, ticket: Ticket, place: _Place | None = None) -> Iterator[None]:
        """Part with a ticket that comes to an end, of whatever kind, in the block."""
        try:
            yield
        except StopIteration:
            self._leave(place)
            self._ended(ticket)
        except LeaseLost:
            self._leave(place)  # another worker has it; its result is the one that counts
        except Stopped:
            self._leave(place)
            hand_back(self._study.store, ticket)
        except KeyboardInterrupt:
            if place is None:
                hand_back(self._study.store, ticket)
            raise

    def _leave(self, place: _Place | None) -> None:
        if place is None:
            return
        self._places.remove(place)
        self._pack.leave(place.member)
        place.lease.close()

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Let nobody take the others for hanging while a trial is trained by itself."""
        for place in self._places:
            place.vigil.rests()
        yield
        for place in self._places:
            place.vigil.epoch_begins()


def _task_of(study: OpenStudy) -> Task:
    task = study.file.task.task
    if task is None:
        raise ValueError("a training loop of the user's own is always trained by itself")
    return task
