"""The recommended configuration and its verdict at the top of the page."""

from typing import Literal, NamedTuple

from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.recommendation import (
    lowest_in_search,
    other_hyperparameters,
    recommendation,
)
from sweeper.confirmation.verdict import Verdict, test_examples
from sweeper.metrics import METRICS
from sweeper.report.report_input import ReportInput, with_finite_value
from sweeper.smoothing.usage import Usage, usage
from sweeper.study.space import effective_smoothing
from sweeper.study.spec import ConfirmSection

Kind = Literal["helps", "none", "hurts", "open"]


class VerdictSection(NamedTuple):
    """The recommended configuration and the result of the confirmation as text.

    `kind` is "open" without a verdict and "helps" if the pick is recommended. `lowest` is about the
    lowest value of the search, "" if no trial has finished. `finding` is the result of the test, or
    why there is none; `sentences` are the rest of the verdict. `settings` are those of the
    confirmation, "" without one; `command` starts a confirmation, "" if none is needed. `usage` is
    None without a recommendation.
    """

    kind: Kind
    headline: str
    finding: str
    lowest: str
    sentences: tuple[str, ...] = ()
    settings: str = ""
    command: str = ""
    hparams: str = ""
    usage: Usage | None = None


def verdict_section(report: ReportInput) -> VerdictSection:
    evidence, verdict = report.evidence, report.verdict
    lowest = lowest_in_search(with_finite_value(report.trials), report.metric)
    if evidence is None or verdict is None:
        return _open(report, lowest)
    candidate = verdict.recommended
    # The finding is followed by the reasons why a pick that is better is not recommended.
    reasons = 1 + bool(verdict.failed) + bool(verdict.reason)
    return VerdictSection(
        _kind(verdict),
        recommendation(candidate),
        " ".join(verdict.sentences[:reasons]),
        lowest,
        verdict.sentences[reasons:],
        _settings(evidence),
        hparams=other_hyperparameters(candidate),
        usage=_usage(candidate, report.classes),
    )


def _kind(verdict: Verdict) -> Kind:
    if verdict.word == "hurts":
        return "hurts"
    return "none" if verdict.recommended is verdict.baseline else "helps"


def _usage(candidate: Candidate, classes: int | None) -> Usage:
    smoothing = effective_smoothing(candidate.point)
    return usage(smoothing.epsilon, smoothing.schedule, classes)


def _open(report: ReportInput, lowest: str) -> VerdictSection:
    headline, evidence = recommendation(None), report.evidence
    if evidence is not None:
        return VerdictSection(
            "open", headline, _without_verdict(evidence), lowest, settings=_settings(evidence)
        )
    if report.unconfirmed:
        return VerdictSection(
            "open", headline, f"There is nothing to confirm: {report.unconfirmed}.", lowest
        )
    command = f"sweeper confirm {report.name}"
    finding = "Not yet retrained on fresh seeds."
    return VerdictSection("open", headline, finding, lowest, command=command)


def _without_verdict(evidence: Evidence) -> str:
    ended, planned_runs = len(evidence.replicates), evidence.planned_runs
    if not evidence.complete:
        return (
            f"Confirmation in progress: {ended} of {planned_runs} training runs ended. The "
            "verdict is given when all have ended; partial results may still change."
        )
    reason = evidence.no_verdict
    return f"No verdict: the confirmation failed. {reason[:1].upper()}{reason[1:]}."


def _settings(evidence: Evidence) -> str:
    settings = evidence.settings
    rows = next((r.rows for r in evidence.replicates if "test" in r.rows), None)
    parts = (
        f"{settings.replicates} fresh seeds for each of {len(evidence.candidates)} candidates",
        test_examples(rows) if rows else "",
        "splits redrawn for each seed" if settings.resplit else "",
        f"pick: {_choice(settings, METRICS[evidence.metric].label)}",
        f"constraint: {settings.constraint}" if settings.constraint else "",
    )
    return " · ".join(filter(None, parts))


def _choice(settings: ConfirmSection, metric: str) -> str:
    """Return the rule that selected the pick, as text."""
    lowest = f"lowest smoothed validation {metric}"
    return {
        "best": lowest,
        "one_standard_error": f"smallest ε within one standard error of the {lowest}",
        "knee": f"knee of smoothed validation {metric} against error",
    }[settings.choice]
