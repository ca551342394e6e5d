"""What the commands print about studies."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pandas as pd
from rich.table import Table

from sweeper.api import Study
from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.confirmation.shortlist import Candidate
from sweeper.confirmation.verdict import METRICS
from sweeper.store.accounts import Account
from sweeper.store.tickets import SEARCH
from sweeper.study.results import baseline, best_by_schedule
from sweeper.study.space import acting
from sweeper.worker.presence import WorkerState


def summary(trials: pd.DataFrame) -> Table:
    """Return ε = 0 and the best of each schedule: validation NLL, accuracy and ECE."""
    base = baseline(trials)
    rows = [] if base is None else [base]
    rows += [row for _, row in best_by_schedule(trials).iterrows()]
    table = Table(
        title="validation split, NLL unsmoothed in nats",
        title_justify="left",
        title_style="dim",
    )
    table.add_column("schedule", no_wrap=True)
    table.add_column("ε")
    table.add_column("rate")
    for heading in ("NLL", "NLL after T", "accuracy", "ECE", "trial"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def confirmed(evidence: Evidence) -> Table:
    """Return each candidate's test scores, and the interval of its difference from ε = 0."""
    table = Table(
        title=f"test split, means over {evidence.settings.replicates} fresh seeds; "
        f"Δ: {METRICS[evidence.metric]} against ε = 0",
        title_justify="left",
        title_style="dim",
    )
    table.add_column("confirmed", no_wrap=True)
    table.add_column("ε, schedule, rate", no_wrap=True)
    for heading in ("NLL", "95 % of Δ", "accuracy", "ECE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, candidate in enumerate(evidence.candidates):
        nll, accuracy, ece = (evidence.compare(index, score) for score in _CONFIRMED)
        change = evidence.compare(index, evidence.metric)
        shown = (_mean(nll), _change(index, change), _mean(accuracy), _mean(ece))
        table.add_row(candidate.role, _point(candidate), *shown)
    return table


_CONFIRMED = ("nll", "accuracy", "ece")


def _point(candidate: Candidate) -> str:
    smoothing = acting(candidate.point)
    if smoothing.epsilon == 0:
        return "0"
    rate = "" if smoothing.rate is None else f" {smoothing.rate:.2g}"
    return f"{smoothing.epsilon:.2g} {smoothing.schedule}{rate}"


def _mean(found: Comparison | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.3f}"


def _change(index: int, found: Comparison | None) -> str:
    if found is None or index == 0:
        return ""
    of = found.difference
    return f"{of.low:+.3f}…{of.high:+.3f}"


def listing(studies: Iterable[Study]) -> Table:
    """Return one line a study."""
    table = Table("study", "state", "trials", "pruned", "failed", "retried", "best", "ε = 0")
    for study in studies:
        counts = study.progress()
        table.add_row(
            study.name,
            study.state,
            f"{counts.ended}/{counts.trials}",
            str(counts.pruned),
            str(counts.failed),
            str(counts.retried),
            _value(counts.best),
            _value(counts.baseline),
        )
    return table


def workers_at(workers: Iterable[WorkerState]) -> Table:
    """Return one line a worker that holds a trial; a stale one is dead or cut off."""
    table = Table("worker", "trial", "attempt", "last seen")
    for worker in workers:
        number = "" if worker.trial is None else str(worker.trial)
        table.add_row(
            f"{worker.host}, process {worker.pid}",
            number if worker.phase == SEARCH else f"{worker.phase}: {number}",
            str(worker.attempt),
            f"{worker.unseen:.0f} s ago{', stale' if worker.stale else ''}",
        )
    return table


def _cells(row: pd.Series) -> list[str]:
    name = "none" if row["epsilon"] == 0 else str(row["schedule"])
    rate = "" if pd.isna(row["rate"]) else f"{row['rate']:.2g}"
    return [
        name,
        f"{row['epsilon']:.3g}",
        rate,
        f"{row['nll']:.4f}",
        f"{row['nll_calibrated']:.4f}",
        f"{row['accuracy']:.3f}",
        f"{row['ece']:.3f}",
        str(row["number"]),
    ]


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def tokens(found: Iterable[Account]) -> Table:
    """Return tokens: whose, what they may do, and since when."""
    table = Table()
    for heading in ("name", "role", "made (UTC)"):
        table.add_column(heading)
    for one in found:
        made = datetime.fromtimestamp(one.created, UTC)
        table.add_row(one.name, one.role, made.strftime("%Y-%m-%d %H:%M"))
    return table
