"""Scores of the training and test split, and of each test example, at the end of a training run."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.scoring import Scores, examples, score
from sweeper.training.conversion import in_one_line
from sweeper.training.failures import TrainingFailed
from sweeper.training.messages import EXAMPLE_VALUES, NO_TEST, TEST_GROUPS
from sweeper.training.outputs import Outputs, split_outputs
from sweeper.training.run import Evaluation, new_scorer


@dataclass(frozen=True)
class ReplicateResult:
    """Scores and number of rows of each split, and the values of the test examples.

    `examples` has shape (len(EXAMPLE_VALUES), number of test examples). `groups` are the groups of
    the test examples, numbered from 0; empty if each example is one. Their number is in `rows`
    under TEST_GROUPS.
    """

    scores: Mapping[str, Mapping[str, float | None]]
    rows: Mapping[str, int]
    examples: NDArray[np.float32]
    groups: NDArray[np.int32]

    def save(self, path: Path) -> dict[str, Any]:
        """Write the values and groups of the test examples to an .npz file; return the rest."""
        np.savez(path, examples=self.examples, groups=self.groups)
        return {"scores": self.scores, "rows": self.rows}


def replicate_result(evaluation: Evaluation, valid: Scores) -> ReplicateResult:
    """Score the other splits of the last evaluation of a training run.

    `valid` are the scores of the validation split; its temperature calibrates the test examples.
    Raises `TrainingFailed` if there is no test split or a split cannot be scored.
    """
    if "test" not in evaluation.splits or valid.temperature is None:
        raise TrainingFailed(NO_TEST)
    splits = {str(name): _call_split(evaluation, name) for name in evaluation.splits}
    logits, labels, groups = splits["test"]
    scores = {name: _scores(name, outputs) for name, outputs in splits.items()}
    diverged = [name for name, values in scores.items() if not math.isfinite(values["nll"])]
    if diverged:
        raise TrainingFailed(
            f"training diverged: NLL on the {diverged[0]} split is not finite", "diverged"
        )
    values = examples(logits, labels, valid.temperature)
    rows = {"valid": len(evaluation.labels)}
    rows |= {name: len(outputs.labels) for name, outputs in splits.items()}
    return result_of(
        {"valid": valid.to_dict(), **scores},
        rows,
        {name: np.asarray(getattr(values, name)) for name in EXAMPLE_VALUES},
        None if groups is None else groups.cpu().numpy(),
    )


def result_of(
    scores: Mapping[str, Mapping[str, float | None]],
    rows: Mapping[str, int],
    values: Mapping[str, NDArray[Any]],
    groups: NDArray[Any] | None,
) -> ReplicateResult:
    """Return a result from values (N,) of the test examples; those that are not given are NaN."""
    # float32, because its rounding error is far below the noise of the differences
    stacked = np.full((len(EXAMPLE_VALUES), rows["test"]), np.nan, np.float32)
    for name, value in values.items():
        stacked[EXAMPLE_VALUES.index(name)] = value
    if groups is None:
        return ReplicateResult(scores, rows, stacked, np.empty(0, np.int32))
    numbers = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    return ReplicateResult(scores, {**rows, TEST_GROUPS: int(numbers.max()) + 1}, stacked, numbers)


def _scores(name: str, outputs: Outputs) -> dict[str, Any]:
    logits, labels, groups = outputs
    try:
        # For the large training split the basic scores suffice: they only show the gap.
        return asdict(score(logits, labels, full=name == "test", groups=groups))
    except ValueError as error:
        raise TrainingFailed(f"Evaluation.splits[{name!r}]: {error}") from error


def _call_split(evaluation: Evaluation, name: str) -> Outputs:
    place = f"Evaluation.splits[{name!r}]"
    try:
        returned = evaluation.splits[name]()
    except Exception as error:
        raise TrainingFailed(f"{place} raised {in_one_line(error)}") from error
    try:
        outputs = split_outputs(returned, new_scorer(evaluation.ignore_index), place)
    except (TypeError, ValueError) as error:
        raise TrainingFailed(str(error)) from error
    if not len(outputs.labels):
        raise TrainingFailed(f"{place} returned no examples; it must return logits and labels")
    return outputs
