"""Trainers: do the training runs that a worker starts, and report their results."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch

from sweeper.training.conversion import describe
from sweeper.training.directory import prepare_directory
from sweeper.training.failures import TrainingFailed, training_failure
from sweeper.training.loop import train
from sweeper.training.messages import FromTrainer, Reply, Report, Start, ToTrainer, TrainingEnd
from sweeper.training.packed.pack import Outcome, Pack, train_packed
from sweeper.training.packed.stack import Member
from sweeper.training.packed.stacking import Unstackable
from sweeper.training.reporting import Exchange, FunctionReporter, Reporter
from sweeper.training.run import Evaluation, TrainingRun, running
from sweeper.training.task import Task

# Returns what determines the bits of a result on a device, as text.
Environment = Callable[[torch.device], Mapping[str, str]]

# Iterables that contain values, not evaluations, such as a dict of scores.
_VALUES: Final = (Mapping, str, bytes, np.ndarray, torch.Tensor)

_log = logging.getLogger(__name__)


class FunctionTrainer:
    """Calls the user's training function once per run.

    The function calls `run.report`, yields `Evaluation` objects, or returns an iterator of them.
    If it runs in a separate process (`isolated`), a KeyboardInterrupt was raised by the function
    itself and fails the run like any other exception.
    """

    def __init__(
        self,
        function: Callable[[TrainingRun], object],
        options: Mapping[str, Any],
        environment: Environment,
        *,
        isolated: bool,
    ) -> None:
        self._function, self._options = function, options
        self._environment = environment
        self._caught = BaseException if isolated else (Exception, SystemExit)

    def train(self, message: ToTrainer, exchange: Exchange, *, at_once: int = 1) -> None:
        """Do the runs of a message and the runs that are started by the answers."""
        waiting = list(message.starts)
        while waiting:
            ending = self._train_run(waiting.pop(0), exchange)
            waiting += exchange(FromTrainer(endings=[ending])).starts

    def _train_run(self, start: Start, exchange: Exchange) -> TrainingEnd:
        try:
            reporter = FunctionReporter(
                start, self._options, self._environment, exchange, checks_state=True
            )
        except Exception as error:
            return _not_begun(start, error)
        if start.directory is not None:
            directory = Path(start.directory)
            prepare_directory(directory, start.identity, first_claim=start.claim == 1)
        reporter.begin()
        try:
            with running(reporter.run):
                call_function(partial(self._function, reporter.run), reporter)
                return reporter.training_end()
        except self._caught as error:
            return reporter.training_end(error)


class Reported(Protocol):
    """Receives the evaluations of a training function; `reported` is whether it has any."""

    @property
    def reported(self) -> bool: ...

    def report(self, evaluation: Evaluation) -> None: ...


def call_function(
    function: Callable[[], object], reports: Reported, *, must_report: bool = True
) -> None:
    """Call a training function, and report the evaluations that it yields or returns."""
    returned = function()
    if not isinstance(returned, Iterator) and (reports.reported or not must_report):
        return  # it used run.report, so its return value is ignored
    if not isinstance(returned, Iterable) or isinstance(returned, _VALUES):
        raise TrainingFailed(
            f"the training function returned {describe(returned)} and reported nothing; after each "
            "epoch call run.report or yield an Evaluation, or return an iterator of Evaluations"
        )
    evaluations = iter(returned)
    try:
        for evaluation in evaluations:
            reports.report(evaluation)
    finally:
        close = getattr(evaluations, "close", None)
        if close is not None:
            close()


@dataclass(eq=False)
class _Place:
    """A run in progress: either a member of the pack or a loop that trains it alone."""

    reporter: Reporter
    member: Member | None = None
    alone: Iterator[Evaluation] | None = None


class TaskTrainer:
    """Trains runs of a task: runs that can be stacked in a pack, the others alone."""

    def __init__(self, task: Task, environment: Environment) -> None:
        self._task, self._environment = task, environment
        self._pack: Pack | None = None
        self._places: list[_Place] = []
        self._warnings = set[str]()

    def train(self, message: ToTrainer, exchange: Exchange, *, at_once: int = 1) -> None:
        """Do the runs of a message and the runs that are started by the answers.

        At most `at_once` runs are trained in one step; 0 trains each run alone.
        """
        self._pack = None if at_once == 0 else self._pack or Pack(self._task, at_once)
        endings = self._begin(message.starts, exchange)
        while self._places or endings:
            if endings:
                endings = self._begin(exchange(FromTrainer(endings=endings)).starts, exchange)
                continue
            reports, endings = self._epoch()
            if reports:
                answer = exchange(FromTrainer(reports))
                endings += self._follow(answer.replies)
                endings += self._begin(answer.starts, exchange)

    def _begin(self, starts: Sequence[Start], exchange: Exchange) -> list[TrainingEnd]:
        """Add runs; return the ends of those that cannot be trained."""
        endings = []
        for start in starts:
            try:
                reporter = Reporter(start, {}, self._environment, exchange, checks_state=False)
            except Exception as error:
                endings.append(_not_begun(start, error))
                continue
            try:
                self._places.append(self._place_run(reporter))
            except Exception as error:
                endings.append(reporter.training_end(error))
        return endings

    def _place_run(self, reporter: Reporter) -> _Place:
        """Return the place of a run: in the pack if possible, otherwise alone."""
        start, run = reporter.start, reporter.run
        if start.packed:
            reporter.packed = True
            return _Place(reporter, alone=train_packed(self._task, run))
        # A run that was started alone must resume alone to get the same bits.
        started_alone = run.state is not None and not reporter.packed
        if self._pack is not None and start.packed is None and not started_alone:
            try:
                member = self._pack.join(run)
            except Unstackable as error:
                self._warn_once(f"trained alone, not in a pack: {error}")
            else:
                reporter.packed = True
                return _Place(reporter, member=member)
        loop = train_packed if reporter.packed else train
        return _Place(reporter, alone=loop(self._task, run))

    def _epoch(self) -> tuple[list[Report], list[TrainingEnd]]:
        """Train all runs for one epoch; return the reports and the ends of failed runs."""
        reports, endings = list[Report](), list[TrainingEnd]()
        for place, outcome, seconds in self._outcomes():
            place.reporter.add_seconds(seconds)
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                reports.append(place.reporter.make_report(outcome))
            except Exception as error:
                self._leave(place)
                endings.append(place.reporter.training_end(error))
        return reports, endings

    def _outcomes(self) -> Iterator[tuple[_Place, Outcome, float]]:
        """Train each run for one epoch; yield its outcome and the seconds that it took."""
        members = {place.member: place for place in self._places if place.member is not None}
        if self._pack is not None and members:
            began = time.perf_counter()
            outcomes = list(self._pack.epoch())
            share = (time.perf_counter() - began) / len(outcomes)
            for member, outcome in outcomes:
                yield members[member], outcome, share
        for place in [place for place in self._places if place.alone is not None]:
            began = time.perf_counter()
            yield place, _next(place.alone), time.perf_counter() - began

    def _follow(self, replies: Mapping[str, Reply]) -> list[TrainingEnd]:
        """Follow the replies to the reports of an epoch; return the ends of runs that stop."""
        endings = []
        for place in list(self._places):
            reporter = place.reporter
            try:
                reporter.follow(replies.get(reporter.start.key, Reply("drop")))
            except Exception as error:
                self._leave(place)
                endings.append(reporter.training_end(error))
                continue
            if reporter.progress == 1.0:
                self._leave(place)
                endings.append(reporter.training_end())
        return endings

    def _leave(self, place: _Place) -> None:
        self._places.remove(place)
        if place.member is not None and self._pack is not None:
            self._pack.leave(place.member)

    def _warn_once(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.add(text)
            _log.warning("%s", text)


def _next(alone: Iterator[Evaluation] | None) -> Outcome:
    assert alone is not None
    try:
        return next(alone)
    except Exception as error:
        return error


def _not_begun(start: Start, error: Exception) -> TrainingEnd:
    """Return the end of a run that could not be set up."""
    failed = training_failure(error, torch.device("cpu"))
    return TrainingEnd(start.key, "failed", failure=str(failed), cause=failed.cause)
