"""Records of what a script delivers, for a check."""

import numpy as np

from sweeper.training.observation.observer import record_of, record_path
from sweeper.training.observation.record import ReportRecord, digest_of_text, measure
from sweeper.training.run import Evaluation
from sweeper.training.scripts.delivered import Delivered
from sweeper.training.scripts.output import SelfReport


def save_record(folder: str, number: int, item: Delivered | SelfReport, progress: float) -> None:
    """Write the record of a report; `folder` is that of the check."""
    _record(item, progress).save(record_path(folder, number))


def _record(item: Delivered | SelfReport, progress: float) -> ReportRecord:
    if isinstance(item, SelfReport):
        return ReportRecord(progress, digest_of_text(repr(item.nll)))
    labels = np.asarray(item.arrays.get("labels", ()), np.int64).reshape(-1)
    if item.grade == "per-example":
        nll = np.asarray(item.arrays["nll"], np.float64)
        return ReportRecord(progress, digest_of_text(repr(nll.tolist())), nll=nll, labels=labels)
    evaluation = Evaluation(
        item.batches(),  # type: ignore[arg-type]  # Evaluation converts its arguments
        None,  # type: ignore[arg-type]
        progress,
        ignore_index=item.ignore_index,
    )
    return record_of(evaluation, measure(evaluation.logits, evaluation.labels))
