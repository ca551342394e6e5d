"""One training of a confirmation: no trial of Optuna's, its result in a table of its own."""

from sweeper.confirmation.design import Examined, assignment, examined
from sweeper.store.database import Store
from sweeper.store.records import Result, close_ticket, write_replicate
from sweeper.store.tickets import Ticket
from sweeper.study.objective import Epoch, Followed
from sweeper.worker.leases import Vigil
from sweeper.worker.open_study import OpenStudy
from sweeper.worker.stopping import StopRequest
from sweeper.worker.trial_files import Checkpoints
from sweeper.worker.watched import Attempt, Course, replicate_run, result_of, train


def run_replicate(
    study: OpenStudy, ticket: Ticket, stop: StopRequest, vigil: Vigil
) -> Followed[None]:
    """Bring a claimed ticket of a confirmation to its end; raises as `run_ticket` does."""
    checkpoints = Checkpoints(study.files, ticket)
    attempt = Attempt(study, ticket, stop, vigil, checkpoints)
    yield from _Replicate(attempt).run()
    close_ticket(study.store, ticket)
    checkpoints.discard()


class _Replicate:
    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._found = Examined({}, {}, b"")

    def run(self) -> Followed[None]:
        attempt = self._attempt
        if attempt.lost:
            self._write(attempt.study.store, Result(failure=attempt.lost, cause="lost"))
            return
        course = Course(_never, _never, self._examine, self._failed)
        study, one = attempt.study, assignment(attempt.ticket.point or {})
        run = replicate_run(study.file.spec, one, study.device)
        outcome = yield from train(attempt, run, course)
        self._write(attempt.study.store, result_of(attempt.study, outcome))

    def _examine(self, epoch: Epoch) -> None:
        self._found = examined(epoch)

    def _failed(self, store: Store, result: Result) -> None:
        self._found = Examined({}, {}, b"")
        self._write(store, result)
        close_ticket(store, self._attempt.ticket)

    def _write(self, store: Store, result: Result) -> None:
        found = self._found
        write_replicate(
            store, self._attempt.ticket, result, found.scores, found.rows, found.examples
        )


def _never(_: object) -> bool:
    return False
