"""The main loop of a worker: claim tickets of one or all studies and run their trials."""

import gc
import logging
import selectors
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from sweeper.confirmation.design import due_confirmation, finished
from sweeper.store.confirmations import Confirmation
from sweeper.store.database import Store
from sweeper.store.records import fail_study
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, ClaimTerms, Ticket, claim, count_open
from sweeper.store.usage import HourLimits, SlotUse
from sweeper.study.patience import patience_exceeded
from sweeper.study.resources import slot_cores
from sweeper.study.space import baseline_point
from sweeper.trainers.channel import Interrupted
from sweeper.trainers.client import shared_zygote
from sweeper.training.messages import Start
from sweeper.worker.attempt import Attempt, run_fields
from sweeper.worker.code import LoadedCode
from sweeper.worker.gpus import GpuPool, GpuShare
from sweeper.worker.identity import worker_name
from sweeper.worker.leases import Leases, renewed_leases
from sweeper.worker.open_study import OpenStudy
from sweeper.worker.replicate import ReplicateTrial
from sweeper.worker.search import SearchTrial
from sweeper.worker.served_studies import EndReason, ServedStudies, WorkerOptions
from sweeper.worker.slots import SlotWork
from sweeper.worker.stopping import StopRequest
from sweeper.worker.trainer_slot import ProcessSlot, SlotSettings

# Seconds between polls: for tickets while there are none, and for the state of running trials.
IDLE_SECONDS: Final = 0.5
# If a wait takes this much longer than requested, the machine or its processes were suspended.
SUSPENDED_SECONDS: Final = 5.0
# Maximum number of sampled points whose results are pending, over all workers: absolute, and as a
# fraction of the budget. docs/explanation/search.md describes the cost of more.
MAX_SAMPLED: Final = 32
SAMPLED_SHARE: Final = 1 / 8

# A study fails after this many trials failed in the same way and none has finished.
MAX_SAME_FAILURES: Final = 5

_log = logging.getLogger(__name__)

T = TypeVar("T")


def work(
    store: Store,
    options: WorkerOptions,
    stop: StopRequest,
    on_finished: Callable[[str], None] | None = None,
) -> EndReason:
    """Run trials until a limit of the options is reached or a stop is requested.

    `on_finished` is called with the name of each finished study that this worker has trained for.
    Raises `SweeperError` if the options name a study that cannot run on this machine.
    """
    with ExitStack() as stack:
        leases = stack.enter_context(renewed_leases(store))
        stack.enter_context(_unfrozen_imports())
        if options.slots != 0:
            stack.enter_context(shared_zygote(start=True))
        arrays = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-")))
        worker = _Worker(store, options, stop, leases, arrays, on_finished)
        stack.callback(worker.close)
        return worker.run()


