"""What a study's page in optuna-dashboard shows of ours: what was found, and a few figures."""

from collections.abc import Mapping
from typing import Any

import optuna
import pandas as pd

from sweeper.store.database import Store
from sweeper.study.results import baseline, best, best_by_schedule
from sweeper.study.spec import StudySpec
from sweeper.study.verdict import Verdict

_METRICS = {"nll": "NLL", "nll_calibrated": "NLL after temperature scaling"}
_CAUTION = (
    "The search: the best of many trials is lucky by selection, and one split and one seed say "
    "nothing about significance. Scores on the validation split; NLL is unsmoothed, in nats."
)


def write_note(store: Store, name: str, text: str, figures: Mapping[str, Any]) -> None:
    """Put the note and the figures, by id, on the study; they replace earlier ones."""
    from optuna_dashboard import save_note, save_plotly_graph_object  # late: a web server comes too

    study = optuna.load_study(study_name=name, storage=store.storage)
    save_note(study, text)
    for graph, figure in figures.items():
        save_plotly_graph_object(study, figure, graph_object_id=graph)


def note(spec: StudySpec, trials: pd.DataFrame, verdict: Verdict | None = None) -> str:
    """Return the note's Markdown."""
    row, base = best(trials), baseline(trials)
    if row is None:
        return "No trial has finished yet."
    found = _headline(row, base, _METRICS[spec.objective.metric])
    said = [] if verdict is None else [f"**Verdict: {verdict.word}.**", *verdict.sentences, ""]
    lines = [*said, f"### {found}", "", *_table(base, trials), "", _CAUTION]
    return "\n".join(lines)


def _headline(row: pd.Series, base: pd.Series | None, metric: str) -> str:
    value = f"{metric} {row['value']:.4f}"
    if row["epsilon"] == 0:
        return f"ε = 0 is best so far ({value}): no benefit of smoothing found"
    against = (
        "while ε = 0 has no result" if base is None else f"against {base['value']:.4f} at ε = 0"
    )
    return f"Best so far: {_name(row)}, {value} {against}"


def _table(base: pd.Series | None, trials: pd.DataFrame) -> list[str]:
    rows = [row for _, row in best_by_schedule(trials).iterrows()]
    rows = rows if base is None else [base, *rows]
    return [
        "| | NLL | accuracy | ECE |",
        "|---|---|---|---|",
        *(
            f"| {_name(row)} | {row['nll']:.4f} | {row['accuracy']:.3f} | {row['ece']:.3f} |"
            for row in rows
        ),
    ]


def _name(row: pd.Series) -> str:
    if row["epsilon"] == 0:
        return "ε = 0"
    rate = "" if pd.isna(row["rate"]) else f", rate {row['rate']:.2g}"
    return f"ε = {row['epsilon']:.3g}, {row['schedule']}{rate}"
