"""Export of the best configuration, for use in other training code."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Final, Literal

import pandas as pd
import yaml

from sweeper.confirmation.evidence import COMPARED_SCORES, Evidence
from sweeper.confirmation.verdict import Verdict
from sweeper.errors import Conflict
from sweeper.formatting import moment
from sweeper.metrics import METRICS
from sweeper.smoothing.usage import label_smoothing, why_no_label_smoothing
from sweeper.snapshot import StudySnapshot
from sweeper.study.dimensions import Space
from sweeper.study.results import SCORES, baseline, best
from sweeper.study.space import EffectiveSmoothing, effective_smoothing, run_hparams
from sweeper.study.spec import canonical_json, digest
from sweeper.training.messages import EVIDENCE

Format = Literal["json", "yaml", "python"]
OPTIMISTIC: Final = "optimistically biased: the lowest of many trials, each with one seed"
FORMATS: Final[tuple[Format, ...]] = ("json", "yaml", "python")


@dataclass(frozen=True)
class StudyFacts:
    """Facts about a study in an export, besides its trials."""

    name: str
    spec_hash: str
    metric: str
    seed: int
    space: Space
    classes: int | None
    versions: Mapping[str, str]
    created: str
    confirmed_code: int = 1


def document_of(snapshot: StudySnapshot) -> dict[str, Any]:
    """Return the `best_document` of a study; raises `SweeperError` if no trial is complete."""
    facts = StudyFacts(
        name=snapshot.name,
        spec_hash=snapshot.record.spec_hash,
        metric=snapshot.metric,
        seed=snapshot.spec.study.seed,
        space=snapshot.spec.space,
        classes=snapshot.classes,
        versions=snapshot.versions,
        created=moment(time.time()),
        confirmed_code=snapshot.confirmed_code,
    )
    return best_document(facts, snapshot.frame, snapshot.evidence, snapshot.verdict)


def best_document(
    facts: StudyFacts,
    trials: pd.DataFrame,
    evidence: Evidence | None = None,
    verdict: Verdict | None = None,
) -> dict[str, Any]:
    """Return the recommended configuration and its scores, with those at ε = 0, as plain data.

    With a verdict, it is `Verdict.recommended`: the pick if it helps and satisfies the constraint,
    else ε = 0; the scores are means over the replicates. Without a verdict, nothing is recommended
    yet: it is the complete trial with the lowest metric, whose scores are optimistically biased by
    selection, and `recommended` is false. `lowest` is that trial in both cases.

    `epsilon` is in the convention `others`. `label_smoothing` is torch's argument; if torch has no
    equivalent, it is left out and `label_smoothing_omitted` says why. `code` is the revision of the
    study's code. `digest` shows whether the document was changed. Raises `SweeperError` if no trial
    is complete.
    """
    if evidence is not None and verdict is not None:
        selected = _confirmation_result(facts, evidence, verdict)
    else:
        selected = _search_result(facts, trials)
    selected["lowest"] = _lowest(best(trials))
    document = {
        "study": facts.name,
        "spec_hash": facts.spec_hash,
        "metric": facts.metric,
        "convention": "others",
        **selected,
        "classes": facts.classes,
        "evidence": facts.versions.get(EVIDENCE, "scored"),
        "seed": facts.seed,
        "versions": dict(facts.versions),
        "created": facts.created,
    }
    return {**document, "digest": digest_of(document)}


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document without its own digest."""
    plain = {key: value for key, value in document.items() if key != "digest"}
    return digest(canonical_json(plain).encode())


def _search_result(facts: StudyFacts, trials: pd.DataFrame) -> dict[str, Any]:
    row, base = best(trials), baseline(trials)
    if row is None:
        raise Conflict(f"study {facts.name!r} has no finished trial to export yet")
    smoothing = EffectiveSmoothing(
        float(row["epsilon"]), str(row["schedule"]), _number(row["rate"])
    )
    return {
        "recommended": False,
        "rule": "lowest trial",
        "trial": int(row["number"]),
        **_smoothing(smoothing, facts.classes),
        "hparams": {**facts.space.fixed, **_prefixed(row, "hp_")},
        "code": int(row["code"]),
        "split": "valid",
        "scores": _scores(row),
        "baseline": None if base is None else _scores(base),
        "verdict": None,
    }


