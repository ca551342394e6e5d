"""The comparison page: studies or trials side by side."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd
from markupsafe import Markup

from sweeper import formatting as fmt
from sweeper import limits
from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.metrics import METRICS
from sweeper.report.figures.schedules import schedules_figure, schedules_notes, selected_data
from sweeper.report.page import figure_json
from sweeper.service.study_reader import StudyReader
from sweeper.study.spec import canonical_json

# More columns do not fit on a screen, and more curves are hard to distinguish.
MAX_COMPARED: Final = 4


class ComparisonPage(NamedTuple):
    """A table with one column per item; `figure` has the curves if the items are trials."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    figure: Markup | None = None
    height: int = 0
    notes: tuple[str, ...] = ()


def comparison_page(study_reader: StudyReader, items: Sequence[str]) -> ComparisonPage | None:
    """Compare studies (by name) or trials (as study/number); None for fewer than two items.

    Raises `SweeperError` for an unknown item or a mix of both kinds.
    """
    if len(items) > MAX_COMPARED:
        raise SweeperError(f"item: got {len(items)} items; allowed: 2 to {MAX_COMPARED}")
    if len(items) < 2:
        return None
    kinds = {"/" in item for item in items}
    if len(kinds) == 2:
        raise SweeperError(
            "item: studies and trials cannot be mixed; give two or more of the same kind"
        )
    return _trials(study_reader, items) if kinds == {True} else _studies(study_reader, items)


def _studies(study_reader: StudyReader, names: Sequence[str]) -> ComparisonPage:
    studies = [study_reader.study(name) for name in names]
    columns = [dict(_facts(study_reader, study)) for study in studies]
    specs = [
        _flat(study.spec.model_dump(mode="json", exclude={"study": {"name"}})) for study in studies
    ]
    keys = dict.fromkeys(key for spec in specs for key in spec)
    differing = [key for key in keys if len({spec.get(key) for spec in specs}) > 1]
    rows = [(key, tuple(column[key] for column in columns)) for key in columns[0]]
    rows += [(key, tuple(spec.get(key, fmt.NOTHING) for spec in specs)) for key in differing]
    return ComparisonPage(tuple((name, name) for name in names), tuple(rows))


def _facts(study_reader: StudyReader, study: Study) -> Iterator[tuple[str, str]]:
    status = study_reader.status(study.name)
    snapshot = study_reader.snapshot(status)
    counts, verdict, best = status.progress, snapshot.verdict, snapshot.best
    recommended = status.recommended
    yield "recommended", "none yet" if recommended is None else fmt.smoothing(*recommended)
    yield "verdict", "not confirmed" if verdict is None else verdict.word
    difference = None if verdict is None else verdict.comparison.difference
    yield (
        "test difference from ε = 0 (95% CI)",
        fmt.NOTHING if difference is None else fmt.difference(difference),
    )
    yield "state", status.state
    yield "trials ended", f"{counts.ended:,} of {counts.trials:,}"
    yield "failed", f"{counts.failed:,}"
    yield "metric", METRICS[status.metric].label
    yield (
        "value at ε = 0",
        fmt.NOTHING if counts.baseline is None else fmt.nll(counts.baseline),
    )
    yield "lowest value (optimistic)", fmt.NOTHING if counts.best is None else fmt.nll(counts.best)
    yield (
        "configuration of the lowest value",
        fmt.NOTHING if best is None else fmt.trial_smoothing(best),
    )


def _trials(study_reader: StudyReader, items: Sequence[str]) -> ComparisonPage:
    trials = [(item, *_trial(study_reader, item)) for item in items]
    rows = [row for _, row, _ in trials]
    # Trials of several studies may have the same number, so they are numbered by position here.
    all_epochs = pd.concat(
        [epochs.assign(number=at) for at, (_, _, epochs) in enumerate(trials)], ignore_index=True
    )
    labeled = [(item, row.copy()) for item, row, _ in trials]
    for at, (_, row) in enumerate(labeled):
        row["number"] = at
    curves = selected_data(labeled, all_epochs)
    figure = None if curves.empty else schedules_figure(curves)
    return ComparisonPage(
        heads=tuple((item, item.replace("/", "/trials/")) for item in items),
        rows=tuple(_trial_rows(rows)),
        figure=None if figure is None else figure_json(figure),
        height=0 if figure is None else figure.layout.height,
        notes=() if figure is None else schedules_notes(curves),
    )


def _trial(study_reader: StudyReader, item: str) -> tuple[pd.Series, pd.DataFrame]:
    name, _, number = item.partition("/")
    if not number.isdecimal() or len(number) > limits.INTEGER_DIGITS:
        raise SweeperError(f"item: {item!r} is not valid; give a study name or STUDY/NUMBER")
    trial = study_reader.study(name).trial(int(number))
    return trial.row, trial.epochs


def _trial_rows(rows: Sequence[pd.Series]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "state", tuple(str(row["state"]) for row in rows)
    yield "ε", tuple(fmt.epsilon(row["epsilon"]) for row in rows)
    yield "schedule", tuple(str(row["schedule"]) for row in rows)
    yield "annealing rate", tuple(fmt.two_figures(row["rate"]) for row in rows)
    extras = dict.fromkeys(str(key) for row in rows for key in row.index if str(key)[:3] == "hp_")
    for key in extras:
        yield key.removeprefix("hp_"), tuple(_short(row.get(key)) for row in rows)
    for score, metric in METRICS.items():
        if any(not pd.isna(row[score]) for row in rows):
            yield metric.label, tuple(metric.write(row[score]) for row in rows)
    yield "epochs", tuple(str(row["epochs"]) for row in rows)
    yield "time", tuple(fmt.duration(row["seconds"]) for row in rows)


def _short(value: Any) -> str:
    if value is None or pd.isna(value):
        return fmt.NOTHING
    return fmt.setting(value)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else canonical_json(value)}
    return {
        key: text
        for name, nested in value.items()
        for key, text in _flat(nested, f"{prefix}.{name}" if prefix else name).items()
    }
