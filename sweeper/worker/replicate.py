"""A training run of a confirmation. It is not an Optuna trial; its result has its own table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.confirmation.design import assignment
from sweeper.confirmation.examples import pack_examples
from sweeper.store.records import Result, write_replicate
from sweeper.store.tickets import Ticket
from sweeper.training.messages import Reply, Report
from sweeper.worker.attempt import run_fields
from sweeper.worker.open_study import OpenStudy


class ReplicateTrial:
    """The training run of a confirmation ticket."""

    def __init__(self, study: OpenStudy, ticket: Ticket) -> None:
        self._study, self._ticket = study, ticket
        self._arrays = study.arrays / f"{ticket.phase}-{ticket.number}-{ticket.claims}.npz"

    def begin(self) -> bool:
        """Return True: every replicate is trained."""
        return True

    @property
    def number(self) -> int:
        """The number of the training run in its confirmation."""
        return self._ticket.number

    def start(self) -> Mapping[str, Any]:
        """Return the configuration, the seeds and the file for the test examples."""
        replicate = assignment(self._ticket.point or {})
        seeds = {"seed": replicate.seed, "data_seed": replicate.data_seed}
        run = run_fields(self._study.spec, replicate.point)
        return {**run, **seeds, "arrays": str(self._arrays)}

    def on_report(self, _: Report) -> Reply:
        """Return "continue": a training run of a confirmation is never pruned."""
        return Reply()

    def write(self, state: str, last: Report | None, result: Result) -> None:
        """Store the result with the scores of the other splits."""
        splits = None if last is None or state != "complete" else last.replicate_result
        examples = b"" if splits is None else pack_examples(Path(self._arrays))
        scores, rows = ({}, {}) if splits is None else (splits["scores"], splits["rows"])
        write_replicate(self._study.store, self._ticket, result, scores, rows, examples)

    def on_close(self) -> None:
        """Remove the file of the test examples and the folder of the run."""
        self._arrays.unlink(missing_ok=True)
        self._study.files.drop_directory(self._ticket.phase, self.number)
