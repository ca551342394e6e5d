"""Studies or trials side by side."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd
from markupsafe import Markup

from sweeper.api import Study
from sweeper.confirmation.verdict import METRICS
from sweeper.errors import SweeperError
from sweeper.report import wording
from sweeper.report.figures.schedules import chosen_data, schedules_figure, schedules_notes
from sweeper.report.page import figure_json
from sweeper.service.pages.trials import score_name, score_text
from sweeper.service.study_reader import Library
from sweeper.study.results import SCORES
from sweeper.study.spec import canonical_json

# What a screen holds side by side, and as many looks as tell trials apart.
MOST: Final = 4


class Compared(NamedTuple):
    """Rows with a cell an item; `figure` has the curves where the items are trials."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    figure: Markup | None = None
    height: int = 0
    notes: tuple[str, ...] = ()


def compared(library: Library, items: Sequence[str]) -> Compared | None:
    """Return studies (by name) or trials (study/number) side by side; None without two.

    Raises `SweeperError` where an item is neither, or both kinds are mixed.
    """
    if len(items) > MOST:
        raise SweeperError(f"item: {len(items)} were given; allowed: 2 to {MOST}")
    if len(items) < 2:
        return None
    kinds = {"/" in item for item in items}
    if len(kinds) == 2:
        raise SweeperError("item: studies and trials do not compare; give two or more of one kind")
    return _trials(library, items) if kinds == {True} else _studies(library, items)


def _studies(library: Library, names: Sequence[str]) -> Compared:
    studies = [library.study(name) for name in names]
    columns = [dict(_facts(library, study)) for study in studies]
    specs = [
        _flat(study.spec.model_dump(mode="json", exclude={"study": {"name"}})) for study in studies
    ]
    keys = dict.fromkeys(key for spec in specs for key in spec)
    differing = [key for key in keys if len({spec.get(key) for spec in specs}) > 1]
    rows = [(key, tuple(column[key] for column in columns)) for key in columns[0]]
    rows += [(key, tuple(spec.get(key, wording.NOTHING) for spec in specs)) for key in differing]
    return Compared(tuple((name, name) for name in names), tuple(rows))


def _facts(library: Library, study: Study) -> Iterator[tuple[str, str]]:
    snapshot = library.snapshot(study.name)
    counts, verdict, best = snapshot.progress, study.verdict(), study.best
    yield "state", snapshot.state
    yield "trials ended", f"{counts.ended:,} of {counts.trials:,}"
    yield "failed", f"{counts.failed:,}"
    yield "metric", METRICS[snapshot.metric]
    yield "at ε = 0", wording.NOTHING if counts.baseline is None else wording.nll(counts.baseline)
    yield "lowest", wording.NOTHING if counts.best is None else wording.nll(counts.best)
    yield "lowest trial", wording.NOTHING if best is None else wording.smoothing(best)
    yield "verdict", "not confirmed" if verdict is None else verdict.word
    if verdict is not None:
        found = verdict.comparison.difference
        yield "difference on test (95 %)", wording.difference(found)
    else:
        yield "difference on test (95 %)", wording.NOTHING


def _trials(library: Library, items: Sequence[str]) -> Compared:
    trials = [(item, *_one(library, item)) for item in items]
    rows = [row for _, row, _ in trials]
    # Trials of several studies may share a number; here each has its own.
    epochs = pd.concat(
        [found.assign(number=at) for at, (_, _, found) in enumerate(trials)], ignore_index=True
    )
    chosen = [(item, row.copy()) for item, row, _ in trials]
    for at, (_, row) in enumerate(chosen):
        row["number"] = at
    courses = chosen_data(chosen, epochs)
    figure = None if courses.empty else schedules_figure(courses)
    return Compared(
        heads=tuple((item, item.replace("/", "/trials/")) for item in items),
        rows=tuple(_trial_rows(rows)),
        figure=None if figure is None else figure_json(figure),
        height=0 if figure is None else figure.layout.height,
        notes=() if figure is None else schedules_notes(courses),
    )


def _one(library: Library, item: str) -> tuple[pd.Series, pd.DataFrame]:
    name, _, number = item.partition("/")
    if not number.isdecimal() or len(number) > 9:
        raise SweeperError(f"item: {item!r}; allowed: a study's name, or NAME/TRIAL")
    trial = library.study(name).trial(int(number))
    return trial.row, trial.epochs


def _trial_rows(rows: Sequence[pd.Series]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "state", tuple(str(row["state"]) for row in rows)
    yield "ε", tuple(wording.epsilon(row["epsilon"]) for row in rows)
    yield "schedule", tuple(str(row["schedule"]) for row in rows)
    yield "rate", tuple(wording.figure(row["rate"]) for row in rows)
    extras = dict.fromkeys(str(key) for row in rows for key in row.index if str(key)[:3] == "hp_")
    for key in extras:
        yield key.removeprefix("hp_"), tuple(_short(row.get(key)) for row in rows)
    for score in SCORES:
        if any(not pd.isna(row[score]) for row in rows):
            yield score_name(score), tuple(score_text(score, row[score]) for row in rows)
    yield "epochs", tuple(str(row["epochs"]) for row in rows)
    yield "time", tuple(wording.seconds(row["seconds"]) for row in rows)


def _short(value: Any) -> str:
    if value is None or pd.isna(value):
        return wording.NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else canonical_json(value)}
    return {
        key: text
        for name, below in value.items()
        for key, text in _flat(below, f"{prefix}.{name}" if prefix else name).items()
    }
