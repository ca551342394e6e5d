"""What went wrong in the runs of a study."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.snapshot import StudySnapshot


def problems(study: "StudySnapshot") -> Iterator[str]:
    """Yield a line for failed trials, and one for a failed study."""
    trials = study.frame
    failed = trials[trials["state"] == "failed"]
    for _, row in failed.head(1).iterrows():
        yield (
            f"{len(failed)} failed; trial {row['number']}: {row['failure']} "
            f"(sweeper logs {study.name} {row['number']}). Fix the cause, then run "
            f"{'it' if len(failed) == 1 else 'them'} again: sweeper retry {study.name}"
        )
    if study.state == "failed" and not study.finished:
        yield (
            f"study {study.name} has failed: its trials fail with the same error and none has "
            f"finished. {study.progress.waiting} trials were not run."
        )
