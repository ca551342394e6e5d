"""The best configuration as plain data, for the user's own training code."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import yaml

from sweeper.errors import SweeperError
from sweeper.study.results import baseline, best

Format = Literal["json", "yaml", "python"]
FORMATS: Final[tuple[Format, ...]] = ("json", "yaml", "python")

_SCORES: Final = (
    "nll",
    "nll_calibrated",
    "temperature",
    "accuracy",
    "accuracy_top5",
    "brier",
    "ece",
)


@dataclass(frozen=True)
class StudyFacts:
    """What an export says of its study beside the trials."""

    name: str
    spec_hash: str
    metric: str
    seed: int
    classes: int | None
    versions: Mapping[str, str]
    created: str


def best_document(facts: StudyFacts, trials: pd.DataFrame) -> dict[str, Any]:
    """Return the best finished trial as plain data, beside the same scores at ε = 0.

    `epsilon` is in the convention `others`, `label_smoothing` in torch's. Raises
    `SweeperError` where no trial has finished.
    """
    row, base = best(trials), baseline(trials)
    if row is None:
        raise SweeperError(f"study {facts.name!r} has no finished trial to export yet")
    return {
        "study": facts.name,
        "spec_hash": facts.spec_hash,
        "trial": int(row["number"]),
        "metric": facts.metric,
        "convention": "others",
        "epsilon": float(row["epsilon"]),
        "label_smoothing": _number(row["label_smoothing"]),
        "schedule": str(row["schedule"]),
        "rate": _number(row["rate"]),
        "hparams": _prefixed(row, "hp_"),
        "classes": facts.classes,
        "split": "valid",
        "scores": _scores(row),
        "baseline": None if base is None else _scores(base),
        "seed": facts.seed,
        "versions": dict(facts.versions),
        "created": facts.created,
    }


def render(document: Mapping[str, Any], form: Format) -> str:
    """Return an export as the text of a file."""
    match form:
        case "json":
            return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        case "yaml":
            return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
        case "python":
            return _python(document)


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all; raises `SweeperError` where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
            whole = Path(beside) / path.name
            whole.write_text(text, encoding="utf-8")
            return whole.replace(path)
    except OSError as error:
        raise SweeperError(f"{path} cannot be written: {error.strerror}") from None


_PYTHON: Final = '''"""The best smoothing of study {study}.

Validation {metric}: {value:.4f}, against {baseline} at epsilon 0.
"""

from sweeper.smoothing import Smoothing, SmoothingLoss

SMOOTHING = Smoothing(epsilon={epsilon!r}, schedule={schedule!r}, rate={rate!r})
# The same in torch, for a fixed schedule: F.cross_entropy(..., label_smoothing=LABEL_SMOOTHING)
LABEL_SMOOTHING = {label_smoothing!r}


def make_loss() -> SmoothingLoss:
    """Return the loss; set its `progress` in [0, 1] before each step."""
    return SmoothingLoss(SMOOTHING)
'''


def _python(document: Mapping[str, Any]) -> str:
    base, metric = document["baseline"], document["metric"]
    return _PYTHON.format(
        study=document["study"],
        metric=metric,
        value=document["scores"][metric],
        baseline="nothing" if base is None else f"{base[metric]:.4f}",
        epsilon=document["epsilon"],
        schedule=document["schedule"],
        rate=document["rate"],
        label_smoothing=document["label_smoothing"],
    )


def _scores(row: pd.Series) -> dict[str, float | None]:
    return {name: _number(row[name]) for name in _SCORES} | _prefixed(row, "extra_")


def _prefixed(row: pd.Series, prefix: str) -> dict[str, Any]:
    return {
        str(key).removeprefix(prefix): _plain(value)
        for key, value in row.items()
        if str(key).startswith(prefix) and not pd.isna(value)
    }


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
