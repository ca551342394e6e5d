"""The design of a confirmation: which training runs it has, fixed when the search has ended."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sweeper.confirmation.candidate import Candidate
from sweeper.errors import Conflict, SweeperError
from sweeper.store.confirmations import Confirmation, add_confirmation, last_confirmation
from sweeper.store.damage import reports_damage
from sweeper.store.database import Store
from sweeper.store.records import read_result
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import Point, all_closed, count_tickets
from sweeper.store.trials import count_trials
from sweeper.study.patience import early_end
from sweeper.study.progress import read_progress
from sweeper.study.spec import StudySpec
from sweeper.training.messages import EVIDENCE, NO_TEST
from sweeper.training.seeds import derive_seed

SELF_REPORTED: Final = (
    "the script reports its numbers itself, which sweeper cannot check, so there is no verdict; "
    "deliver logits and labels, or the NLL and the correctness of each example"
)
_REPORT_SPLITS: Final = (
    "sweeper.current_run().report(..., splits={'train': function, 'test': function})"
)
NO_TEST_OF_SCRIPT: Final = (
    "trial 0 has no test split; write test-0001.npz if SWEEPER_SPLITS contains test, or call "
    f"{_REPORT_SPLITS}, with data that was not used for training or selection"
)
NO_TRAIN_OF_SCRIPT: Final = (
    "confirm.resplit requires the training split, which files cannot deliver; set confirm.resplit "
    f"= false, or call {_REPORT_SPLITS}"
)
# numpy and torch both accept seeds below this.
_SEEDS: Final = 2**32


@dataclass(frozen=True)
class Assignment:
    """The training run of one ticket of a confirmation: a candidate, a replicate and its seeds."""

    candidate: int
    replicate: int
    seed: int
    data_seed: int
    point: Point


def search_ended(store: Store, record: StudyRecord, spec: StudySpec) -> bool:
    """Return whether the search has ended: its budget is used or its patience has run out."""
    trials = spec.budget.trials
    if all_closed(store, record, trials):
        return True
    if not early_end(store, record, spec.budget):
        return False
    return count_tickets(store, record, below=trials).leased == 0


def due_confirmation(store: Store, record: StudyRecord, spec: StudySpec) -> Confirmation | None:
    """Return the confirmation whose tickets can be run now; create it if necessary.

    Return None if the study is not confirmed, the search has not ended, or there is nothing to
    confirm.
    """
    if not spec.confirm.enabled or not search_ended(store, record, spec):
        return None
    confirmation = confirmation_of(store, record, spec)
    return None if confirmation is None or confirmation.reason else confirmation


@reports_damage
def finished(store: Store, record: StudyRecord, spec: StudySpec) -> bool:
    """Return whether the search and the confirmation of a study have ended.

    This only reads: if the confirmation has not been created yet, the study is not finished.
    """
    if not search_ended(store, record, spec):
        return False
    if not spec.confirm.enabled:
        return True
    last = current_confirmation(store, record, spec)
    if last is None:
        return False
    return bool(last.reason) or all_closed(store, record, last.training_runs, last.phase)


def current_confirmation(store: Store, record: StudyRecord, spec: StudySpec) -> Confirmation | None:
    """Return the confirmation that matches the current search, settings and code, or None."""
    ended = count_trials(store, record.name, below=spec.budget.trials).ended
    last = last_confirmation(store, record)
    if last is None:
        return None
    now = (ended, _settings(spec), record.code)
    return last if (last.ended, last.settings, last.code) == now else None


def confirmation_of(store: Store, record: StudyRecord, spec: StudySpec) -> Confirmation | None:
    """Return the confirmation of a search that has ended; create it if it does not exist.

    More trials, other settings or changed code lead to a new confirmation with new seeds. If
    there is nothing to confirm, its `reason` says why. Return None if the study has been deleted.
    """
    current = current_confirmation(store, record, spec)
    if current is not None:
        return current
    last = last_confirmation(store, record)
    number = 1 if last is None else last.number + 1
    add_confirmation(store, record, *_design(store, record, spec, number))
    return last_confirmation(store, record)


def check_confirmable(store: Store, record: StudyRecord, spec: StudySpec) -> None:
    """Raise `Conflict` if the search has not ended or there is nothing to confirm."""
    if not search_ended(store, record, spec):
        counts = read_progress(store, record, spec.budget.trials)
        raise Conflict(
            f"study {record.name!r} has finished {counts.ended} of {counts.trials} trials; finish "
            "the search first with sweeper launch (--trials lowers the budget)"
        )
    try:
        _select_candidates(store, record, spec)
    except SweeperError as error:
        raise Conflict(f"study {record.name!r} cannot be confirmed: {error}") from None


def assignment(ticket_point: Mapping[str, Any]) -> Assignment:
    """Read the assignment stored as the point of a confirmation ticket."""
    return Assignment(**ticket_point)


def plan_assignments(
    spec: StudySpec, use: str, number: int, candidates: Sequence[Candidate]
) -> list[Assignment]:
    """Return every training run on fresh seeds; candidates share the seed of each replicate.

    `use` and `number` select the seeds: another use, or another number, gives other seeds. The
    order is seed by seed, so that an interrupted confirmation has complete pairs.
    """
    assignments = []
    for replicate in range(spec.confirm.replicates):
        seed, split = (
            derive_seed(spec.study.seed, use, purpose, number, replicate) % _SEEDS
            for purpose in ("train", "split")
        )
        data_seed = split if spec.confirm.resplit else spec.study.seed
        assignments += [
            Assignment(index, replicate, seed, data_seed, candidate.point)
            for index, candidate in enumerate(candidates)
        ]
    return assignments


def _settings(spec: StudySpec) -> dict[str, Any]:
    # Changes of these keys do not need a new confirmation.
    return spec.confirm.model_dump(mode="json", exclude={"enabled", "minimum_effect"})


def _design(
    store: Store, record: StudyRecord, spec: StudySpec, number: int
) -> tuple[Confirmation, list[dict[str, Any]]]:
    candidates: tuple[Candidate, ...] = ()
    reason = ""
    try:
        candidates = _select_candidates(store, record, spec)
    except SweeperError as error:
        reason = str(error)
    ended = count_trials(store, record.name, below=spec.budget.trials).ended
    plain = [candidate.to_dict() for candidate in candidates]
    confirmation = Confirmation(
        record.id, number, ended, _settings(spec), plain, reason, created=0.0, code=record.code
    )
    return confirmation, [
        asdict(run) for run in plan_assignments(spec, "confirm", number, candidates)
    ]


def _select_candidates(store: Store, record: StudyRecord, spec: StudySpec) -> tuple[Candidate, ...]:
    base = read_result(store, record, 0)
    if base is not None and base.environment.get(EVIDENCE) == "self-reported":
        raise SweeperError(SELF_REPORTED)
    if base is None or not base.scores or base.failure:
        raise SweeperError("ε = 0 has not finished, so there is no baseline to compare with")
    splits = base.splits.split(",")
    if "test" not in splits:
        raise SweeperError(NO_TEST_OF_SCRIPT if spec.task.is_script else NO_TEST)
    if spec.confirm.resplit and "train" not in splits:
        raise SweeperError(
            NO_TRAIN_OF_SCRIPT
            if spec.task.is_script
            else "confirm.resplit requires a training split; yield "
            "Evaluation(..., splits={'train': function, 'test': function})"
        )
    # Lazy import: pandas is slow to import and needed only once, when the search has ended.
    from sweeper.confirmation.shortlist import select_candidates
    from sweeper.study.frames import trials_frame

    classes = base.classes or spec.task.classes
    return select_candidates(spec, trials_frame(store, record), classes)
