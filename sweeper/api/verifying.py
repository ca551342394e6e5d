"""Verifying an export: its pick and ε = 0 are trained again, on seeds that nothing has used."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.api.study import open_study
from sweeper.confirmation.design import Assignment, Examined, examined, fresh, replicate_of
from sweeper.confirmation.evidence import Comparison, Evidence, Replicate
from sweeper.confirmation.shortlist import Candidate
from sweeper.errors import SweeperError
from sweeper.export import digest_of
from sweeper.store.urls import DEFAULT_STORAGE
from sweeper.study.load import StudyFile, stored_study
from sweeper.study.objective import Epoch, run_trial
from sweeper.study.spec import Confirm
from sweeper.training.device import pick_device, torch_threads
from sweeper.worker.watched import replicate_run

# Called after each training with how many are done, and of how many.
OnTraining = Callable[[int, int], None]


@dataclass(frozen=True)
class Verification:
    """The new mean difference beside the interval that a file states."""

    study: str
    metric: str
    replicates: int
    difference: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the new difference lies in the stated interval."""
        return self.low <= self.difference <= self.high

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        lies = "lies in" if self.holds else "lies OUTSIDE"
        return (
            f"{self.study}: on {self.replicates} new seeds the pick's test {self.metric} differs "
            f"from that at ε = 0 by {self.difference:+.4f}; that {lies} the stated interval, "
            f"{self.low:+.4f} to {self.high:+.4f}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "holds": self.holds}


def verify(
    path: str | Path,
    storage: str = DEFAULT_STORAGE,
    *,
    replicates: int = 5,
    folder: Path | None = None,
    on_training: OnTraining = lambda _, __: None,
) -> Verification:
    """Train the pick and ε = 0 of an export again, and compare with its interval; writes nothing.

    `folder` is where the study's files lie here, if not where the launch read them. Raises
    `SweeperError` for a file that was changed, that holds no verdict, or that is of another
    study than the database's of that name.
    """
    if replicates < 2:
        raise SweeperError(f"replicates: {replicates}; at least 2 are needed")
    document = _read(Path(path))
    stated = document["verdict"]
    record = open_study(document["study"], storage)._record
    if record.spec_hash != document["spec_hash"]:
        raise SweeperError(
            f"{path} is of another study than {record.name!r} in the database: their specs differ "
            f"({document['spec_hash'][:12]}, {record.spec_hash[:12]}); name that database"
        )
    file = stored_study(record.spec, folder or Path(record.folder))
    settings = Confirm(**document["confirmation"]["settings"])
    found = _compared(file, settings, stated, replicates, on_training)
    interval = stated["difference"]
    return Verification(
        record.name,
        document["metric"],
        replicates,
        found.difference.estimate,
        interval["low"],
        interval["high"],
    )


def _read(path: Path) -> dict[str, Any]:
    """Return a confirmed export, as it was written."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweeperError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SweeperError(f"{path} is not JSON ({error}); give the best.json of a study") from None
    if not isinstance(document, dict) or "digest" not in document:
        raise SweeperError(f"{path} is not the best.json of a study (sweeper export writes one)")
    if digest_of(document) != document["digest"]:
        raise SweeperError(
            f"{path} was changed after it was written; export it again: sweeper export NAME"
        )
    if document.get("verdict") is None:
        raise SweeperError(
            f"{path} holds no verdict to verify; confirm the study first: "
            f"sweeper confirm {document.get('study', 'NAME')}"
        )
    return document


def _compared(
    file: StudyFile,
    settings: Confirm,
    stated: Mapping[str, Any],
    replicates: int,
    on_training: OnTraining,
) -> Comparison:
    pick = Candidate(**stated["pick"])
    zero = Candidate("baseline", {**pick.point, "epsilon": 0.0, "schedule": "fixed", "rate": 1.0})
    spec = file.spec.model_copy(
        update={"confirm": settings.model_copy(update={"replicates": replicates})}
    )
    assignments = fresh(spec, "verify", 0, (zero, pick))
    found = []
    with torch_threads(spec.task.threads):
        for one in assignments:
            found.append(_trained(file, one))
            on_training(len(found), len(assignments))
    evidence = Evidence(1, spec.objective.metric, spec.confirm, (zero, pick), found)
    compared = evidence.compare(1, evidence.metric)
    if compared is None:
        failures = "; ".join(sorted({replicate.failure for replicate in found} - {""}))
        raise SweeperError(f"too few trainings came to an end: {failures}")
    return compared


def _trained(file: StudyFile, one: Assignment) -> Replicate:
    last = Examined({}, {}, b"")

    def on_epoch(epoch: Epoch) -> bool:
        nonlocal last
        if epoch.evaluation.progress == 1.0:
            last = examined(epoch)
        return False

    run = replicate_run(file.spec, one, pick_device(file.spec.task.device))
    outcome = run_trial(file.task.trainer, run, on_epoch, lambda e: e.progress == 1.0)
    return replicate_of(one, last, outcome.failure, outcome.seconds)
