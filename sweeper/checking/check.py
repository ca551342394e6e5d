"""Check a study: train three short runs and answer the questions about them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from sweeper.checking.effect import effect, hidden, repeatability, undecided
from sweeper.checking.finding import Check, CheckLine, finding, ok
from sweeper.checking.runs import SMOOTHED, ObservedRun, ShortRuns
from sweeper.checking.validation import (
    classes,
    outputs,
    shared_rows,
    validation_loss,
    validation_split,
)
from sweeper.study.frames import failure_summary
from sweeper.study.load import StoredStudy, StudyFile
from sweeper.tasks.given import GivenObject
from sweeper.worker.code import loaded_code

TRAINING: Final = "training runs"
# Further pairs of runs if the training is not repeatable.
MOST_PAIRS: Final = 4
# Called before each run with its ε.
OnRun = Callable[[float], None]


def run_check(
    study: StudyFile, given: GivenObject | None = None, on_run: OnRun = lambda _: None
) -> Check:
    """Train the runs of a check in trainer processes, and return the result; write nothing.

    `given` is the function or the task that was given in place of a file.
    """
    began = time.perf_counter()
    stored = StoredStudy(study.spec, study.code.label_source)
    point = next(study.points())
    assert point is not None  # the baseline
    with loaded_code(stored, study.folder, given) as code:
        short = ShortRuns(code, study.spec, point)

        def train(epsilon: float) -> ObservedRun:
            on_run(epsilon)
            return short.train(epsilon)

        runs, lines = _lines(train, short, script=study.spec.task.is_script)
    progress = sum(run.progress for run in runs)
    return Check(
        study=study.name,
        lines=lines,
        epochs=sum(len(run.reports) for run in runs),
        share=progress / study.spec.budget.trials,
        seconds=time.perf_counter() - began,
        code=study.hash(),
    )


def _lines(
    train: Callable[[float], ObservedRun], short: ShortRuns, *, script: bool
) -> tuple[list[ObservedRun], list[CheckLine]]:
    runs = list[ObservedRun]()
    for epsilon in (0.0, 0.0, SMOOTHED):
        runs.append(train(epsilon))
        if not runs[-1].reports:
            return runs, [_failed(runs[-1])]
    first, second, smoothed = runs
    records = [record for run in runs for record in run.records]
    zeros, with_epsilon = [first, second], [smoothed]
    answer = effect(zeros, with_epsilon)
    pairs = min(short.extra_pairs(first.progress), MOST_PAIRS)
    while answer is None and pairs:
        pairs -= 1
        zeros.append(train(0.0))
        with_epsilon.append(train(SMOOTHED))
        answer = effect(zeros, with_epsilon)
    runs = [*zeros, *with_epsilon]
    lines = [
        _trained(runs),
        replace(repeatability(first, second), seconds=second.seconds),
        replace(answer or undecided(), seconds=sum(run.seconds for run in with_epsilon)),
        hidden([first, second], script=script),
        validation_loss(first, smoothed),
        validation_split([first, second, smoothed], script=script),
        outputs(records),
        shared_rows(records),
        classes(records),
    ]
    return runs, lines


def _trained(runs: Sequence[ObservedRun]) -> CheckLine:
    failed = next((run for run in runs if run.end.state == "failed"), None)
    if failed is not None:
        return _failed(failed)
    epochs = len(runs[0].reports)
    each = f"{epochs} report{'' if epochs == 1 else 's'} each"
    return replace(ok(TRAINING, f"{len(runs)} short runs, {each}"), seconds=runs[0].seconds)


def _failed(run: ObservedRun) -> CheckLine:
    """Return the line of a run that failed or reported nothing.

    Only a fault of the code stops a launch: other configurations may need less time or memory, and
    need not diverge.
    """
    why = failure_summary(run.end.failure) or "it reported nothing"
    return finding(
        TRAINING,
        "fails",
        f"a training run at ε = {run.epsilon:g} failed: {why}; correct the training code",
        stops=run.end.cause in ("raised", "exited", ""),
    )
