"""The state of studies in one line each, read once or until they have ended."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sweeper import api
from sweeper.cli.options import echo, print_json
from sweeper.cli.tables import StudyRow, listing
from sweeper.confirmation.candidate import Candidate
from sweeper.errors import DatabaseFailed, StudyDamaged
from sweeper.store.database import OUTAGE_SECONDS
from sweeper.study.progress import Progress
from sweeper.study.progress_text import line

POLL_SECONDS: Final = 1.0
# A study in one of these states does not change until someone acts.
_ENDED: Final = frozenset({"finished", "failed", "stopped", "damaged"})


class StudyLine(NamedTuple):
    """The state of one study; of a damaged study `progress` is None and `problem` says why."""

    name: str
    state: str
    metric: str
    progress: Progress | None
    problem: str = ""
    recommended: Candidate | None = None

    @classmethod
    def of(cls, study: api.Study, *, check: bool = True) -> "StudyLine":
        """Read the state of a study; `check` looks for damage in all its rows."""
        try:
            if check:
                study.check()
            progress = study.progress()
            state, metric = study.state_at(progress), study.spec.objective.metric
            confirmed = 0 < progress.confirming <= progress.confirmed
            recommended = study.recommended() if confirmed else None
            return cls(study.name, state, metric, progress, recommended=recommended)
        except StudyDamaged as error:
            return cls(study.name, "damaged", "nll", None, str(error))

    @property
    def row(self) -> StudyRow:
        """The row of the study in a table of studies."""
        return StudyRow(self.name, self.state, self.progress, self.recommended)

    @property
    def ended(self) -> bool:
        """Whether the study is finished, failed, stopped or damaged."""
        return self.state in _ENDED

    @property
    def failed(self) -> bool:
        """Whether the study is failed or damaged."""
        return self.state in ("failed", "damaged")

    def to_dict(self) -> dict[str, Any]:
        progress = {} if self.progress is None else self.progress.to_dict()
        return {
            "study": self.name,
            "state": self.state,
            "problem": self.problem,
            "metric": self.metric,
            **progress,
        }

    def __str__(self) -> str:
        if self.progress is None:
            return f"{self.name}: {self.problem}"
        return f"{self.name}: {self.state}  {line(self.progress, '', self.metric)}"


Show = Callable[[Sequence[StudyLine], str], None]


def watch(name: str | None, storage: str, show: Show) -> Sequence[StudyLine]:
    """Show a study, or all studies, until they have ended; return their last state.

    `show` gets the latest state and the problem of the database, "" if there is none. A database
    that becomes unavailable is tried again for `OUTAGE_SECONDS`.
    """
    studies = _Studies(name, storage)
    lines, answered = studies.read(), time.monotonic()
    show(lines, "")
    while not all(line.ended for line in lines):
        time.sleep(POLL_SECONDS)
        try:
            lines, problem = studies.read(), ""
            answered = time.monotonic()
        except DatabaseFailed as error:
            if time.monotonic() - answered > OUTAGE_SECONDS:
                raise
            problem = f"{error}; retrying"
            studies.close()
        show(lines, problem)
    studies.close()
    return lines


class _Studies:
    """One study or all studies of a database, with connections that stay open."""

    def __init__(self, name: str | None, storage: str) -> None:
        self._name, self._storage = name, storage
        self._open: dict[str, api.Study] = {}

    def read(self) -> list[StudyLine]:
        """Return the current state; damage is looked for once after opening."""
        if self._name is None:
            names = [study.name for study in api.studies(self._storage)]
        else:
            names = [self._name]
        before = set(self._open)
        for name in names:
            if name not in self._open:
                self._open[name] = api.open_study(name, self._storage)
        return [StudyLine.of(self._open[name], check=name not in before) for name in names]

    def close(self) -> None:
        for study in self._open.values():
            study.close()
        self._open.clear()


@contextmanager
def table_in_place(out: Console) -> Iterator[Show]:
    """Yield a function that shows the studies as a table, which replaces the one before.

    The last table stays after an interrupt. Otherwise the caller prints the final state.
    """
    with Live(console=out, auto_refresh=False) as live:

        def show(lines: Sequence[StudyLine], problem: str) -> None:
            notes = [text for text in (*(line.problem for line in lines), problem) if text]
            table = listing(line.row for line in lines)
            live.update(Group(table, *map(Text, notes)), refresh=True)

        yield show
        live.transient = True


def changed_lines(*, as_json: bool) -> Show:
    """Return a function that prints one line for each change, also as JSON."""
    printed: dict[str, StudyLine] = {}
    problems = [""]

    def show(lines: Sequence[StudyLine], problem: str) -> None:
        for study in lines:
            if printed.get(study.name) != study:
                printed[study.name] = study
                if as_json:
                    print_json(study.to_dict(), indent=None)
                else:
                    echo(study)
        if problem != problems[-1]:
            problems.append(problem)
            echo(problem or "the database is available again", err=True)

    return show
