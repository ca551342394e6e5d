"""The tables that the commands print."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.metrics import METRICS
from sweeper.store.accounts import Account
from sweeper.store.tickets import SEARCH
from sweeper.study.progress import Progress
from sweeper.study.results import baseline, best_by_schedule
from sweeper.study.space import effective_smoothing
from sweeper.worker.worker_states import WorkerState


def summary(trials: pd.DataFrame) -> Table:
    """Return a table of ε = 0 and the best trial of each schedule, with validation scores."""
    base = baseline(trials)
    rows = [] if base is None else [base]
    rows += [row for _, row in best_by_schedule(trials).iterrows()]
    table = Table(
        title="Validation scores; NLL in nats, computed without smoothing",
        title_justify="left",
        title_style="dim",
    )
    table.add_column("schedule", no_wrap=True)
    table.add_column("ε")
    table.add_column("rate")
    for heading in (*(METRICS[score].heading for score in _SEARCHED), "trial"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def without_result(trials: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each schedule that was tried but has no finished trial."""
    smoothed = trials[trials["epsilon"] > 0]
    for schedule, tried in smoothed.groupby("schedule"):
        states = tried["state"].value_counts()
        if "complete" not in states:
            counts = ", ".join(f"{count} {state}" for state, count in states.items())
            yield f"{schedule}: no finished trial ({counts})"


def confirmed(evidence: Evidence) -> Table:
    """Return a table of each candidate's test scores and its difference from ε = 0."""
    table = Table(
        title=f"Test scores, means over {evidence.settings.replicates} fresh seeds; "
        f"Δ: {METRICS[evidence.metric].label} minus that at ε = 0",
        title_justify="left",
        title_style="dim",
    )
    table.add_column("candidate", no_wrap=True)
    table.add_column("configuration")
    for heading in ("NLL", "95% CI of Δ", "accuracy", "ECE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, candidate in enumerate(evidence.candidates):
        nll, accuracy, ece = (evidence.compare(index, score) for score in _CONFIRMED)
        change = evidence.compare(index, evidence.metric)
        shown = (_mean(nll), _change(change), _mean(accuracy), _mean(ece))
        table.add_row(candidate.role, _point(candidate), *shown)
    return table


_SEARCHED = ("nll", "nll_calibrated", "accuracy", "ece")
_CONFIRMED = ("nll", "accuracy", "ece")


def _point(candidate: Candidate) -> str:
    return fmt.smoothing(*effective_smoothing(candidate.point))


def _mean(comparison: Comparison | None) -> str:
    return "" if comparison is None else METRICS[comparison.score].write(comparison.mean)


def _change(comparison: Comparison | None) -> str:
    if comparison is None or comparison.candidate == comparison.against:
        return ""
    return fmt.interval(comparison.difference)


class StudyRow(NamedTuple):
    """A study in a listing; `progress` is None for a damaged study."""

    name: str
    state: str
    progress: Progress | None = None
    recommended: Candidate | None = None


def listing(studies: Iterable[StudyRow]) -> Table:
    """Return a table with one row per study; a damaged study has only a name and a state."""
    table = Table("study")
    table.add_column("recommended", min_width=16)
    for heading in ("lowest", "ε = 0", "state", "trials", "failed"):
        table.add_column(heading, no_wrap=True)
    for name, state, counts, recommended in studies:
        if counts is None:
            table.add_row(name, "", "", "", state)
            continue
        table.add_row(
            name,
            "none yet" if recommended is None else _point(recommended),
            _value(counts.best),
            _value(counts.baseline),
            state,
            f"{counts.ended}/{counts.trials}",
            str(counts.failed),
        )
    return table


def active_workers(workers: Iterable[WorkerState]) -> Table:
    """Return a table with one row per claimed trial; a stale worker has stopped responding."""
    table = Table("worker", "slots", "trial", "attempt", "last seen")
    for worker in workers:
        number = "" if worker.trial is None else str(worker.trial)
        table.add_row(
            f"{worker.host}, process {worker.pid}",
            str(worker.slots),
            number if worker.phase == SEARCH else f"{worker.phase}: {number}",
            str(worker.attempt),
            f"{worker.unseen:.0f} s ago{', stale' if worker.stale else ''}",
        )
    return table


def _cells(row: pd.Series) -> list[str]:
    name = "none" if row["epsilon"] == 0 else str(row["schedule"])
    return [
        name,
        fmt.epsilon(row["epsilon"]),
        "" if pd.isna(row["rate"]) else fmt.two_figures(row["rate"]),
        *(METRICS[score].write(row[score]) for score in _SEARCHED),
        str(row["number"]),
    ]


def _value(value: float | None) -> str:
    return "" if value is None else fmt.nll(value)


def tokens(accounts: Iterable[Account]) -> Table:
    """Return a table of tokens: name, role and time of creation."""
    table = Table()
    for heading in ("name", "role", "created (UTC)"):
        table.add_column(heading)
    for account in accounts:
        created = datetime.fromtimestamp(account.created, UTC)
        table.add_row(account.name, account.role, created.strftime("%Y-%m-%d %H:%M"))
    return table