class _Worker:
    def __init__(
        self,
        store: Store,
        options: WorkerOptions,
        stop: StopRequest,
        leases: Leases,
        arrays: Path,
        on_finished: Callable[[str], None] | None,
    ) -> None:
        self._store, self._options, self._stop, self._leases = store, options, stop, leases
        self._on_finished = on_finished
        self._trained: dict[str, OpenStudy] = {}
        self._studies = ServedStudies(store, options, arrays, stop)
        self._name = worker_name(self._studies.slots)
        self._sizes: dict[StudyRecord, int] = {}
        self._running = 0
        self._done = 0
        self._busy_until = time.monotonic()
        # When to look for tickets again: for idle slots, and for packs with free places.
        self._look_at = self._prepare_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._slots: list[ProcessSlot | None] = [None] * self._studies.slots
        self._gpus = GpuPool(self._studies.gpus, self._studies.slots)

    # ---- the loop ------------------------------------------------------------------------

    def run(self) -> EndReason:
        try:
            while True:
                busy = not self._stop and (self._find_work() or self._prepare_one())
                if not (busy or self._running or self._finishing()):
                    ended = EndReason.STOPPED if self._stop else self._end_reason()
                    if ended is not None:
                        return ended
                self._wait(0.0 if busy else IDLE_SECONDS)
        except KeyboardInterrupt:
            for slot in self._open_slots():
                slot.close()
                slot.slot.release()
            raise

    def close(self) -> None:
        """Stop all trainers."""
        for slot in self._open_slots():
            self._for_slot(slot, slot.close)
        self._studies.close()
        self._selector.close()

    def _open_slots(self) -> list[ProcessSlot]:
        return [slot for slot in self._slots if slot is not None]

    def _find_work(self) -> bool:
        """Claim tickets for all idle slots; return whether any was claimed."""
        if self._studies.slots == 0:
            return self._work_here()
        if time.monotonic() < self._look_at:
            return False
        idle = [n for n, slot in enumerate(self._slots) if slot is None or slot.idle]
        any_started = False
        # Slots with prepared trials first: the loop ends at the first slot without a ticket.
        for number in sorted(idle, key=lambda number: not self._has_prepared(number)):
            if not self._start_work(number):
                self._look_at = time.monotonic() + IDLE_SECONDS
                break
            any_started = True
        return any_started

    def _has_prepared(self, number: int) -> bool:
        slot = self._slots[number]
        return slot is not None and slot.slot.has_prepared

    def _prepare_one(self) -> bool:
        """Prepare a trial for a pack with a free place; return whether one was prepared."""
        if self._slots and time.monotonic() >= self._prepare_at:
            if any(self._for_slot(slot, slot.prepare) for slot in self._open_slots()):
                return True
            self._prepare_at = time.monotonic() + IDLE_SECONDS
        return False

    def _finishing(self) -> bool:
        """Return whether a trainer is about to exit, which frees its slot."""
        return any(not slot.idle for slot in self._open_slots())

    def _wait(self, seconds: float) -> None:
        """Wait up to `seconds` for messages of trainers and handle them; then check for hangs."""
        if not self._open_slots():
            return
        before = time.monotonic()
        events = self._selector.select(seconds)
        late = time.monotonic() - before - seconds
        if late > SUSPENDED_SECONDS:
            for slot in self._open_slots():
                slot.exclude_suspension(late)
        for key, _ in events:
            slot, read = key.data
            if slot in self._slots:
                self._for_slot(slot, read)
        for slot in self._open_slots():
            if slot in self._slots:
                self._for_slot(slot, slot.check)
            if slot.closed and not slot.slot.attempts:
                self._close(slot)

    def _end_reason(self) -> EndReason | None:
        """Return why the worker should stop; otherwise wait a moment and return None."""
        if self._done == self._options.trials:
            return EndReason.TRIAL_LIMIT
        self._report_finished()
        ended = self._studies.end_reason()
        if ended is not None:
            return ended
        limit = self._options.idle
        if limit is not None and time.monotonic() - self._busy_until >= limit:
            return EndReason.IDLE
        if not self._studies.revoke_dead_leases():
            self._stop.wait(IDLE_SECONDS)
        self._studies.refresh()
        self._leave_finished_studies()
        return None

    def _leave_finished_studies(self) -> None:
        """Stop the trainers and the servers of studies that are no longer served."""
        served = self._studies.to_serve()
        for slot in self._open_slots():
            if slot.slot.study not in served:
                self._close(slot)
        self._studies.close_others()

    # ---- studies that fail ---------------------------------------------------------------

    def _for_slot(self, slot: ProcessSlot, work: Callable[[], T]) -> T | None:
        """Call `work` for a slot; if it fails, stop serving the study and return None."""
        with self._studies.guard(slot.slot.study.record):
            return work()
        self._leave(slot.slot.study.record)
        return None

    def _leave(self, record: StudyRecord) -> None:
        """Close all slots of a study that can no longer be served."""
        for slot in self._open_slots():
            if slot.slot.study.record.id == record.id:
                self._slots[self._slots.index(slot)] = None
                slot.abandon()
        self._trained.pop(record.name, None)
        self._studies.close_others()

    def _close(self, slot: ProcessSlot) -> None:
        self._for_slot(slot, slot.close)
        if slot in self._slots:
            self._slots[self._slots.index(slot)] = None

    # ---- slots ---------------------------------------------------------------------------

    def _work_here(self) -> bool:
        """Train in this process until no ticket can be claimed; return whether one was trained."""
        from sweeper.worker.in_process import (
            InProcessSlot,
        )  # imported here because it imports torch

        for study, code in self._served_studies():
            size = self._size(study, code)
            share = self._gpus.take(study.spec) or GpuShare()
            slot = InProcessSlot(code, self._work(study, size, share))
            try:
                with self._studies.guard(study.record):
                    if slot.work(size):
                        return True
                    continue
            finally:
                self._gpus.give_back(share)
            slot.slot.abandon()
            self._leave(study.record)
        return False

    def _start_work(self, number: int) -> bool:
        """Let a slot train for the oldest study with tickets; return False if there is none."""
        for study, code in self._served_studies():
            with self._studies.guard(study.record):
                slot = self._slots[number]
                if slot is None or slot.slot.study is not study or slot.code is not code:
                    try:
                        slot = self._slot(number, study, code)
                    except Interrupted:
                        return False
                if slot is None:  # other slots use the GPUs
                    continue
                if slot.begin():
                    return True
                continue
            self._leave(study.record)
        return False

    def _slot(self, number: int, study: OpenStudy, code: LoadedCode) -> ProcessSlot | None:
        """Return a new slot for a study; close the slot that it replaces.

        Returns None if other slots use the GPUs that the study needs.
        """
        before = self._slots[number]
        if before is not None:
            self._close(before)
        make = partial(self._make_slot, number, study, code)
        if study.record not in self._sizes:
            self._sizes[study.record] = self._size(study, code, make)
        slot = self._slots[number] = make(self._sizes[study.record])
        return slot

    def _make_slot(
        self, number: int, study: OpenStudy, code: LoadedCode, size: int
    ) -> ProcessSlot | None:
        share = self._share(study)
        if share is None:
            return None
        name = f"trainer-{self._name.replace(':', '-')}-{number}"
        on_close = partial(self._gpus.give_back, share)
        place = SlotSettings(name, share.environment, on_close, self._selector, self._stop)
        return ProcessSlot(code, size, place, self._work(study, size, share))

    def _share(self, study: OpenStudy) -> GpuShare | None:
        """Return the GPUs of a new slot; close idle slots of other studies if there are too few."""
        share = self._gpus.take(study.spec)
        for slot in self._open_slots() if share is None else []:
            if slot.idle and slot.slot.study is not study:
                self._close(slot)
        return share or self._gpus.take(study.spec)

    def _work(self, study: OpenStudy, size: int, share: GpuShare) -> SlotWork:
        # The trials of a pack get their shares when they begin.
        use = SlotUse(slot_cores(study.spec), share.gpus, share=1.0 if size <= 1 else 0.0)
        claim = partial(self._next_attempt, study, use)
        return SlotWork(study, max(1, size), claim, self._on_attempt_end)

    def _size(
        self,
        study: OpenStudy,
        code: LoadedCode,
        make: Callable[[int], ProcessSlot | None] | None = None,
    ) -> int:
        """Return the number of trials trained in one step, 0 to train each trial alone."""
        spec, requested = study.spec, study.spec.budget.pack
        if not code.facts.is_task or requested == "off":
            return 0
        if requested != "auto":
            return requested
        if code.program is not None and study.record in self._sizes:
            return self._sizes[study.record]
        point = baseline_point(spec.space, code.facts.defaults)
        first = Start("size", **run_fields(spec, point), device=spec.task.device)
        if code.program is not None:
            size, reason = code.program.pack_size(first, spec.budget.trials)
        else:
            assert make is not None
            slot = make(0)
            if slot is None:
                return 0
            try:
                size, reason = slot.size(first, spec.budget.trials)
            finally:
                slot.close()
        _log.info("%s", reason)
        self._sizes[study.record] = size
        return size

    def _served_studies(self) -> Iterator[tuple[OpenStudy, LoadedCode]]:
        """Yield the studies that this worker can work on, oldest first, with their code."""
        for study in self._studies.to_serve():
            code = self._studies.code(study)
            if code is not None:
                yield study, code

    # ---- tickets -------------------------------------------------------------------------

    def _on_attempt_end(self, attempt: Attempt) -> None:
        self._leases.drop(attempt.ticket)
        self._running -= 1
        self._look_at = self._prepare_at = 0.0
        if attempt.decided in ("released", "lost"):
            return
        study = attempt.study
        self._done += 1
        self._trained[study.record.name] = study
        self._busy_until = time.monotonic()
        if attempt.decided == "failed":
            self._fail_if_same_failure(study)
        if attempt.ticket.phase == SEARCH:
            # At once, because this may be the last worker and stop now.
            self._due_confirmation(study)

    def _next_attempt(self, study: OpenStudy, use: SlotUse, held: int) -> Attempt | None:
        """Claim a ticket of the search, or of the confirmation when the search has ended.

        `held` is the number of attempts in the slot. A slot claims no more than its share.
        """
        if self._stop or self._done + self._running == self._options.trials:
            return None
        ticket = self._ticket(study, use, held)
        if ticket is None:
            return None
        self._running += 1
        self._leases.hold(ticket)
        record = SearchTrial if ticket.phase == SEARCH else ReplicateTrial
        return Attempt(study, ticket, record(study, ticket), partial(self._stopping, study))

    def _stopping(self, study: OpenStudy) -> bool:
        changed = study.sources.problem is not None
        return changed or bool(self._stop) or self._leases.interrupted(study.record.id)

    def _ticket(self, study: OpenStudy, use: SlotUse, held: int) -> Ticket | None:
        store, record, budget = self._store, study.record, study.spec.budget
        if not patience_exceeded(store, record.name, budget.patience):
            terms = ClaimTerms(use=use, limits=HourLimits(budget.core_hours, budget.gpu_hours))
            ticket = self._claim(record, (SEARCH, budget.trials), terms, held)
            if ticket is not None:
                return ticket
        due = self._due_confirmation(study)
        if due is None:
            return None
        return self._claim(record, (due.phase, due.training_runs), ClaimTerms(use=use), held)

    def _claim(
        self, study: StudyRecord, tickets: tuple[str, int], terms: ClaimTerms, held: int
    ) -> Ticket | None:
        """Claim one of `tickets`: their phase, and the number that they are below."""
        phase, below = tickets
        take = partial(claim, self._store, study.id, self._name, below=below, phase=phase)
        if held == 0:
            return take(terms=terms)
        slots = self._options.workers * max(1, self._studies.slots)
        enough = (held + 1) * slots
        count = partial(count_open, self._store, study.id, below=below, phase=phase)
        if slots == 1 or count(points="planned", most=enough) == enough:
            ticket = take(terms=replace(terms, points="planned"))
            if ticket is not None:
                return ticket
        may_sample = enough <= min(MAX_SAMPLED, SAMPLED_SHARE * below)
        return take(terms=replace(terms, points="sampled")) if may_sample else None

    def _due_confirmation(self, study: OpenStudy) -> Confirmation | None:
        """Return the confirmation that is due; create it if no worker has created it yet."""
        return due_confirmation(self._store, study.record, study.spec)

    def _fail_if_same_failure(self, study: OpenStudy) -> None:
        """Fail a study early if its trials fail in the same way."""
        name = study.record.name
        if fail_study(self._store, study.record, MAX_SAME_FAILURES):
            _log.warning(
                "study %r has failed: %d trials failed in the same way and none has finished. "
                "Fix the cause, then run the trials again with: sweeper retry %s",
                name,
                MAX_SAME_FAILURES,
                name,
            )

    def _report_finished(self) -> None:
        if self._on_finished is None:
            return
        for name, study in list(self._trained.items()):
            with self._studies.guard(study.record):
                if finished(self._store, study.record, study.spec):
                    self._on_finished(name)
                    del self._trained[name]
                continue
            self._leave(study.record)


@contextmanager
def _unfrozen_imports() -> Iterator[None]:
    # `gc.freeze` was called; a notebook needs normal garbage collection again.
    try:
        yield
    finally:
        gc.unfreeze()
