"""How runs become the rows of benchmarks/paper_tables.py; what it trains is not trained here."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from benchmarks.paper_tables import (
    BEGIN,
    END,
    INCONCLUSIVE,
    OPPOSITE,
    OVERLAP,
    SAME,
    TABLES,
    Arm,
    Line,
    Measures,
    Run,
    Runs,
    direction,
    expected,
    finding,
    fixed,
    jobs,
    on_test,
    on_validation,
    picked,
    picks_text,
    put,
    row,
    spread,
    task_of,
)
from benchmarks.shared.tables import markdown_table
from sweeper.confirmation.intervals import Interval
from sweeper.scoring import fit_temperature
from sweeper.smoothing import Smoothing
from sweeper.training import derive_seed
from sweeper.training.loop import load_splits

DOCUMENT = Path(__file__).parent.parent / "benchmarks" / "RESULTS.md"
SMALL, LARGE = Smoothing(0.1), Smoothing(0.4)
BOTH = Arm((SMALL, LARGE))
ALONE = Line("hard labels", "nll", fixed(0.0))
SMOOTHED = Line("smoothing", "nll", BOTH, ALONE, earlier=0.5)
LOW, HIGH = 0.2, 0.7

Nll = Callable[[Smoothing, int, int], float]


def measures(value: float) -> Measures:
    return Measures(value, value, value, value, value, temperature=1.0)


def runs(valid: Nll, test: Nll, splits: int = 3, seeds: int = 2) -> Runs:
    """Return runs of ε = 0 and both others whose every score is the given number."""
    return {
        (one, split, seed): Run(measures(valid(one, split, seed)), measures(test(one, split, seed)))
        for one in (Smoothing(0.0), SMALL, LARGE)
        for split in range(splits)
        for seed in range(seeds)
    }


def found(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, error=1.0, freedom=5.0)


# What is picked


def small_on_split_0(one: Smoothing, split: int, seed: int) -> float:
    return LOW if (one == SMALL) == (split == 0) else HIGH


def never_asked(one: Smoothing, split: int, seed: int) -> float:
    return LOW if one == LARGE else HIGH


def test_each_split_picks_what_is_best_on_its_validation_rows_whatever_the_test_says() -> None:
    assert picked(runs(small_on_split_0, never_asked), BOTH) == (SMALL, LARGE, LARGE)


def test_pick_uses_mean_over_seeds() -> None:
    def selected(one: Smoothing, split: int, seed: int) -> float:
        return 0.5 if one == SMALL else [0.1, 1.2][seed]

    assert picked(runs(selected, selected), BOTH) == (SMALL,) * 3


def test_pick_maximizes_accuracy_and_prefers_first_of_ties() -> None:
    by_accuracy = Arm((SMALL, LARGE), by="accuracy")
    higher = runs(lambda one, *_: one.epsilon, never_asked)
    equal = runs(lambda *_: 0.9, never_asked)
    assert picked(higher, by_accuracy) == (LARGE,) * 3
    assert picked(equal, by_accuracy) == (SMALL,) * 3


def test_what_was_picked_is_counted_by_split() -> None:
    one = row(SMOOTHED, runs(small_on_split_0, never_asked), 0.0)
    same_arm = one._replace(line=one.line._replace(name="the same models"))
    assert picks_text([one, same_arm]) == "smoothing: 0.4 (2), 0.1 (1)"


# What is reported


def noise(*parts: object) -> float:
    return float(np.random.default_rng(derive_seed(*parts)).normal())


def measured(one: Smoothing, split: int, seed: int) -> float:
    """Return an NLL with large noise that pairing takes away and small noise that stays."""
    shared = noise("split", split) + noise("seed", split, seed)
    return shared + one.epsilon + 0.1 * noise("own", one.epsilon, split, seed)


def test_the_values_are_the_test_rows_of_what_each_split_picked() -> None:
    given = runs(small_on_split_0, measured)
    values = row(SMOOTHED, given, 0.0).values
    assert values.shape == (3, 2)
    for split, pick in enumerate((SMALL, LARGE, LARGE)):
        for seed in range(2):
            assert values[split, seed] == given[pick, split, seed].test.nll


def test_the_interval_is_students_of_the_splits_paired_differences() -> None:
    line = Line("smoothing", "nll", fixed(0.1), ALONE)
    given = runs(measured, measured, splits=6, seeds=3)
    gaps = [
        np.mean([measured(SMALL, split, k) - measured(Smoothing(0.0), split, k) for k in range(3)])
        for split in range(6)
    ]
    expected = stats.ttest_1samp(gaps, 0.0).confidence_interval(0.95)
    interval = row(line, given, 0.0).difference
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.estimate == pytest.approx(np.mean(gaps))


def test_splits_that_share_rows_get_the_wider_interval() -> None:
    given = runs(measured, measured, splits=6)
    apart, shared = (row(SMOOTHED, given, overlap).difference for overlap in (0.0, 1 / 3))
    assert apart is not None
    assert shared is not None
    assert shared.error == pytest.approx(apart.error * np.sqrt((1 / 6 + 1 / 3) / (1 / 6)))


@pytest.mark.parametrize("name", sorted(OVERLAP))
def test_the_overlap_is_that_of_the_tasks_splits(name: str) -> None:
    first, second = (load_splits(task_of(name, None), seed) for seed in (0, 1))
    rows = [{tuple(one.tolist()) for one in split.train[0]} for split in (first, second)]
    share = len(first.test[1]) / len(first.train[1]) if rows[0] & rows[1] else 0.0
    assert pytest.approx(share, abs=0.002) == OVERLAP[name]


def test_spread_is_within_splits_and_between_their_means() -> None:
    values = np.array([[1.0, 3.0], [4.0, 4.0], [5.0, 7.0]])
    mean, of_seeds, of_splits = spread(values)
    assert mean == 4.0
    assert of_seeds == pytest.approx(np.sqrt((2 + 0 + 2) / 3))
    assert of_splits == pytest.approx(np.std([2.0, 4.0, 6.0], ddof=1))


def test_test_rows_are_scaled_by_the_validation_rows_temperature() -> None:
    source = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(400, 5, generator=source)
    labels = torch.where(
        torch.rand(400, generator=source) < 0.6,
        logits.argmax(1),
        torch.randint(5, (400,), generator=source),
    )
    got = on_test(logits, labels, 2.5)
    assert got.nll == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    scaled = functional.cross_entropy(logits / 2.5, labels).item()
    assert got.nll_scaled == pytest.approx(scaled, rel=1e-5)
    assert got.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert got.ece_scaled != got.ece
    assert got.temperature == 2.5
    # To pick by, no half is scaled by its own temperature.
    own = fit_temperature(logits, labels)
    at_best = functional.cross_entropy(logits / own, labels).item()
    to_pick_by = on_validation(logits, labels)
    assert at_best < to_pick_by.nll_scaled < to_pick_by.nll
    assert to_pick_by.nll == pytest.approx(got.nll)


# Directions


@pytest.mark.parametrize(
    ("low", "high", "reference", "word"),
    [
        (-2.0, -1.0, -5.0, SAME),
        (1.0, 2.0, 0.1, SAME),
        (1.0, 2.0, -5.0, OPPOSITE),
        (-2.0, -1.0, 5.0, OPPOSITE),
        (-3.0, 1.0, -5.0, INCONCLUSIVE),
        (0.0, 0.0, -5.0, INCONCLUSIVE),
    ],
)
def test_direction(low: float, high: float, reference: float, word: str) -> None:
    assert direction(found(low, high), reference) == word


def test_the_papers_sign_goes_before_the_earlier_one() -> None:
    base = Line("hard labels", "ece", BOTH, paper=0.1, earlier=0.2)
    both = Line("smoothing", "ece", BOTH, base, paper=0.3, earlier=0.1)
    assert expected(both) == pytest.approx(0.2)
    assert expected(both._replace(paper=None)) == pytest.approx(-0.1)
    assert expected(both._replace(paper=None, gain=0.4)) == 0.4
    assert expected(both._replace(paper=None, earlier=None, sign=-1)) == -1


def test_every_difference_has_something_to_be_compared_with() -> None:
    for line in (line for table in TABLES for line in table.lines if line.against):
        assert expected(line) != 0, line.name


def test_finding_lists_contradictions_and_missing_results() -> None:
    base = row(SMOOTHED, runs(small_on_split_0, measured), 0.0)
    sinks = Line("smoothing", "nll", BOTH, ALONE._replace(earlier=0.9), earlier=0.5)
    rows = [
        base._replace(line=sinks, difference=found(*bounds))
        for bounds in ((1.0, 2.0), (-2.0, -1.0), (-1.0, 1.0))
    ]
    sentences = finding(rows).split(". ")
    assert [sentence.split(":")[0] for sentence in sentences[:2]] == [
        "In the same direction",
        "In the opposite direction",
    ]
    assert "NLL is lower with smoothing than with hard labels" in sentences[0]
    assert "NLL is higher with smoothing than with hard labels" in sentences[1]
    assert sentences[2].startswith("Inconclusive: ")
    assert finding(rows[:1]).count(".") == 1


# The document


def test_empty_column_is_omitted() -> None:
    lines = markdown_table(("", "paper", "ours"), [("a", "", "1"), ("b", "", "")]).splitlines()
    assert lines == ["|   | ours |", "| - | ---- |", "| a | 1    |", "| b |      |"]


def test_section_replaces_only_its_previous_version() -> None:
    old, new = (f"{BEGIN}\n{word}\n{END}\n" for word in ("old", "new"))
    assert put(new, f"# Evidence\n\n{old}\nOthers' words.\n") == (
        f"# Evidence\n\n{new}\nOthers' words.\n"
    )
    assert put(new, "# Evidence\n") == f"# Evidence\n\n{new}"


def test_section_without_end_marker_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="put one there"):
        put("new", f"# Evidence\n{BEGIN}\nold, and others' words\n")


def test_every_needed_run_is_trained_once() -> None:
    wanted = jobs(seeds=2, splits=3, epochs=None)
    assert len(set(wanted)) == len(wanted)
    made: Mapping[str, set[Smoothing]] = {name: set() for name in OVERLAP}
    for job in wanted:
        made[job.task].add(job.smoothing)
    for table in TABLES:
        lines = [*table.lines, *(line.against for line in table.lines if line.against)]
        needed = {one for line in lines for one in line.arm.candidates}
        assert needed <= made[table.task]
        for one in needed:
            trained = {(j.split, j.seed) for j in wanted if j[:2] == (table.task, one)}
            assert len(trained) == 6


def test_the_document_keeps_these_tables() -> None:
    kept = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert [line[4:] for line in kept.splitlines() if line.startswith("### ")] == [
        table.title for table in TABLES
    ]
