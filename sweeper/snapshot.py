"""A snapshot of a study, the input of reports, exports, commands and pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import pandas as pd

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.design import finished
from sweeper.confirmation.diagnostics import code_notes, evidence_notes, health_notes
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.read_evidence import read_evidence
from sweeper.confirmation.recommendation import lowest_in_search, recommendation
from sweeper.confirmation.verdict import Verdict, verdict
from sweeper.metrics import METRICS, validation_label
from sweeper.store.code import CodeRevision, read_revisions
from sweeper.store.confirmations import last_confirmation
from sweeper.store.damage import check_intact, reports_damage
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, read_environment, read_epochs_of
from sweeper.store.studies import StudyRecord, get_study, read_earlier_trials
from sweeper.study import results
from sweeper.study.frames import earlier_frame, trials_frame
from sweeper.study.load import findings_of, read_stored
from sweeper.study.progress import Progress, read_progress
from sweeper.study.spec import Metric, StudySpec
from sweeper.training.messages import EVIDENCE, LABELS

# "damaged": the stored study cannot be used.
State = Literal["finished", "running", "unfinished", "paused", "stopped", "failed", "damaged"]


@dataclass(frozen=True, eq=False)
class StudySnapshot:
    """The state of a study at one time.

    - `frame`: one row per trial, as described in `sweeper.study.results`.
    - `evidence`: the results of the latest confirmation so far, None without one.
    - `verdict`: the verdict of a complete confirmation, else None.
    - `unconfirmed`: why there was nothing to confirm, else "".
    - `health`: one note per problem that makes the result less reliable.
    - `code`: the revisions of the study's code; the last one is in use.
    - `confirmed_code`: the code revision of the confirmation.
    - `earlier`: one row per trial of an earlier study that informs the sampler.
    - `classes`, `versions`: as reported by the trials.
    """

    record: StudyRecord
    spec: StudySpec
    label_source: Mapping[str, str]
    frame: pd.DataFrame
    progress: Progress
    finished: bool
    evidence: Evidence | None
    verdict: Verdict | None
    unconfirmed: str
    health: tuple[str, ...]
    code: Sequence[CodeRevision]
    confirmed_code: int
    earlier: pd.DataFrame
    classes: int | None
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def metric(self) -> Metric:
        """The score that the search minimizes."""
        return self.spec.objective.metric

    @property
    def state(self) -> State:
        return state_of(self.record, self.progress, finished=self.finished)

    @property
    def grade(self) -> str:
        """The grade of the evidence: scored, per-example or self-reported."""
        return self.versions.get(EVIDENCE, "scored")

    @property
    def recommended(self) -> Candidate | None:
        """The configuration to use; None without a verdict. See `Verdict.recommended`."""
        return None if self.verdict is None else self.verdict.recommended

    @property
    def best(self) -> pd.Series | None:
        """The row of the complete trial with the lowest metric; None if there is none."""
        return results.best(self.frame)

    @property
    def baseline(self) -> pd.Series | None:
        """The row of the best complete trial at ε = 0; None if there is none."""
        return results.baseline(self.frame)

    def _repr_html_(self) -> str:
        return snapshot_html(self)


@reports_damage
def read_snapshot(store: Store, name: str) -> StudySnapshot:
    """Read a study; raises `UnknownName` if it does not exist."""
    record = get_study(store, name)
    stored = read_stored(record)
    check_intact(store, record)
    spec, frame = stored.spec, trials_frame(store, record)
    evidence = read_evidence(store, record, spec, stored.label_source)
    result = _verdict(evidence)
    confirmation = last_confirmation(store, record)
    classes, environment = read_environment(store, record)
    labels = LABELS.partition("{")[0]
    versions = {key: value for key, value in environment.items() if not key.startswith(labels)}
    code = read_revisions(store, record)
    confirmed = record.code if confirmation is None else confirmation.code
    return StudySnapshot(
        record=record,
        spec=spec,
        label_source=stored.label_source,
        frame=frame,
        progress=read_progress(store, record, spec.budget.trials),
        finished=finished(store, record, spec),
        evidence=evidence,
        verdict=result,
        unconfirmed="" if confirmation is None else confirmation.reason,
        health=(
            *evidence_notes(versions.get(EVIDENCE, "scored")),
            *health_notes(
                frame, spec.space, evidence, result, _baseline_curve(store, record, frame)
            ),
            *(f"Check before the launch: {text}" for text in findings_of(stored.check)),
            *code_notes(frame, code, confirmed if evidence is not None else None),
        ),
        code=code,
        confirmed_code=confirmed,
        earlier=read_earlier(store, record, spec),
        classes=classes,
        versions=versions,
    )


def read_earlier(store: Store, record: StudyRecord, spec: StudySpec) -> pd.DataFrame:
    """Return one row per trial of an earlier study that informs the sampler; see `earlier_frame`.

    Empty for a study that does not extend another one.
    """
    trials = [] if spec.study.extends is None else read_earlier_trials(store, record)
    return earlier_frame(trials, spec.space)


@reports_damage
def read_recommended(store: Store, name: str) -> Candidate | None:
    """Return the configuration to use without reading the trials; None without a verdict."""
    record = get_study(store, name)
    stored = read_stored(record)
    result = _verdict(read_evidence(store, record, stored.spec, stored.label_source))
    return None if result is None else result.recommended


def snapshot_html(study: StudySnapshot) -> str:
    """Return what a notebook shows: the counts, the recommendation and the best trials."""
    counts, metric = study.progress, METRICS[study.metric]
    lines = [
        f"{counts.ended} of {counts.trials} trials have ended: {counts.complete} complete, "
        f"{counts.pruned} pruned, {counts.failed} failed.",
        recommendation(study.recommended),
        *([] if study.verdict is None else study.verdict.sentences),
        f"Not confirmed: {study.unconfirmed}" if study.unconfirmed else "",
        lowest_in_search(study.frame, study.metric),
        *(f"Note: {note}" for note in study.health),
    ]
    rows = [
        (fmt.trial_name(row).capitalize(), fmt.trial_smoothing(row), metric.write(row["value"]))
        for _, row in results.best_by_schedule(study.frame).iterrows()
    ]
    head = ("Trial", "Smoothing", validation_label(study.metric))
    table = "".join(
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
        for tag, cells in (("th", head), *(("td", row) for row in rows))
    )
    return (
        f"<div><b>Study {escape(study.name)}</b> ({study.state})"
        + "".join(f"<br>{escape(line)}" for line in lines if line)
        + (f"<table>{table}</table>" if rows else "")
        + "</div>"
    )


def _baseline_curve(store: Store, record: StudyRecord, trials: pd.DataFrame) -> list[EpochRow]:
    row = results.baseline(trials)
    return [] if row is None else read_epochs_of(store, record, int(row["ticket"]))


def _verdict(evidence: Evidence | None) -> Verdict | None:
    return verdict(evidence) if evidence is not None and evidence.complete else None


def state_of(record: StudyRecord, progress: Progress, *, finished: bool) -> State:
    """Return the state of a study.

    "unfinished" means that it has no running trial; "failed" means that all its trials failed.
    """
    if finished:
        return "failed" if progress.failed and not progress.complete else "finished"
    if record.state != "running":
        return record.state
    return "running" if progress.running else "unfinished"
