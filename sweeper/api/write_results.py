"""Writing the results of a study when it is finished, or when a launch ends."""

from pathlib import Path

from sweeper.confirmation.read_evidence import store_evidence_summary
from sweeper.export import document_of, render
from sweeper.files import write_text
from sweeper.report.optuna_dashboard import note, small_figures, write_note
from sweeper.report.page import write_report
from sweeper.report.read_input import read_report_input
from sweeper.snapshot import StudySnapshot, read_snapshot
from sweeper.store.damage import reports_damage
from sweeper.store.database import Store
from sweeper.worker.trial_files import EXPORT, REPORT


@reports_damage
def write_results(store: Store, name: str, results: Path | None = None) -> StudySnapshot:
    """Write the results of a study; return the snapshot that they are written from.

    Stores the summary of a complete confirmation and the study's note in optuna-dashboard. With
    `results`, writes RESULTS/NAME/report.html, and best.json if a trial has finished.
    """
    snapshot = read_snapshot(store, name)
    if snapshot.evidence is not None:
        store_evidence_summary(store, snapshot.record, snapshot.evidence)
    report_input = read_report_input(store, snapshot)
    write_note(store, name, note(snapshot), small_figures(report_input))
    if results is not None:
        if snapshot.best is not None:
            write_text(results / name / EXPORT, render(document_of(snapshot), "json"))
        write_report(results / name / REPORT, report_input)
    return snapshot
