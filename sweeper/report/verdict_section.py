"""The verdict in words, for the top of the page; or why there is none yet."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.verdict import METRICS, Verdict, describe
from sweeper.report import wording
from sweeper.report.report_input import ReportInput
from sweeper.smoothing import to_uniform
from sweeper.study.spec import Confirm

Kind = Literal["helps", "none", "hurts", "open"]


class Confirmed(NamedTuple):
    """What the confirmation says; `kind` is open without a verdict, helps if the pick is to use.

    `settings` are those of the confirmation, `command` what makes one; "" for none.
    """

    kind: Kind
    headline: str
    sentences: tuple[str, ...]
    settings: str = ""
    command: str = ""


def confirmed(report: ReportInput) -> Confirmed:
    """Return the words for a report."""
    evidence, verdict = report.evidence, report.verdict
    if evidence is None:
        return _absent(report)
    if verdict is None:
        return Confirmed("open", *_without_verdict(evidence), _settings(evidence))
    sentences = (*verdict.sentences, *_in_torch(verdict, report.classes))
    return Confirmed(
        _kind(verdict), _headline(verdict, METRICS[evidence.metric]), sentences, _settings(evidence)
    )


def _kind(verdict: Verdict) -> Kind:
    if verdict.word == "hurts":
        return "hurts"
    return "helps" if verdict.exported else "none"


def _headline(verdict: Verdict, metric: str) -> str:
    pick = describe(verdict.pick)
    if verdict.exported:
        return f"Helps: use {pick}"
    if verdict.word == "helps":
        return f"Helps in {metric}, but not to be used: {pick}"
    return f"{verdict.word.capitalize()}: use ε = 0"


def _in_torch(verdict: Verdict, classes: int | None) -> Iterator[str]:
    if not verdict.exported or classes is None or classes < 2:
        return
    point = verdict.pick.point
    value = wording.epsilon(to_uniform(point["epsilon"], classes))
    when = "" if point["schedule"] == "fixed" else " before the schedule acts"
    yield f"In torch's argument ε is label_smoothing = {value}{when}."


def _absent(report: ReportInput) -> Confirmed:
    alone = "what follows is the search alone, on one split and from one seed."
    if report.unconfirmed:
        said = f"The search gave nothing to confirm: {report.unconfirmed}. So {alone}"
        return Confirmed("open", "Not confirmed", (said,))
    said = f"Nothing has been trained again on fresh seeds: {alone}"
    return Confirmed("open", "Not confirmed", (said,), command=f"sweeper confirm {report.name}")


def _without_verdict(evidence: Evidence) -> tuple[str, tuple[str, ...]]:
    ended, wanted = len(evidence.replicates), evidence.wanted
    if not evidence.complete:
        said = "The verdict comes when all have ended: what half of them say may yet turn round."
        return f"Confirmation under way: {ended} of {wanted} trainings have ended", (said,)
    reason = evidence.no_verdict
    return "No verdict: the confirmation failed", (f"{reason[:1].upper()}{reason[1:]}.",)


def _settings(evidence: Evidence) -> str:
    settings = evidence.settings
    rows = next((r.rows["test"] for r in evidence.replicates if "test" in r.rows), None)
    parts = (
        f"{settings.replicates} fresh seeds for each of {len(evidence.candidates)} candidates",
        f"{rows:,} test examples" if rows else "",
        "splits redrawn for each seed" if settings.resplit else "",
        f"pick: {_choice(settings, METRICS[evidence.metric])}",
        f"constraint: {settings.constraint or 'none'}",
    )
    return " · ".join(filter(None, parts))


def _choice(settings: Confirm, metric: str) -> str:
    """Return by which rule the pick was chosen from the search."""
    lowest = f"lowest smoothed validation {metric}"
    return {
        "best": lowest,
        "one_standard_error": f"smallest ε within one standard error of the {lowest}",
        "knee": f"knee of smoothed validation {metric} against error",
    }[settings.choice]
