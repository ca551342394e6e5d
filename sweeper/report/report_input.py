"""The input of a report, and the preparation of its data frames for the figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Evidence, Split
from sweeper.confirmation.verdict import Verdict
from sweeper.smoothing.names import BUILT_IN
from sweeper.study import results
from sweeper.study.dimensions import Space

Metric = Literal["nll", "nll_calibrated"]
Floats = NDArray[np.float64]

_TEXT_COLUMNS: Final = ("state", "schedule", "started", "finished", "failure", "cause", "notes")
_SPLIT_NAMES: Final[Mapping[Split, tuple[str, ...]]] = {
    "valid": ("validation", "valid", "val"),
    "test": ("test",),
    "train": ("training", "train"),
}


@dataclass(frozen=True, eq=False)
class ReportInput:
    """The data of one study that a report shows.

    `trials` and `epochs` have the columns that `sweeper.study.results` defines. `epochs` covers
    at least the trials that `schedules.drawn` returns. `label_source` says for each split where
    its labels come from and whether they are noisy. `facts` (versions, seed, hash of the spec,
    time) are shown in the footer. `evidence` is the latest confirmation and `verdict` its result,
    None while it is incomplete. `unconfirmed` is the reason if there is nothing to confirm.
    `checks` are warnings of the health checks. `earlier` has the trials of an earlier study.
    """

    name: str
    metric: Metric
    classes: int | None
    label_source: Mapping[str, str]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    importance: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    space: Space = field(default_factory=Space)
    evidence: Evidence | None = None
    verdict: Verdict | None = None
    unconfirmed: str = ""
    checks: tuple[str, ...] = ()
    earlier: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def labels(self) -> str:
        """The source of the validation labels, as `labels_of`."""
        return self.labels_of("valid")

    def labels_of(self, split: Split) -> str:
        """Return the source of the labels of a split; "" if not stated or as in the data set."""
        sources = self.label_source
        matches = (sources[name] for name in _SPLIT_NAMES[split] if name in sources)
        return fmt.stated_labels(next(matches, None))

    @property
    def stated_labels(self) -> dict[str, str]:
        """The sources of the labels that are stated and not the default, by split."""
        return {name: text for name, text in self.label_source.items() if fmt.stated_labels(text)}

    def source(self, split: Split, scaled: bool = False) -> str:
        """Return a sentence that names the split and, if stated, the source of its labels.

        `scaled`: temperatures, which are fitted on the validation split, are involved.
        """
        text = f"{fmt.SPLITS[split].capitalize()} split{_labels(self.labels_of(split))}."
        fitted = f" Temperatures are fitted on the validation split{_labels(self.labels)}."
        return text + fitted if scaled else text

    @property
    def recommended(self) -> Candidate | None:
        """The configuration to use; None without a verdict. See `Verdict.recommended`."""
        return None if self.verdict is None else self.verdict.recommended

    @property
    def confirmed(self) -> Evidence | None:
        """The evidence of a complete confirmation, else None: partial results may still change."""
        return self.evidence if self.evidence is not None and self.evidence.complete else None


def _labels(source: str) -> str:
    return f"; labels: {source}" if source else ""


def prepare(report: ReportInput) -> ReportInput:
    """Return a copy whose frames have all columns, with numbers as floats (NaN if missing)."""
    trials = prepare_trials(report.trials).sort_values("number", ignore_index=True)
    epochs = _numeric(_with_columns(report.epochs, results.EPOCH_COLUMNS))
    return replace(report, trials=trials, epochs=epochs)


def prepare_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the trials in the same order, with all columns and numbers as floats."""
    trials = _numeric(_with_columns(frame, results.TRIAL_COLUMNS))
    trials["failure"] = trials["failure"].astype("object").fillna("").astype(str)
    trials["schedule"] = trials["schedule"].astype("object").fillna("?").astype(str)
    return trials


def with_finite_value(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials without those that finished with a non-finite value."""
    finite = np.isfinite(trials["value"].to_numpy(float))
    rows: pd.DataFrame = trials.loc[(trials["state"] != "complete") | finite]
    return rows


def finished_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the complete trials with a finite value, best first.

    Trials that reuse the stored result of a duplicate are left out: they are not new evidence.
    """
    rows = results.complete(with_finite_value(trials))
    return rows[rows["copied_from"].isna()]


def pruned_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the pruned trials that reported an NLL; `nll` is the last one reported."""
    return finite_rows(trials.loc[trials["state"] == "pruned"], ["nll"])


def finite_rows(trials: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the trials with finite numbers in all of these columns."""
    rows: pd.DataFrame = trials.loc[np.isfinite(trials[columns].to_numpy(float)).all(axis=1)]
    return rows


def by_schedule(trials: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the trials with epsilon > 0 by schedule, built-in schedules first."""
    smoothed = trials[trials["epsilon"] > 0]
    groups = {str(name): rows for name, rows in smoothed.groupby("schedule")}
    return {name: groups[name] for name in sorted(groups, key=schedule_order)}


def schedule_order(schedule: str) -> tuple[int, str]:
    """Return the sort key of a schedule in legends: custom schedules come last."""
    names = (*BUILT_IN, schedule)
    return names.index(schedule), schedule


def _with_columns(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    extra = [name for name in frame.columns if name not in columns]
    return frame.reindex(columns=[*columns, *extra])


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    text_columns = {
        name for name in frame.columns if name in _TEXT_COLUMNS or name.startswith("hp_")
    }
    numbers = {
        name: pd.to_numeric(frame[name], errors="coerce").astype(float)
        for name in frame.columns
        if name not in text_columns
    }
    return frame.assign(**numbers)