def _confirmation_result(facts: StudyFacts, evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    candidate = verdict.recommended
    return {
        "recommended": True,
        "rule": evidence.settings.choice,
        "trial": candidate.trial,
        **_smoothing(effective_smoothing(candidate.point), facts.classes),
        "hparams": run_hparams(candidate.point, facts.space),
        "code": facts.confirmed_code,
        "split": "valid",
        "scores": _means(evidence, evidence.candidates.index(candidate)),
        "baseline": _means(evidence, 0),
        "verdict": verdict.to_dict(),
        "confirmation": _candidate_comparisons(evidence),
    }


def _smoothing(smoothing: EffectiveSmoothing, classes: int | None) -> dict[str, Any]:
    argument = label_smoothing(smoothing.epsilon, smoothing.schedule, classes)
    in_torch = (
        {"label_smoothing_omitted": why_no_label_smoothing(smoothing.schedule, classes)}
        if argument is None
        else {"label_smoothing": argument}
    )
    return {"epsilon": smoothing.epsilon, **in_torch, **smoothing._asdict()}


def _lowest(row: pd.Series | None) -> dict[str, Any] | None:
    """Return the trial with the lowest metric in the search, whose value is optimistic."""
    if row is None:
        return None
    return {
        "trial": int(row["number"]),
        "value": float(row["value"]),
        "epsilon": float(row["epsilon"]),
        "schedule": str(row["schedule"]),
        "rate": _number(row["rate"]),
        "note": OPTIMISTIC,
    }


def _means(evidence: Evidence, candidate: int) -> dict[str, float | None]:
    """Return the mean of each validation score over the replicates of a candidate."""
    replicates = [
        replicate.scores["valid"]
        for replicate in evidence.replicates_by_candidate[candidate].values()
    ]
    return {name: _mean([scores.get(name) for scores in replicates]) for name in SCORES}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _candidate_comparisons(evidence: Evidence) -> dict[str, Any]:
    """Return all candidates with their descriptive differences from ε = 0 on the test split."""
    return {
        "number": evidence.number,
        "settings": evidence.settings.model_dump(mode="json", exclude={"enabled"}),
        "candidates": [
            {**candidate.to_dict(), "test": _differences(evidence, index)}
            for index, candidate in enumerate(evidence.candidates)
        ],
    }


def _differences(evidence: Evidence, candidate: int) -> dict[str, Any]:
    comparisons = {score: evidence.compare(candidate, score) for score in COMPARED_SCORES}
    return {
        score: {
            "mean": comparison.mean,
            "difference": comparison.difference.estimate,
            "low": comparison.difference.low,
            "high": comparison.difference.high,
        }
        for score, comparison in comparisons.items()
        if comparison is not None
    }


def render(document: Mapping[str, Any], form: Format, *, ascii_only: bool = False) -> str:
    """Return a document as text; with `ascii_only`, non-ASCII characters are escaped."""
    match form:
        case "json":
            return json.dumps(document, indent=2, ensure_ascii=ascii_only, allow_nan=False) + "\n"
        case "yaml":
            return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=not ascii_only)
        case "python":
            return _python(document)


_PYTHON: Final = '''"""{title} label smoothing of study {study}.

Validation {metric}: {value}; at epsilon 0: {baseline}.
{verdict}
"""

from sweeper.smoothing import Smoothing, SmoothingLoss

SMOOTHING = Smoothing(epsilon={epsilon!r}, schedule={schedule!a}, rate={rate!r})
{in_torch}
{hparams}

def make_loss() -> SmoothingLoss:
    """Return the loss; set its `progress` in [0, 1] before each step."""
    return SmoothingLoss(SMOOTHING)
'''


def _python(document: Mapping[str, Any]) -> str:
    base, metric = document["baseline"], document["metric"]
    write = METRICS[metric].write
    return _PYTHON.format(
        title="Recommended" if document["recommended"] else "Not yet recommended:",
        study=document["study"],
        metric=METRICS[metric].label,
        value=write(document["scores"][metric]),
        verdict=_verdict_in_words(document["verdict"]),
        baseline="not available" if base is None else write(base[metric]),
        epsilon=document["epsilon"],
        schedule=document["schedule"],
        rate=document["rate"],
        in_torch=_in_torch(document),
        hparams=_hparams_in_python(document["hparams"]),
    )


def _in_torch(document: Mapping[str, Any]) -> str:
    if "label_smoothing" in document:
        use = "# For torch: F.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)"
        return f"{use}\nLABEL_SMOOTHING = {document['label_smoothing']!r}"
    reason = f"There is no LABEL_SMOOTHING: {document['label_smoothing_omitted']} Use make_loss()."
    return "\n".join(f"# {line}" for line in wrap(reason.replace("ε", "epsilon"), 96))


def _hparams_in_python(hparams: Mapping[str, Any]) -> str:
    if not hparams:
        return ""
    lines = (f"    {name!a}: {value!a},\n" for name, value in hparams.items())
    return f"# The other hyperparameters of this configuration.\nHPARAMS = {{\n{''.join(lines)}}}\n"


def _verdict_in_words(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "Not yet retrained on fresh seeds: the best of many trials is optimistically biased."
    text = "\n".join(line for sentence in verdict["sentences"] for line in wrap(sentence, 96))
    return text.replace("\\", r"\\").replace('"', r"\"")  # for the docstring


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
