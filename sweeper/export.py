"""The best configuration as plain data, for the user's own training code."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Final, Literal

import pandas as pd
import yaml

from sweeper.confirmation.evidence import COMPARED, Evidence
from sweeper.confirmation.verdict import Verdict
from sweeper.errors import Conflict, SweeperError
from sweeper.smoothing import to_uniform
from sweeper.study.results import SCORES, baseline, best
from sweeper.study.space import acting, hparams_of
from sweeper.study.spec import canonical_json, digest

Format = Literal["json", "yaml", "python"]
FORMATS: Final[tuple[Format, ...]] = ("json", "yaml", "python")


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


def best_document(
    facts: StudyFacts,
    trials: pd.DataFrame,
    evidence: Evidence | None = None,
    verdict: Verdict | None = None,
) -> dict[str, Any]:
    """Return what to use as plain data, beside the same scores at ε = 0.

    With a verdict that is the pick where it helps, and else ε = 0; the scores are then means
    over the replicates. Without one it is the finished trial with the lowest metric, chosen by
    the luck of one seed as well. `epsilon` is in the convention `others`, `label_smoothing` in
    torch's; `digest` tells whether the file was changed. Raises `SweeperError` where no trial
    has finished.
    """
    if evidence is not None and verdict is not None:
        chosen = _confirmed(facts, evidence, verdict)
    else:
        chosen = _searched(facts, trials)
    document = {
        "study": facts.name,
        "spec_hash": facts.spec_hash,
        "metric": facts.metric,
        "convention": "others",
        **chosen,
        "classes": facts.classes,
        "seed": facts.seed,
        "versions": dict(facts.versions),
        "created": facts.created,
    }
    return {**document, "digest": digest_of(document)}


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document without its own digest."""
    plain = {key: value for key, value in document.items() if key != "digest"}
    return digest(canonical_json(plain).encode())


def _searched(facts: StudyFacts, trials: pd.DataFrame) -> dict[str, Any]:
    row, base = best(trials), baseline(trials)
    if row is None:
        raise Conflict(f"study {facts.name!r} has no finished trial to export yet")
    return {
        "rule": "lowest trial",
        "trial": int(row["number"]),
        "epsilon": float(row["epsilon"]),
        "label_smoothing": _number(row["label_smoothing"]),
        "schedule": str(row["schedule"]),
        "rate": _number(row["rate"]),
        "hparams": _prefixed(row, "hp_"),
        "split": "valid",
        "scores": _scores(row),
        "baseline": None if base is None else _scores(base),
        "verdict": None,
    }


def _confirmed(facts: StudyFacts, evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    chosen = evidence.candidates[evidence.pick if verdict.exported else 0]
    smoothing = acting(chosen.point)
    uniform = None if facts.classes is None else to_uniform(smoothing.epsilon, facts.classes)
    return {
        "rule": evidence.settings.choice,
        "trial": chosen.trial,
        "epsilon": smoothing.epsilon,
        "label_smoothing": uniform,
        "schedule": smoothing.schedule,
        "rate": smoothing.rate,
        "hparams": hparams_of(chosen.point),
        "split": "valid",
        "scores": _means(evidence, evidence.candidates.index(chosen)),
        "baseline": _means(evidence, 0),
        "verdict": verdict.to_dict(),
        "confirmation": _compared(evidence),
    }


def _means(evidence: Evidence, candidate: int) -> dict[str, float | None]:
    """Return the mean of each validation score over the replicates of a candidate."""
    found = [replicate.scores["valid"] for replicate in evidence.done[candidate].values()]
    return {name: _mean([scores.get(name) for scores in found]) for name in SCORES}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _compared(evidence: Evidence) -> dict[str, Any]:
    """Return every candidate with its differences from ε = 0 on the test split, descriptive."""
    return {
        "number": evidence.number,
        "settings": evidence.settings.model_dump(mode="json", exclude={"enabled"}),
        "candidates": [
            {**candidate.to_dict(), "test": _differences(evidence, index)}
            for index, candidate in enumerate(evidence.candidates)
        ],
    }


def _differences(evidence: Evidence, candidate: int) -> dict[str, Any]:
    found = {score: evidence.compare(candidate, score) for score in COMPARED}
    return {
        score: {
            "mean": comparison.mean,
            "difference": comparison.difference.estimate,
            "low": comparison.difference.low,
            "high": comparison.difference.high,
        }
        for score, comparison in found.items()
        if comparison is not None
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


_PYTHON: Final = '''"""The smoothing to use, from study {study}.

Validation {metric}: {value:.4f}, against {baseline} at epsilon 0.
{verdict}
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
        verdict=_verdict_in_words(document["verdict"]),
        baseline="nothing" if base is None else f"{base[metric]:.4f}",
        epsilon=document["epsilon"],
        schedule=document["schedule"],
        rate=document["rate"],
        label_smoothing=document["label_smoothing"],
    )


def _verdict_in_words(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "Not confirmed: the best of many trials on one seed is lucky."
    return "\n".join(line for said in verdict["sentences"] for line in wrap(said, 96))


def _scores(row: pd.Series) -> dict[str, float | None]:
    return {name: _number(row[name]) for name in SCORES} | _prefixed(row, "extra_")


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
