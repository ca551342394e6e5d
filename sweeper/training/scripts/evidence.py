"""From what a script delivers to the reports of its training run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from sweeper.scoring import Scores, score
from sweeper.training.conversion import as_progress
from sweeper.training.failures import TrainingFailed
from sweeper.training.labels import digest_of
from sweeper.training.messages import Grade
from sweeper.training.replicate_scores import replicate_result, result_of
from sweeper.training.run import Evaluation, new_scorer
from sweeper.training.scripts.delivered import Delivered, FileReader, read_file
from sweeper.training.scripts.output import SelfReport

NO_TEST_FILE: Final = (
    "the script has written no file test-….npz; in a confirmation, SWEEPER_SPLITS contains test: "
    "write logits and labels of data that was not used for training or selection"
)

# Tolerance for an NLL that is 0 except for rounding.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Measured:
    """The scores of one report; `labels` is the digest of the labels, "" if they are unknown.

    `result` contains the scores of the other splits, for a confirmation.
    """

    grade: Grade
    scores: Mapping[str, float | None]
    classes: int | None
    labels: str = ""
    extra: Mapping[str, float] | None = None
    result: Mapping[str, Any] | None = None


def measure_file(
    file: Delivered, test: Callable[[], Delivered] | None, arrays: Path | None, *, full: bool
) -> Measured:
    """Score a file of the validation split; `full` says whether all scores are needed.

    In a confirmation, `test` returns the file of the test split, and the values of its examples are
    written to `arrays`. Raises `TrainingFailed` if a file cannot be scored.
    """
    if file.grade == "per-example":
        return _per_example(file, test, arrays)
    splits = {} if test is None else {"test": partial(_test_outputs, test)}
    try:
        logits, labels, groups = file.outputs()
        evaluation = Evaluation(
            logits,
            labels,
            1.0,
            groups=groups,
            splits=splits,
            ignore_index=file.ignore_index,
        )
        scores = score(evaluation.logits, evaluation.labels, full=full, groups=evaluation.groups)
    except (TypeError, ValueError) as error:
        raise TrainingFailed(f"{file.name}: {error}") from error
    _check_finite(file.name, scores.nll)
    result = None
    if test is not None and arrays is not None:
        result = replicate_result(evaluation, scores).save(arrays)
    digest, classes = digest_of(file.arrays["labels"]), evaluation.logits.shape[1]
    return Measured("scored", scores.to_dict(), classes, digest, None, result)


def _test_outputs(test: Callable[[], Delivered]) -> Any:
    file = test()
    if file.grade != "scored":
        raise TrainingFailed(f"{file.name} must contain logits and labels, as the valid file does")
    logits, labels, groups = file.outputs()
    if labels is not None:
        return logits, labels, *(() if groups is None else (groups,))
    scorer = new_scorer(file.ignore_index)
    for batch in logits:
        scorer.add(*batch)
    return scorer


def measure_line(line: SelfReport) -> Measured:
    """Return the numbers of a line; raises `TrainingFailed` if they cannot be an NLL."""
    _check_finite("the output", line.nll)
    _check_sign("the output", line.nll)
    return Measured("self-reported", _only(nll=line.nll), None, extra=line.extra)


def progress_of(line: SelfReport) -> float | None:
    """Return the progress of a line, or None; raises `TrainingFailed` if it is wrong."""
    try:
        return None if line.progress is None else as_progress(line.progress)
    except ValueError as error:
        raise TrainingFailed(f"a JSON line of the output: {error}") from error


def _per_example(
    file: Delivered, test: Callable[[], Delivered] | None, arrays: Path | None
) -> Measured:
    scores, result = _means(file), None
    if test is not None and arrays is not None:
        examples = test()
        if examples.grade != "per-example":
            raise TrainingFailed(
                f"{examples.name} must contain nll and correct, as the valid file does"
            )
        values = {name: examples.arrays[name] for name in ("nll", "correct")}
        rows = {"valid": len(file.arrays["nll"]), "test": len(values["nll"])}
        both = {"valid": scores, "test": _means(examples)}
        result = result_of(both, rows, values, examples.arrays.get("groups")).save(arrays)
    labels = file.arrays.get("labels")
    digest = "" if labels is None else digest_of(labels)
    return Measured("per-example", scores, None, digest, None, result)


def _means(file: Delivered) -> dict[str, float | None]:
    nll = float(np.mean(file.arrays["nll"], dtype=np.float64))
    _check_finite(file.name, nll)
    _check_sign(file.name, float(np.min(file.arrays["nll"])))
    return _only(nll=nll, accuracy=float(np.mean(file.arrays["correct"], dtype=np.float64)))


def _only(**known: float) -> dict[str, float | None]:
    """Return all scores; those that are not given are None."""
    return {**dict.fromkeys(Scores.__dataclass_fields__, None), **known}


def _check_finite(where: str, nll: float) -> None:
    if not math.isfinite(nll):
        raise TrainingFailed(f"training diverged: the NLL in {where} is {nll}", "diverged")


def _check_sign(where: str, nll: float) -> None:
    if nll < -_ROUNDING:
        raise TrainingFailed(
            f"the NLL in {where} is {nll:g}, but that of class probabilities is never negative; "
            "deliver -log p of the true class"
        )


def test_file(folder: Path) -> Callable[[], Delivered]:
    """Return a function that reads the file of the test split; it raises `TrainingFailed`."""

    def read() -> Delivered:
        path = FileReader(folder, "test").last()
        if path is None:
            raise TrainingFailed(NO_TEST_FILE)
        return read_file(path)

    return read


def has_test_file(folder: Path) -> bool:
    """Return whether the script has written a file of the test split."""
    return FileReader(folder, "test").last() is not None
