"""Confirming a search: what is trained again is laid out once, and read as evidence."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import optuna
import torch

from sweeper.confirmation.evidence import Evidence, Replicate
from sweeper.confirmation.intervals import Floats
from sweeper.confirmation.shortlist import Candidate, candidates
from sweeper.errors import SweeperError
from sweeper.scoring import examples, score
from sweeper.store.confirmations import Confirmation, last_confirmation, lay_confirmation
from sweeper.store.database import Store
from sweeper.store.records import read_replicates, read_result, read_results
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import Point, all_closed, count_tickets, laid_points
from sweeper.store.trials import count_trials
from sweeper.study.frames import last_line, trials_frame
from sweeper.study.objective import Epoch, Failed
from sweeper.study.patience import out_of_patience
from sweeper.study.spec import Confirm, StudySpec
from sweeper.training.plain import as_tensor, describe
from sweeper.training.run import OtherSplit
from sweeper.training.seeding import derive_seed

# What numpy and torch both take.
_SEEDS: Final = 2**32
_EXAMPLE_VALUES: Final = (
    "nll",
    "nll_calibrated",
    "brier",
    "correct",
    "confidence",
    "confidence_calibrated",
)


@dataclass(frozen=True)
class Assignment:
    """What one ticket of a confirmation trains."""

    candidate: int
    replicate: int
    seed: int
    data_seed: int
    point: Point


@dataclass(frozen=True)
class Examined:
    """What a replicate leaves: scores and rows of each split, the test examples packed."""

    scores: Mapping[str, Mapping[str, float | None]]
    rows: Mapping[str, int]
    examples: bytes


def search_ended(store: Store, record: StudyRecord, spec: StudySpec, study: optuna.Study) -> bool:
    """Return whether no trial of the search will be run any more under its budget."""
    trials = spec.budget.trials
    if all_closed(store, record, trials):
        return True
    patient = not store.call(lambda: out_of_patience(study, spec.budget.patience))
    return not patient and count_tickets(store, record, below=trials).leased == 0


def to_confirm(
    store: Store, record: StudyRecord, spec: StudySpec, study: optuna.Study
) -> Confirmation | None:
    """Return the confirmation that is due, laid out if need be; None while there is none."""
    if not spec.confirm.enabled or not search_ended(store, record, spec, study):
        return None
    found = confirmation_of(store, record, spec)
    return None if found is None or found.reason else found


def finished(store: Store, record: StudyRecord, spec: StudySpec, study: optuna.Study) -> bool:
    """Return whether nothing of the study will be run any more, its confirmation included.

    Writes nothing: a confirmation that is due and not laid out is still to come.
    """
    if not search_ended(store, record, spec, study):
        return False
    if not spec.confirm.enabled:
        return True
    last = current_confirmation(store, record, spec)
    if last is None:
        return False
    return bool(last.reason) or all_closed(store, record, last.trainings, last.phase)


def current_confirmation(store: Store, record: StudyRecord, spec: StudySpec) -> Confirmation | None:
    """Return the confirmation of the search as it stands, or None where it is not laid out."""
    ended = count_trials(store, record.name, below=spec.budget.trials).ended
    last = last_confirmation(store, record)
    same = last is not None and (last.ended, last.settings) == (ended, _settings(spec))
    return last if same else None


def confirmation_of(store: Store, record: StudyRecord, spec: StudySpec) -> Confirmation | None:
    """Return the confirmation of a search that has ended, laid out now if it is not there.

    A search that went on, or other settings, make another one, with seeds of its own. Its
    `reason` says why there is nothing to confirm. None where the study has been deleted.
    """
    current = current_confirmation(store, record, spec)
    if current is not None:
        return current
    last = last_confirmation(store, record)
    number = 1 if last is None else last.number + 1
    lay_confirmation(store, record, *_design(store, record, spec, number))
    return last_confirmation(store, record)


def check_confirmable(store: Store, record: StudyRecord, spec: StudySpec) -> None:
    """Raise `SweeperError` where the search gives nothing to confirm."""
    _chosen(store, record, spec)


def assignment(ticket_point: Mapping[str, Any]) -> Assignment:
    """Return what a ticket of a confirmation trains."""
    return Assignment(**ticket_point)


def fresh(spec: StudySpec, use: str, number: int, chosen: Sequence[Candidate]) -> list[Assignment]:
    """Return every training on fresh seeds of a use, each shared by all candidates.

    Seed by seed: what is cut short has whole pairs.
    """
    made = []
    for replicate in range(spec.confirm.replicates):
        seed, split = (
            derive_seed(spec.study.seed, use, of, number, replicate) % _SEEDS
            for of in ("train", "split")
        )
        data_seed = split if spec.confirm.resplit else spec.study.seed
        made += [
            Assignment(index, replicate, seed, data_seed, candidate.point)
            for index, candidate in enumerate(chosen)
        ]
    return made


def examined(epoch: Epoch) -> Examined:
    """Score the other splits of a training's last evaluation; raises `Failed`.

    The test examples are scaled with the temperature of the validation split.
    """
    evaluation, valid = epoch.evaluation, epoch.scores
    found = {str(name): _asked(evaluation.splits, name) for name in evaluation.splits}
    if "test" not in found or valid.temperature is None:
        raise Failed(_NO_TEST)
    logits, labels = found["test"]
    scores = {name: _scores(name, *rows) for name, rows in found.items()}
    if not all(math.isfinite(of["nll"]) for of in scores.values()):
        raise Failed("the training diverged: NLL is no number on another split", "diverged")
    values = examples(logits, labels, valid.temperature)
    rows = {name: len(labels) for name, (_, labels) in found.items()}
    packed = np.stack([np.asarray(getattr(values, name)) for name in _EXAMPLE_VALUES])
    return Examined(
        {"valid": asdict(valid), **scores},
        {"valid": len(evaluation.labels), **rows},
        # float32: its rounding is far below the noise of any difference
        zlib.compress(packed.astype(np.float32).tobytes()),
    )


def replicate_of(
    one: Assignment, found: Examined, failure: str = "", seconds: float = 0.0
) -> Replicate:
    """Return what a training found, with its examples unpacked."""
    return Replicate(
        one.candidate,
        one.replicate,
        one.seed,
        found.scores,
        found.rows,
        _unpacked(found.examples),
        last_line(failure),
        seconds,
    )


def read_evidence(
    store: Store, record: StudyRecord, spec: StudySpec, labels: Mapping[str, str]
) -> Evidence | None:
    """Return what the latest confirmation has found so far; None where nothing is confirmed."""
    last = last_confirmation(store, record)
    if last is None or last.reason:
        return None
    points = laid_points(store, record, last.phase)
    results = read_results(store, record, last.phase)
    kept = read_replicates(store, record, last.phase)
    return Evidence(
        number=last.number,
        metric=spec.objective.metric,
        settings=Confirm(**last.settings),
        candidates=[Candidate(**candidate) for candidate in last.candidates],
        replicates=[
            replicate_of(
                assignment(points[number]),
                Examined(**{key: kept[number][key] for key in ("scores", "rows", "examples")}),
                result.failure,
                result.seconds,
            )
            for number, result in results.items()
            if number in kept
        ],
        labels=labels,
    )


_NO_TEST: Final = (
    "the training loop gives no test split; yield Evaluation(..., splits={'test': function}) "
    "whose function returns logits and labels that nothing was chosen by"
)


def _settings(spec: StudySpec) -> dict[str, Any]:
    # Whether it is done is no part of what is done.
    return spec.confirm.model_dump(mode="json", exclude={"enabled"})


def _design(
    store: Store, record: StudyRecord, spec: StudySpec, number: int
) -> tuple[Confirmation, list[dict[str, Any]]]:
    chosen: tuple[Candidate, ...] = ()
    reason = ""
    try:
        chosen = _chosen(store, record, spec)
    except SweeperError as error:
        reason = str(error)
    ended = count_trials(store, record.name, below=spec.budget.trials).ended
    plain = [candidate.to_dict() for candidate in chosen]
    laid = Confirmation(record.id, number, ended, _settings(spec), plain, reason, created=0.0)
    return laid, [asdict(one) for one in fresh(spec, "confirm", number, chosen)]


def _chosen(store: Store, record: StudyRecord, spec: StudySpec) -> tuple[Candidate, ...]:
    base = read_result(store, record, 0)
    if base is None or base.classes is None or base.failure:
        raise SweeperError("ε = 0 has not finished: there is nothing to compare with")
    given = base.splits.split(",")
    if "test" not in given:
        raise SweeperError(_NO_TEST)
    if spec.confirm.resplit and "train" not in given:
        raise SweeperError(
            "confirm.resplit needs the number of training rows; yield "
            "Evaluation(..., splits={'train': function, 'test': function})"
        )
    return candidates(spec, trials_frame(store, record), base.classes)


def _scores(name: str, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    try:
        # The training split is large and only shows the gap: the light scores do.
        return asdict(score(logits, labels, full=name == "test"))
    except ValueError as error:
        raise Failed(f"Evaluation.splits[{name!r}]: {error}") from error


def _asked(splits: Mapping[OtherSplit, Any], name: OtherSplit) -> Any:
    try:
        found = splits[name]()
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise Failed(f"Evaluation.splits[{name!r}] raised {what}") from error
    if not (isinstance(found, tuple | list) and len(found) == 2):
        raise Failed(
            f"Evaluation.splits[{name!r}] returned {describe(found)}; it must return logits "
            "and labels"
        )
    try:
        logits, labels = (as_tensor(value, f"splits[{name!r}]") for value in found)
    except TypeError as error:
        raise Failed(f"Evaluation.{error}") from error
    if not labels.numel():
        raise Failed(f"Evaluation.splits[{name!r}] gave no examples; return logits and labels")
    return logits, labels


def _unpacked(packed: bytes) -> dict[str, Floats]:
    if not packed:
        return {}
    values = np.frombuffer(zlib.decompress(packed), np.float32).astype(np.float64)
    return dict(zip(_EXAMPLE_VALUES, values.reshape(len(_EXAMPLE_VALUES), -1), strict=True))
