"""The pages of all trials, sorted by the database, and of one trial."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd
from markupsafe import Markup

from sweeper import formatting as fmt
from sweeper.api import Study, Trial
from sweeper.metrics import METRICS
from sweeper.report.earlier_table import EarlierTable, earlier_table
from sweeper.report.figures.schedules import schedules_figure, schedules_notes, selected_data
from sweeper.report.page import figure_json
from sweeper.report.report_input import prepare_trials
from sweeper.report.trial_table import Table, trials_table
from sweeper.study.frames import STATE_WORDS

TRIALS_PER_PAGE = 50
Order = Literal["ascending", "descending"]


class TrialTable(NamedTuple):
    """One page of the trials of a study, with its sorting and filters."""

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
    earlier: EarlierTable


class TrialTableQuery(NamedTuple):
    """The study, page, sorting and filters of a table; `root` is the prefix of its links.

    `recommended` is the number of the recommended trial, None if there is none.
    """

    root: str
    study: str
    sort: str
    order: Order
    state: str
    schedule: str
    page: int
    recommended: int | None = None


def trials_page(study: Study, query: TrialTableQuery) -> TrialTable:
    """Return one page of the trials; raises `SweeperError` for an unknown study or column."""
    _, _, sort, order, state, schedule, page, recommended = query
    trials = study.page(
        sort=sort,
        descending=order == "descending",
        state=state or None,
        schedule=schedule or None,
        offset=(page - 1) * TRIALS_PER_PAGE,
        limit=TRIALS_PER_PAGE,
    )
    space = study.spec.space
    return TrialTable(
        table=trials_table(prepare_trials(trials.frame), {"recommended": recommended}),
        sort=sort,
        order=order,
        state=state,
        schedule=schedule,
        page=page,
        pages=max(1, -(-trials.total // TRIALS_PER_PAGE)),
        total=trials.total,
        states=tuple(sorted(set(STATE_WORDS.values()))),
        schedules=tuple(dict.fromkeys((*space.schedule, "fixed"))),
        sortable=frozenset(study.sortable),
        earlier=earlier_table(study.earlier()),
    )


class TrialPage(NamedTuple):
    """The page of one trial; `figure` is None before its first evaluation."""

    number: int
    has_previous: bool
    has_next: bool
    words: str
    state: str
    figure: Markup | None
    height: int
    notes: tuple[str, ...]
    scores: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    epochs: tuple[tuple[str, ...], ...]
    log: str
    failure: str


def trial_page(study: Study, number: int) -> TrialPage:
    """Return the page of one trial; raises `UnknownName` if the number does not exist."""
    trial = study.trial(number)
    row = trial.row
    curves = selected_data([("", row)], trial.epochs)
    figure = None if curves.empty else schedules_figure(curves)
    return TrialPage(
        number=number,
        has_previous=study.has_trial(number - 1),
        has_next=study.has_trial(number + 1),
        words=fmt.trial_smoothing(row),
        state=str(row["state"]),
        figure=None if figure is None else figure_json(figure),
        height=0 if figure is None else figure.layout.height,
        notes=() if figure is None else schedules_notes(curves),
        scores=tuple(_scores(row)),
        facts=tuple(_facts(trial)),
        environment=tuple(sorted(trial.result.environment.items())),
        epochs=tuple(_epoch(row) for row in trial.epochs.to_dict("records")),
        log=trial.printed,
        failure=trial.result.failure,
    )


def _epoch(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """Return the cells of the table of evaluations."""
    loss = fmt.NOTHING if pd.isna(row["train_loss"]) else fmt.nll(row["train_loss"])
    scores = (METRICS[score].write(row[score]) for score in ("nll", "accuracy", "ece"))
    return (str(row["epoch"]), fmt.epsilon(row["epsilon"]), loss, *scores)


def _scores(row: pd.Series) -> list[tuple[str, str]]:
    return [
        (metric.label, metric.write(row[key]))
        for key, metric in METRICS.items()
        if not pd.isna(row[key])
    ]


def _facts(trial: Trial) -> list[tuple[str, str]]:
    row = trial.row
    extra = [
        (str(key).partition("_")[2], fmt.setting(value))
        for key, value in row.items()
        if str(key).startswith(("hp_", "extra_")) and not pd.isna(value)
    ]
    facts = [
        ("ε", fmt.epsilon(row["epsilon"])),
        ("label_smoothing (torch)", fmt.epsilon(row["label_smoothing"])),
        ("schedule", str(row["schedule"])),
        ("annealing rate", fmt.two_figures(row["rate"])),
        *extra,
        ("epochs", str(row["epochs"])),
        ("time", fmt.duration(row["seconds"])),
        ("cores", fmt.setting(row["cores"])),
        ("core hours", fmt.hours(row["core_hours"]) if row["core_hours"] > 0 else ""),
        ("GPU hours", fmt.hours(row["gpu_hours"]) if row["gpu_hours"] > 0 else ""),
        ("peak memory", fmt.gibibytes(row["peak_memory"])),
        ("cause of failure", fmt.cause(str(row["cause"]))),
        ("notes", str(row["notes"])),
        ("code", f"revision {row['code']}" if row["code"] > 1 else ""),
    ]
    copied = row["copied_from"]
    facts += [] if pd.isna(copied) else [("result reused from", f"trial {copied}")]
    return [(name, text) for name, text in facts if text and text != fmt.NOTHING]
