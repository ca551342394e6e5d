"""What the commands print about the plan, the state and the results of a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.api import LaunchPlan, StudySnapshot
from sweeper.api.problems import problems
from sweeper.cli.options import console, echo, print_json
from sweeper.cli.tables import confirmed, summary, without_result
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.recommendation import lowest_in_search, recommendation
from sweeper.formatting import hours
from sweeper.metrics import METRICS
from sweeper.store.usage import Hours
from sweeper.study.patience import hours_exceeded
from sweeper.study.results import failures
from sweeper.study.space import effective_smoothing, run_hparams
from sweeper.worker.trial_files import EXPORT, REPORT
from sweeper.worker.worker_states import WorkerState


def status(study: StudySnapshot, workers: Sequence[WorkerState]) -> dict[str, Any]:
    """Return the status of a study, with the fields in docs/reference/command-line.md."""
    best, trials, verdict = study.best, study.frame, study.verdict
    return {
        "study": study.name,
        "state": study.state,
        "problem": "",
        "metric": study.metric,
        "recommended": None if study.recommended is None else _plain(study.recommended, study),
        **study.progress.to_dict(),
        "workers": [worker.to_dict() for worker in workers],
        "failures": failures(trials),
        "trial_numbers": trials["number"].tolist(),
        "earlier_trials": len(study.earlier),
        "best_trial": None if best is None else int(best["number"]),
        "verdict": None if verdict is None else verdict.to_dict(),
        "unconfirmed": study.unconfirmed,
    }


def _plain(candidate: Candidate, study: StudySnapshot) -> dict[str, Any]:
    smoothing = effective_smoothing(candidate.point)
    hparams = run_hparams(candidate.point, study.spec.space)
    return {**smoothing._asdict(), "hparams": hparams}


def print_plan(plan: LaunchPlan, as_json: bool) -> None:
    """Print what a launch would run."""
    if as_json:
        print_json(
            {
                "study": plan.name,
                "spec_hash": plan.spec_hash,
                "ended": plan.ended,
                "trials": plan.trials,
                "points": plan.points,
                "submission": plan.submission,
            }
        )
        return
    echo(
        f"study {plan.name} ({plan.spec_hash[:12]}): {plan.trials} trials, {plan.ended} ended; "
        f"{plan.trials - plan.sampled} initial points, {plan.sampled} from "
        f"{plan.spec.sampler.name}. Nothing was written."
    )
    if plan.extension is not None:
        echo(f"{plan.extension}.")
    echo(plan.submission, nl=False)


def finished_before(plan: LaunchPlan) -> str:
    """Return why a launch has nothing to run, and how to continue the study."""
    if plan.ended < plan.trials:
        return (
            f"study {plan.name} is already finished: it ended at {plan.ended} of {plan.trials} "
            f"trials (budget.{plan.stopped_by}). Raise budget.{plan.stopped_by} to continue."
        )
    return (
        f"study {plan.name} is already finished: all {plan.trials} trials are done. "
        "Raise budget.trials (or --trials) to continue."
    )


def print_results(
    study: StudySnapshot, results: Path, again: str, before: LaunchPlan | None = None
) -> None:
    """Print how a run ended and the results of the study so far.

    `again` is the command that continues the study. `before` is the plan of a launch.
    """
    if study.state != "failed" and not study.finished:
        _print_unfinished(study, again)
    elif before is not None and not before.finished:
        _print_early_end(study)
    for line in problems(study):
        echo(line)
    if before is not None or not study.finished:
        print_summary(study)
    print_verdict(study)
    for file in (REPORT, EXPORT):
        path = results / study.name / file
        if path.is_file():
            echo(path)


def usage(study: StudySnapshot) -> str:
    """Return the hours that a study has used, and those of its budget."""
    counts, budget = study.progress, study.spec.budget
    of_search = (
        ("core hours", counts.core_hours, budget.core_hours),
        ("GPU hours", counts.gpu_hours, budget.gpu_hours),
    )
    parts = [
        f"{hours(used)}{'' if limit is None else f' of {limit:g}'} {unit}"
        for unit, used, limit in of_search
        if used or limit is not None or unit == "core hours"
    ]
    later = (
        ("core hours", counts.confirmation_core_hours),
        ("GPU hours", counts.confirmation_gpu_hours),
    )
    confirmation = ", ".join(f"{hours(used)} {unit}" for unit, used in later if used)
    return f"used: {', '.join(parts)}{f'; confirmation: {confirmation}' if confirmation else ''}"


def _print_unfinished(study: StudySnapshot, again: str) -> None:
    counts, metric = study.progress, METRICS[study.metric]
    echo(
        f"study {study.name} stopped at {counts.ended} of {counts.trials} trials "
        f"({counts.complete} complete, {counts.pruned} pruned, {counts.failed} failed)"
    )
    if counts.confirming:
        echo(f"confirmation: {counts.confirmed} of {counts.confirming} runs have ended")
    for title, value in (("best", counts.best), ("ε = 0:", counts.baseline)):
        if value is not None:
            echo(f"{title} {metric.heading} {metric.write(value)}")
    echo(f"to continue: {again}")


def _print_early_end(study: StudySnapshot) -> None:
    counts, budget = study.progress, study.spec.budget
    if not study.finished or counts.ended >= counts.trials:
        return
    key = hours_exceeded(Hours(counts.core_hours, counts.gpu_hours), budget)
    reason = (
        f"it has used its {getattr(budget, key):g} {key.replace('_', ' ')} (budget.{key})."
        if key
        else f"no improvement in the last {budget.patience} (budget.patience)."
    )
    echo(f"study {study.name} is finished at {counts.ended} of {counts.trials} trials: {reason}")


def print_summary(study: StudySnapshot) -> None:
    """Print ε = 0 and the best trial of each schedule, if there are any."""
    table = summary(study.frame)
    if table.row_count:
        console().print(table)
        for line in without_result(study.frame):
            echo(line)


def print_verdict(study: StudySnapshot) -> None:
    """Print the recommended configuration, its verdict or why there is none, and the notes."""
    evidence, verdict = study.evidence, study.verdict
    if evidence is not None and verdict is not None:
        console().print(confirmed(evidence))
    echo(recommendation(study.recommended))
    if verdict is not None:
        echo(f"verdict: {verdict.word}")
    lowest = lowest_in_search(study.frame, study.metric)
    if lowest:
        console().print(lowest, soft_wrap=False)
    if verdict is not None:
        for sentence in verdict.sentences:
            console().print(f"  {sentence}", soft_wrap=False)
    elif evidence is not None and evidence.complete:
        echo(f"no verdict: {evidence.no_verdict}")
    elif study.unconfirmed:
        echo(f"not confirmed: {study.unconfirmed}")
    for sentence in study.health:
        console().print(f"note: {sentence}")
