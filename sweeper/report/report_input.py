"""What a report is made from, and the frames brought into the shape that figures count on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeper.confirmation.evidence import Evidence, Split
from sweeper.confirmation.verdict import Verdict
from sweeper.report import wording
from sweeper.study import results
from sweeper.study.spec import Space

Metric = Literal["nll", "nll_calibrated"]
Floats = NDArray[np.float64]

READY: Final = ("fixed", "linear", "cosine", "exponential", "step", "confidence", "error")
_WORDS: Final = ("state", "schedule", "started", "finished", "failure", "cause", "notes")
_SPLIT_NAMES: Final[Mapping[Split, tuple[str, ...]]] = {
    "valid": ("validation", "valid", "val"),
    "test": ("test",),
    "train": ("training", "train"),
}


@dataclass(frozen=True, eq=False)
class ReportInput:
    """A study as a report needs it; `trials` and `epochs` as `sweeper.study.results` says.

    `epochs` are those of the trials that `schedules.drawn` names, at least.
    `label_source` names, for each split, where its labels come from and whether they carry
    noise. `facts` (versions, seed, hash of the spec, time) stand in the footer. `evidence` is
    the latest confirmation, `verdict` what it says when it is complete, `unconfirmed` why there
    is none.
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

    @property
    def labels(self) -> str:
        """The source of the validation labels, in words."""
        return self.labels_of("valid")

    def labels_of(self, split: Split) -> str:
        """Return the source of the labels of a split (valid, test or train), in words."""
        known = self.label_source
        named = (known[name] for name in _SPLIT_NAMES[split] if name in known)
        return next(named, "source not stated")

    def source(self, split: Split, scaled: bool = False) -> str:
        """Return which split numbers are of and who labelled it; `scaled`: by validation's T."""
        name = wording.SPLITS[split].capitalize()
        said = f"{name} split; labels: {self.labels_of(split)}."
        fitted = f" Temperatures are fitted on the validation split; labels: {self.labels}."
        return said + fitted if scaled else said

    @property
    def confirmed(self) -> Evidence | None:
        """The evidence once all of it is there: half of it may yet turn round."""
        return self.evidence if self.evidence is not None and self.evidence.complete else None


def prepared(report: ReportInput) -> ReportInput:
    """Return the same report with every column there, and numbers as floats (NaN for none)."""
    trials = prepared_trials(report.trials).sort_values("number", ignore_index=True)
    epochs = _numeric(_with_columns(report.epochs, results.EPOCH_COLUMNS))
    return replace(report, trials=trials, epochs=epochs)


def prepared_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """Return trials in the same order, with every column there and numbers as floats."""
    trials = _numeric(_with_columns(frame, results.TRIAL_COLUMNS))
    trials["failure"] = trials["failure"].astype("object").fillna("").astype(str)
    trials["schedule"] = trials["schedule"].astype("object").fillna("?").astype(str)
    return trials


def usable(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials without those that finished on a value that is no number."""
    finite = np.isfinite(trials["value"].to_numpy(float))
    kept: pd.DataFrame = trials.loc[(trials["state"] != "complete") | finite]
    return kept


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that were trained to the end and have a value, best first.

    Trials that were only given another's stored result are left out: they are no new evidence.
    """
    rows = results.complete(usable(trials))
    return rows[rows["copied_from"].isna()]


def pruned(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that were stopped early, with the NLL that was last seen."""
    return with_numbers(trials.loc[trials["state"] == "pruned"], ["nll"])


def with_numbers(trials: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the trials whose values in all of these columns are finite numbers."""
    kept: pd.DataFrame = trials.loc[np.isfinite(trials[columns].to_numpy(float)).all(axis=1)]
    return kept


def by_schedule(trials: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the smoothed trials (epsilon > 0) of each schedule, the ready ones first."""
    smoothed = trials[trials["epsilon"] > 0]
    groups = {str(name): rows for name, rows in smoothed.groupby("schedule")}
    return {name: groups[name] for name in sorted(groups, key=schedule_order)}


def schedule_order(schedule: str) -> tuple[int, str]:
    """Return what schedules are sorted by, in every legend: a study's own come last."""
    ready = READY.index(schedule) if schedule in READY else len(READY)
    return ready, schedule


def _with_columns(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    extra = [name for name in frame.columns if name not in columns]
    return frame.reindex(columns=[*columns, *extra])


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    words = {name for name in frame.columns if name in _WORDS or name.startswith("hp_")}
    numbers = {
        name: pd.to_numeric(frame[name], errors="coerce").astype(float)
        for name in frame.columns
        if name not in words
    }
    return frame.assign(**numbers)
