"""Is the validation split the same in all runs, and are its numbers those of unsmoothed labels?"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sweeper.checking.effect import same_outputs
from sweeper.checking.finding import CheckLine, finding, ok, unchecked
from sweeper.checking.runs import ObservedReport, ObservedRun
from sweeper.training.observation.record import ReportRecord

LOSS: Final = "validation loss"
SPLIT: Final = "validation split"
OUTPUTS: Final = "outputs"
SHARED: Final = "shared rows"
CLASSES: Final = "classes"

# A reported loss is that of smoothed labels if it is nearer to it than to the NLL by this factor.
# Means over batches of different sizes and class weights move a loss, but not by most of the gap.
_NEAR: Final = 0.2
# If the gap between the two losses is small relative to the NLL, or the smoothing is not known, the
# values must agree up to rounding.
_GAP: Final = 0.02
_EXACT: Final = 0.01
_SMALLEST: Final = 0.01
# Share of the validation rows that may also be training rows, for example by coincidence.
_SHARED: Final = 0.01
# Above this share, the validation data is mostly the training data.
_MOSTLY: Final = 0.5
# Probability of a false alarm about missing classes.
_CHANCE: Final = 1e-3
# If fewer of the validation inputs are distinct, inputs are also equal by coincidence.
_DISTINCT: Final = 0.7


# ---- the loss that the training code reports -----------------------------------------------------


def validation_loss(zero: ObservedRun, smoothed: ObservedRun) -> CheckLine:
    """Compare validation losses that the training code reports with our NLL of the same logits."""
    reports = (*zero.reports, *smoothed.reports)
    names = [name for name in _loss_names(reports) if all(name in r.extra for r in reports)]
    measured = all(report.record.uniform is not None for report in reports)
    if not names or not measured:
        return unchecked(LOSS, "no report has a validation loss besides the logits (extra)")
    lines = [_loss_line(name, zero, smoothed) for name in names]
    return next((line for line in lines if line.outcome == "finding"), lines[0])


def _loss_names(reports: Sequence[ObservedReport]) -> list[str]:
    names = dict.fromkeys(name for report in reports for name in report.extra)
    words = ("loss", "nll", "cross_entropy", "crossentropy", "xent")
    return [
        name
        for name in names
        if any(word in name.lower() for word in words) and "train" not in name.lower()
    ]


def _loss_line(name: str, zero: ObservedRun, smoothed: ObservedRun) -> CheckLine:
    plain = [_share(name, report) for report in zero.reports]
    with_epsilon = [_share(name, report) for report in smoothed.reports]
    shares = [*plain, *with_epsilon]
    expected = _mass(smoothed.epsilon, smoothed.records[0].classes)
    for mass in (expected, smoothed.epsilon):
        clear = max(_gap(report.record, mass) for report in smoothed.reports) > _GAP
        near = _NEAR if clear else _EXACT
        at_zero = all(abs(share) < _NEAR * mass for share in plain)
        if at_zero and all(abs(share - mass) < near * mass for share in with_epsilon):
            return _smoothed(name, f"at ε = {smoothed.epsilon:g} it is the smoothed loss")
    middle = sum(shares) / len(shares)
    if middle > _SMALLEST and all(abs(share - middle) <= _EXACT * middle for share in shares):
        return _smoothed(name, f"it is the loss with label_smoothing {middle:.2g}")
    if all(abs(share) < _NEAR * expected for share in shares):
        return ok(LOSS, f"{name} is the loss of unsmoothed labels")
    return unchecked(LOSS, f"{name} is neither our NLL nor the smoothed loss of the same logits")


def _share(name: str, report: ObservedReport) -> float:
    """Return the label smoothing (torch's convention) that would give the reported loss."""
    record = report.record
    gap = (record.uniform or 0.0) - record.mean_nll
    difference = report.extra[name] - record.mean_nll
    return difference / gap if gap else math.inf


def _gap(record: ReportRecord, mass: float) -> float:
    gap = (record.uniform or 0.0) - record.mean_nll
    return abs(mass * gap) / max(record.mean_nll, 1e-12)


def _mass(epsilon: float, classes: int | None) -> float:
    count = classes or 2
    return epsilon * count / (count - 1)


def _smoothed(name: str, why: str) -> CheckLine:
    return finding(
        LOSS,
        "smoothed-validation",
        f"{name} is not the NLL of the reported logits: {why}; evaluate with "
        "torch.nn.functional.cross_entropy without label_smoothing",
        stops=False,
    )


# ---- the split ----------------------------------------------------------------------------------


def validation_split(runs: Sequence[ObservedRun], *, script: bool) -> CheckLine:
    """Compare the validation labels of all reports of all runs."""
    records = [record for run in runs for record in run.records]
    if any(not len(record.labels) for record in records):
        return unchecked(SPLIT, "the reports have no labels")
    first = records[0]
    if all(_same_order(first, record) for record in records):
        if len({record.inputs for record in records if record.inputs}) > 1:
            return _redrawn("the inputs differ between runs")
        return ok(SPLIT, f"the same {len(first.labels)} labels in every report")
    counts = [Counter(record.labels.tolist()) for record in records]
    if any(count != counts[0] for count in counts):
        return _redrawn("the labels differ between runs")
    inputs = {record.inputs for record in records}
    reordered = any(
        not _same_order(run.records[0], record) for run in runs for record in run.records
    )
    same = inputs != {""} and len(inputs) == 1
    if same or reordered or same_outputs(runs[0], runs[1]):
        return finding(
            SPLIT,
            "shuffled-split",
            "the order of the validation labels changes; do not shuffle the validation data, "
            "because its examples are compared one by one",
            stops=script,
        )
    return _redrawn("the labels have another order in each run")


def _same_order(first: ReportRecord, second: ReportRecord) -> bool:
    return first.labels.tobytes() == second.labels.tobytes()


def _redrawn(why: str) -> CheckLine:
    return finding(
        SPLIT,
        "redrawn-split",
        f"the validation split changes from run to run: {why}; split with run.data_seed, which is "
        "the same in all trials",
        stops=True,
    )


# ---- the outputs --------------------------------------------------------------------------------


def outputs(records: Sequence[ReportRecord]) -> CheckLine:
    """Say whether the reported logits are logits, and from a model in evaluation mode."""
    known = [record for record in records if record.classes is not None]
    if not known:
        return unchecked(OUTPUTS, "the reports have no logits")
    if any(record.probabilities for record in known):
        return finding(
            OUTPUTS,
            "probabilities",
            "the reported logits are probabilities; report the outputs before the softmax or "
            "sigmoid, or log-probabilities",
            stops=True,
        )
    mode = next((record.mode for record in known if record.mode), "")
    if mode:
        return finding(
            OUTPUTS,
            "training-mode",
            f"the reported logits were computed in training mode, in which {mode} behaves "
            "differently; call model.eval() before the validation and model.train() after it",
            stops=False,
        )
    return ok(OUTPUTS, f"logits of {known[0].classes} classes")


def shared_rows(records: Sequence[ReportRecord]) -> CheckLine:
    """Say whether validation inputs are also training inputs."""
    counts = next((record.rows for record in records if record.rows is not None), None)
    if counts is None:
        return unchecked(SHARED, "the inputs that belong to the reported logits are not known")
    if counts.valid < _DISTINCT * counts.inputs:
        return unchecked(SHARED, "many inputs are equal also within the validation data")
    share = counts.shared / counts.valid
    if counts.shared < 2 or share < _SHARED:
        return ok(SHARED, f"{counts.shared} of {counts.valid} validation inputs are in training")
    # Inputs that repeat as often within the training data may be equal by coincidence.
    natural = counts.repeated / counts.train >= share / 2
    return finding(
        SHARED,
        "shared-rows",
        f"{counts.shared} of {counts.valid} validation inputs are also training inputs; remove "
        "duplicates before the split",
        stops=share > _MOSTLY and not natural,
    )


def classes(records: Sequence[ReportRecord]) -> CheckLine:
    """Say whether classes are missing in the validation labels.

    If class c has the frequency f in training, it is missing among N labels by chance with the
    probability exp(-N·f). Without training labels, the classes are taken as equally frequent.
    """
    record = next((record for record in records if record.classes and len(record.labels)), None)
    if record is None or record.classes is None:
        return unchecked(CLASSES, "the reports have no logits and labels")
    counts, number = record.classes, len(record.labels)
    present = set(record.labels.tolist())
    frequency = _frequencies(record)
    missing = [
        label
        for label in range(counts)
        if label not in present
        and counts * math.exp(-number * frequency.get(label, 1 / counts)) < _CHANCE
    ]
    if not missing:
        return ok(CLASSES, f"{len(present)} of {counts} classes are in the validation labels")
    names = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
    return finding(
        CLASSES,
        "missing-classes",
        f"{len(missing)} of {counts} classes are not in the validation labels ({names}); draw the "
        "split at random, or correct the number of outputs of the model",
        stops=False,
    )


def _frequencies(record: ReportRecord) -> Mapping[int, float]:
    """Return the share of each class that occurs in the labels of the training steps."""
    found = record.train_labels or ()
    total = sum(found)
    return dict(_shares(found, total)) if total else {}


def _shares(counts: Sequence[int], total: int) -> Iterator[tuple[int, float]]:
    for label, count in enumerate(counts):
        if count:
            yield label, count / total
