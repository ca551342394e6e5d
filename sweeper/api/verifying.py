"""Verifying an export: its pick and ε = 0 are retrained on new seeds."""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper import formatting as fmt
from sweeper import limits
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.design import Assignment, plan_assignments
from sweeper.confirmation.evidence import Comparison, Evidence, Replicate
from sweeper.confirmation.examples import pack_examples
from sweeper.confirmation.read_evidence import StoredScores, replicate_of
from sweeper.confirmation.shortlist import with_fixed_smoothing
from sweeper.errors import SweeperError
from sweeper.export import digest_of
from sweeper.metrics import METRICS
from sweeper.store.code import read_revisions
from sweeper.store.database import open_reader
from sweeper.store.studies import get_study
from sweeper.store.urls import DEFAULT_STORAGE
from sweeper.study.load import check_packages, read_stored
from sweeper.study.sources import check_sources
from sweeper.study.spec import ConfirmSection, StudySpec
from sweeper.tasks.given import given_again
from sweeper.training.messages import Reply, Start
from sweeper.worker.attempt import run_fields
from sweeper.worker.code import LoadedCode, loaded_code, train_once

# Called after each training run with the number of completed runs and their total.
OnTraining = Callable[[int, int], None]


@dataclass(frozen=True)
class Verification:
    """The mean difference on new seeds, and the interval stated in an export.

    With `resplit`, the data splits are redrawn; otherwise the test examples are those of the
    export, and only the seeds are new.
    """

    study: str
    metric: str
    replicates: int
    difference: float
    low: float
    high: float
    resplit: bool = False

    @property
    def holds(self) -> bool:
        """Whether the new difference is in the exported interval."""
        return self.low <= self.difference <= self.high

    @property
    def sentence(self) -> str:
        place = "inside" if self.holds else "OUTSIDE"
        data = "newly drawn splits" if self.resplit else "the same test examples"
        decimals = fmt.interval_decimals(self)
        return (
            f"{self.study}: on {self.replicates} new seeds and {data}, the pick's test "
            f"{METRICS[self.metric].label} minus that at ε = 0 is "
            f"{fmt.signed(self.difference, decimals)}; this is {place} the exported 95% CI, "
            f"{fmt.interval(self)}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def verify(
    path: str | Path,
    storage: str = DEFAULT_STORAGE,
    *,
    replicates: int = 5,
    folder: Path | None = None,
    on_training: OnTraining = lambda _, __: None,
) -> Verification:
    """Retrain the pick and ε = 0 of an export and compare with its interval; store nothing.

    `replicates` is the number of new seeds. `folder` is the folder of the study's files on this
    machine; None is the folder where the launch read them. Raises `SweeperError` if the file was
    changed, has no verdict, or belongs to another study than the one with its name in the database.
    """
    if not 2 <= replicates <= limits.REPLICATES:
        raise SweeperError(f"replicates: must be from 2 to {limits.REPLICATES:,}, got {replicates}")
    document = _read(Path(path))
    stated = document["verdict"]
    with closing(open_reader(storage)) as reader:
        record = get_study(reader, document["study"])
        revisions = read_revisions(reader, record)
    if record.spec_hash != document["spec_hash"]:
        raise SweeperError(
            f"{path} belongs to another study than {record.name!r} in this database: the spec "
            f"hashes are {document['spec_hash'][:12]} and {record.spec_hash[:12]}; give the "
            "database of that study with --storage"
        )
    stored, folder = read_stored(record), folder or Path(record.folder)
    check_packages(record.name, stored.packages)
    revision = document.get("code", 1)
    if revision not in (known.revision for known in revisions):
        raise SweeperError(f"{path}: code revision {revision!r} is not in the database")
    sources = revisions[revision - 1].sources
    check_sources(record.name, sources, folder)
    settings = ConfirmSection(**document["confirmation"]["settings"])
    given = given_again(stored.spec.task.use, sources)
    with loaded_code(stored, folder, given) as code:
        comparison = _retrain(code, stored.spec, settings, stated, replicates, on_training)
    interval = stated["difference"]
    return Verification(
        record.name,
        document["metric"],
        replicates,
        comparison.difference.estimate,
        interval["low"],
        interval["high"],
        settings.resplit,
    )


def _read(path: Path) -> dict[str, Any]:
    """Read an export with a verdict; raises `SweeperError` for any other file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweeperError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SweeperError(f"{path} is not JSON ({error}); give the best.json of a study") from None
    if not isinstance(document, dict) or "digest" not in document:
        raise SweeperError(
            f"{path} is not the best.json of a study; to write one: sweeper export NAME"
        )
    if digest_of(document) != document["digest"]:
        raise SweeperError(
            f"{path} was changed after it was written; export it again: sweeper export NAME"
        )
    if document.get("verdict") is None:
        raise SweeperError(
            f"{path} has no verdict to verify; confirm the study first: "
            f"sweeper confirm {document.get('study', 'NAME')}"
        )
    return document


def _retrain(
    code: LoadedCode,
    spec: StudySpec,
    settings: ConfirmSection,
    stated: Mapping[str, Any],
    replicates: int,
    on_training: OnTraining,
) -> Comparison:
    pick = Candidate(**stated["pick"])
    same_settings = with_fixed_smoothing(pick.point, 0.0, spec.space)
    # Exports of earlier versions compare with ε = 0 at the pick's other hyperparameters.
    zero = Candidate(**stated.get("against", {"role": "baseline", "point": same_settings}))
    confirm = settings.model_copy(update={"replicates": replicates})
    spec = spec.model_copy(update={"confirm": confirm})
    assignments = plan_assignments(spec, "verify", 0, (zero, pick))
    replicates_done = []
    with tempfile.TemporaryDirectory(prefix="sweeper-") as temporary:
        for number, assignment in enumerate(assignments):
            arrays = Path(temporary, "examples.npz")
            replicates_done.append(_train_replicate(code, spec, number, assignment, arrays))
            on_training(len(replicates_done), len(assignments))
    evidence = Evidence(1, spec.objective.metric, spec.confirm, (zero, pick), replicates_done)
    comparison = evidence.compare(1, evidence.metric)
    if comparison is None:
        failures = "; ".join(sorted({replicate.failure for replicate in replicates_done} - {""}))
        reason = f"too few training runs completed: {failures}" if failures else evidence.no_verdict
        raise SweeperError(reason)
    return comparison


def _train_replicate(
    code: LoadedCode, spec: StudySpec, number: int, assignment: Assignment, arrays: Path
) -> Replicate:
    seeds = {"seed": assignment.seed, "data_seed": assignment.data_seed}
    fields = {**run_fields(spec, assignment.point), **seeds}
    start = Start("verify", **fields, device=spec.task.device, arrays=str(arrays), number=number)
    ending = train_once(code, start, lambda _: Reply(), spec)
    last = None if ending.last is None else ending.last.replicate_result
    scores = StoredScores({}, {}, b"")
    if last is not None and not ending.failure:
        scores = StoredScores(last["scores"], last["rows"], pack_examples(arrays))
    return replicate_of(assignment, scores, ending.failure, ending.seconds)
