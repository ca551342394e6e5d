"""What the commands print about studies."""

from collections.abc import Iterable

import pandas as pd
from rich.table import Table

from sweeper.api import Study
from sweeper.execution.presence import WorkerState
from sweeper.study.results import baseline, best_by_schedule


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
        table.add_row(
            f"{worker.host}, process {worker.pid}",
            "" if worker.trial is None else str(worker.trial),
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
