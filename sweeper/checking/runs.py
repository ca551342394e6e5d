"""The short training runs of a check."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sweeper.study.space import Point
from sweeper.study.spec import StudySpec
from sweeper.training.messages import Reply, Report, Start, TrainingEnd
from sweeper.training.observation.observer import record_path
from sweeper.training.observation.record import ReportRecord
from sweeper.worker.attempt import run_fields
from sweeper.worker.code import LoadedCode, train_once

# Share of the budget (all epochs of all trials) that the three runs may take.
BUDGET_SHARE: Final = 0.02
RUNS: Final = 3
# More reports of a run would hardly find more: in a few epochs, ε changes the logits.
MOST_REPORTS: Final = 3
SMOOTHED: Final = 0.3


@dataclass(frozen=True)
class ObservedReport:
    """A report of a run, with the record that its trainer wrote."""

    report: Report
    record: ReportRecord

    @property
    def extra(self) -> Mapping[str, float]:
        return self.report.extra


@dataclass(frozen=True)
class ObservedRun:
    """A training run of the check at `epsilon`, which took `seconds` in all."""

    epsilon: float
    reports: Sequence[ObservedReport]
    end: TrainingEnd
    seconds: float = field(compare=False)

    @property
    def records(self) -> list[ReportRecord]:
        """The record of each report."""
        return [observed.record for observed in self.reports]

    @property
    def progress(self) -> float:
        """The fraction of a training run that was trained."""
        return self.reports[-1].report.progress if self.reports else 0.0


class ShortRuns:
    """Trains the runs of a check: all with the same configuration and seed, but for ε.

    The first report of the first run says how long an epoch is, which decides how many reports each
    run makes.
    """

    def __init__(self, code: LoadedCode, spec: StudySpec, point: Point) -> None:
        self._code, self._spec, self._point = code, spec, point
        self._reports: int | None = None

    def train(self, epsilon: float) -> ObservedRun:
        """Do one run."""
        began = time.perf_counter()
        fields: dict[str, Any] = run_fields(self._spec, self._point)
        fields["smoothing"] = (epsilon, "fixed", None)
        reports = list[Report]()

        def on_report(report: Report) -> Reply:
            reports.append(report)
            if self._reports is None:
                self._reports = self._count(report.progress)
            return Reply("prune" if len(reports) >= self._reports else "continue")

        with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
            start = Start("check", **fields, device=self._spec.task.device, observed=folder)
            end = train_once(self._code, start, on_report, self._spec)
            observed = list(_observed(folder, reports))
        return ObservedRun(epsilon, observed, end, time.perf_counter() - began)

    def extra_pairs(self, progress: float) -> int:
        """Return how many further pairs of runs the budget allows; `progress` is that of a run."""
        affordable = BUDGET_SHARE * self._spec.budget.trials / max(progress, 1e-9)
        return max(0, int((affordable - RUNS) // 2))

    def _count(self, progress: float) -> int:
        affordable = BUDGET_SHARE * self._spec.budget.trials / (RUNS * progress)
        return min(max(int(affordable), 1), MOST_REPORTS)


def _observed(folder: str, reports: Sequence[Report]) -> Iterator[ObservedReport]:
    for report in reports:
        path: Path = record_path(folder, report.number)
        if path.exists():
            yield ObservedReport(report, ReportRecord.load(path))
