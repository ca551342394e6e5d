"""The table of trials that the database sorts, and the page of one trial."""

from typing import Any, Literal, NamedTuple

import pandas as pd
from markupsafe import Markup

from sweeper.api import Study, Trial
from sweeper.report import wording
from sweeper.report.figures.schedules import chosen_data, schedules_figure, schedules_notes
from sweeper.report.page import figure_json
from sweeper.report.report_input import prepared_trials
from sweeper.report.trial_table import Table, trials_table
from sweeper.study.frames import STATE_WORDS
from sweeper.study.results import SCORES

TRIALS_A_PAGE = 50
_WRITTEN = {"nll": "NLL", "ece": "ECE", "aurc": "AURC", "eaurc": "E-AURC", "brier": "Brier"}
Order = Literal["ascending", "descending"]


class TrialTable(NamedTuple):
    """A part of a study's trials, and how it was asked for."""

    table: Table
    sort: str
    order: Order
    state: str
    schedule: str
    page: int
    pages: int
    total: int
    states: tuple[str, ...]
    schedules: tuple[str, ...]
    sortable: frozenset[str]


class Asked(NamedTuple):
    """Which part of whose trials somebody wants to see; `root` stands before its links."""

    root: str
    study: str
    sort: str
    order: Order
    state: str
    schedule: str
    page: int


def trials_page(study: Study, asked: Asked) -> TrialTable:
    """Return a part of the trials; raises `SweeperError` for what there is not."""
    _, _, sort, order, state, schedule, page = asked
    found = study.page(
        sort=sort,
        descending=order == "descending",
        state=state or None,
        schedule=schedule or None,
        offset=(page - 1) * TRIALS_A_PAGE,
        limit=TRIALS_A_PAGE,
    )
    space = study.spec.space
    return TrialTable(
        table=trials_table(prepared_trials(found.frame), None),
        sort=sort,
        order=order,
        state=state,
        schedule=schedule,
        page=page,
        pages=max(1, -(-found.total // TRIALS_A_PAGE)),
        total=found.total,
        states=tuple(sorted(set(STATE_WORDS.values()))),
        schedules=tuple(dict.fromkeys((*space.schedule, "fixed"))),
        sortable=frozenset(study.sortable),
    )


class TrialPage(NamedTuple):
    """One trial as its page shows it; `figure` is None where it has no evaluation yet."""

    number: int
    words: str
    state: str
    figure: Markup | None
    height: int
    notes: tuple[str, ...]
    scores: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    epochs: tuple[dict[str, Any], ...]
    log: str
    failure: str


def trial_page(study: Study, number: int) -> TrialPage:
    """Return one trial; raises `UnknownName` where there is none of that number."""
    trial = study.trial(number)
    row = trial.row
    courses = chosen_data([("", row)], trial.epochs)
    figure = None if courses.empty else schedules_figure(courses)
    return TrialPage(
        number=number,
        words=wording.smoothing(row),
        state=str(row["state"]),
        figure=None if figure is None else figure_json(figure),
        height=0 if figure is None else figure.layout.height,
        notes=() if figure is None else schedules_notes(courses),
        scores=tuple(_scores(row)),
        facts=tuple(_facts(trial)),
        environment=tuple(sorted(trial.result.environment.items())),
        epochs=tuple(
            {str(key): value for key, value in epoch.items()}
            for epoch in trial.epochs.to_dict("records")
        ),
        log=trial.result.log,
        failure=trial.result.failure,
    )


def _scores(row: pd.Series) -> list[tuple[str, str]]:
    return [(score_name(key), score_text(key, row[key])) for key in SCORES if not pd.isna(row[key])]


def score_text(score: str, value: float) -> str:
    """Return a score as it is read: shares in percent, NLL and Brier with three decimals."""
    if score.startswith(("nll", "brier", "entropy", "aurc", "eaurc")):
        return wording.nll(value)
    return wording.figure(value) if score == "temperature" else wording.percent(value)


def _facts(trial: Trial) -> list[tuple[str, str]]:
    row = trial.row
    extra = [
        (str(key).partition("_")[2], str(value) if isinstance(value, str) else f"{value:.4g}")
        for key, value in row.items()
        if str(key).startswith(("hp_", "extra_")) and not pd.isna(value)
    ]
    known = [
        ("ε", wording.epsilon(row["epsilon"])),
        ("label_smoothing (torch)", wording.epsilon(row["label_smoothing"])),
        ("schedule", str(row["schedule"])),
        ("rate", wording.figure(row["rate"])),
        *extra,
        ("epochs", str(row["epochs"])),
        ("time", wording.seconds(row["seconds"])),
        ("cause of failure", str(row["cause"])),
        ("notes", str(row["notes"])),
    ]
    copied = row["copied_from"]
    known += [] if pd.isna(copied) else [("result taken over from", f"trial {copied}")]
    return [(name, text) for name, text in known if text and text != wording.NOTHING]


def score_name(score: str) -> str:
    """Return a score's name as people write it."""
    words = score.replace("top5", "top 5").split("_")
    return " ".join(_WRITTEN.get(word, word) for word in words)
