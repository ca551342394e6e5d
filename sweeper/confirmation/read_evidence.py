"""Read the results of a confirmation and store the summary of a complete one."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.design import Assignment, assignment
from sweeper.confirmation.evidence import Evidence, EvidenceSummary, Replicate
from sweeper.confirmation.examples import Floats, unpack_examples
from sweeper.errors import SweeperError
from sweeper.store.confirmations import last_confirmation, store_summary
from sweeper.store.damage import reports_damage
from sweeper.store.database import Store
from sweeper.store.records import (
    count_other_confirmations,
    read_examples,
    read_replicates,
    read_results,
)
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import planned_points
from sweeper.study.frames import failure_summary
from sweeper.study.spec import ConfirmSection, StudySpec
from sweeper.training.messages import EXAMPLE_VALUES


@dataclass(frozen=True)
class StoredScores:
    """The stored result of a replicate: scores and rows by split, and packed test examples."""

    scores: Mapping[str, Mapping[str, float | None]]
    rows: Mapping[str, int]
    examples: bytes


def replicate_of(
    run: Assignment, stored: StoredScores, failure: str = "", seconds: float = 0.0
) -> Replicate:
    """Return the replicate of a training run from its stored result."""
    examples = unpack_examples(stored.examples) if stored.examples else {}
    return _replicate(run, stored.scores, stored.rows, examples, (failure, seconds))


@reports_damage
def read_evidence(
    store: Store, record: StudyRecord, spec: StudySpec, labels: Mapping[str, str]
) -> Evidence | None:
    """Return the results of the latest confirmation so far; None if there is no confirmation.

    The test examples are read from the database when they are first used.
    """
    last = last_confirmation(store, record)
    if last is None or last.reason:
        return None
    points = planned_points(store, record, last.phase)
    results = read_results(store, record, last.phase)
    stored = read_replicates(store, record, last.phase)
    examples = _AllExamples(store, record, last.phase)
    evidence = Evidence(
        number=last.number,
        metric=spec.objective.metric,
        settings=ConfirmSection(**last.settings, minimum_effect=spec.confirm.minimum_effect),
        candidates=[Candidate(**candidate) for candidate in last.candidates],
        replicates=[
            _replicate(
                assignment(points[number]),
                stored[number]["scores"],
                stored[number]["rows"],
                _Examples(examples, number) if stored[number]["size"] else {},
                (result.failure, result.seconds),
            )
            for number, result in results.items()
            if number in stored
        ],
        labels=labels,
        earlier=count_other_confirmations(store, record, last.phase),
    )
    if not evidence.complete:
        return evidence
    summary = last.summary
    if summary is not None and summary["of"] == _fingerprint(evidence):
        return replace(evidence, summary=EvidenceSummary.from_dict(summary["found"]))
    return replace(evidence, summary=EvidenceSummary.from_evidence(evidence))


def store_evidence_summary(store: Store, record: StudyRecord, evidence: Evidence) -> None:
    """Store the summary of a complete confirmation, so that it is computed only once."""
    last = last_confirmation(store, record)
    if evidence.summary is None or last is None or last.number != evidence.number:
        return
    fingerprint = _fingerprint(evidence)
    if last.summary is None or last.summary["of"] != fingerprint:
        summary = {"of": fingerprint, "found": evidence.summary.to_dict()}
        store_summary(store, record, evidence.number, summary)


def _fingerprint(evidence: Evidence) -> str:
    """Return a hash that changes with the replicates, the metric and `EvidenceSummary.VERSION`."""
    rows = [
        (each.candidate, each.number, each.seed, each.scores, each.failure)
        for each in evidence.replicates
    ]
    text = json.dumps([EvidenceSummary.VERSION, evidence.metric, rows], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _replicate(
    run: Assignment,
    scores: Mapping[str, Mapping[str, float | None]],
    rows: Mapping[str, int],
    examples: Mapping[str, Floats],
    outcome: tuple[str, float],
) -> Replicate:
    failure, seconds = outcome
    return Replicate(
        run.candidate,
        run.replicate,
        run.seed,
        scores,
        rows,
        examples,
        failure_summary(failure),
        seconds,
    )


@dataclass(frozen=True, eq=False)
class _AllExamples:
    """The test examples of a confirmation, read on first use."""

    store: Store
    record: StudyRecord
    phase: str

    @cached_property
    def packed(self) -> dict[int, bytes]:
        return read_examples(self.store, self.record, self.phase)


class _Examples(Mapping[str, Floats]):
    """The test examples of one training run, unpacked on first use."""

    def __init__(self, all_examples: _AllExamples, number: int) -> None:
        self._all, self._number = all_examples, number

    @cached_property
    def _values(self) -> dict[str, Floats]:
        packed = self._all.packed.get(self._number)
        if packed is None:
            raise SweeperError("the test examples of this confirmation are no longer stored")
        return unpack_examples(packed)

    def __getitem__(self, name: str) -> Floats:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(EXAMPLE_VALUES)

    def __len__(self) -> int:
        return len(EXAMPLE_VALUES)
