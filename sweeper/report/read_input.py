"""Reads the data of a report that is not in the snapshot of its study."""

import time
from collections.abc import Mapping

from sweeper.formatting import moment
from sweeper.report.figures.schedules import trials_to_draw
from sweeper.report.report_input import ReportInput
from sweeper.snapshot import StudySnapshot
from sweeper.store.damage import reports_damage
from sweeper.store.database import Store
from sweeper.study.frames import epochs_frame
from sweeper.study.importance import importance


@reports_damage
def read_report_input(store: Store, snapshot: StudySnapshot) -> ReportInput:
    """Return the input of a report.

    Reads the epochs of the few trials whose curves are drawn, and the importance of the
    hyperparameters.
    """
    chosen = {int(row["ticket"]): int(row["number"]) for _, row in trials_to_draw(snapshot.frame)}
    return ReportInput(
        name=snapshot.name,
        metric=snapshot.metric,
        classes=snapshot.classes,
        label_source=snapshot.label_source,
        trials=snapshot.frame,
        epochs=epochs_frame(store, snapshot.record, chosen),
        importance=importance(store, snapshot.name, snapshot.spec.space),
        facts=_footer(snapshot),
        space=snapshot.spec.space,
        evidence=snapshot.evidence,
        verdict=snapshot.verdict,
        unconfirmed=snapshot.unconfirmed,
        checks=snapshot.health,
        earlier=snapshot.earlier,
    )


def _footer(snapshot: StudySnapshot) -> Mapping[str, str]:
    return {
        "study": snapshot.name,
        "spec": snapshot.record.spec_hash[:12],
        "seed": str(snapshot.spec.study.seed),
        "launched": moment(snapshot.record.created),
        "written": moment(time.time()),
        **snapshot.versions,
    }
