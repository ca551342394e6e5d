"""Truth that benchmarks/real_truth.py measures, on images that are drawn here."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import real_truth
from benchmarks.shared import real_draw
from benchmarks.shared.real_draw import TEST_ROWS, Plan, measure_draw, redrawn
from benchmarks.shared.tasks.fashion import fashion, load_images
from sweeper.errors import SweeperError
from sweeper.smoothing import Smoothing
from sweeper.training.loop import load_splits

ROWS = 2600


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with files like those of Fashion-MNIST: noisy prototypes of ten classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, ROWS).astype(np.uint8)
    pixels = rng.integers(0, 128, (10, 784))[labels] + rng.integers(0, 128, (ROWS, 784))
    for part, rows in (("train", slice(2000)), ("t10k", slice(2000, None))):
        _write(tmp_path / f"{part}-images-idx3-ubyte.gz", 16, pixels[rows].astype(np.uint8))
        _write(tmp_path / f"{part}-labels-idx1-ubyte.gz", 8, labels[rows])
    return tmp_path


def _write(path: Path, header: int, values: Any) -> None:
    path.write_bytes(gzip.compress(bytes(header) + values.tobytes()))


def draw(**other: Any) -> dict[str, Any]:
    """Return a draw in which everything is right."""
    right = {
        "noisy": False,
        "number": 0,
        "plan": {"high": 0.4},
        "word": "helps",
        "seconds": 1.0,
        "estimate": -0.02,
        "lower": -0.03,
        "upper": -0.01,
        "truth": -0.018,
        "pick": [0.1, "cosine", 3.0],
        "epsilon_at_end": False,
        "rate_at_end": False,
        "redraws": 200,
        "contain": 190,
        "below": 5,
        "above": 5,
        "zero": 0.7,
        "export": 0.68,
        "by_hand": 0.685,
        "fixed_by_hand": 0.69,
        "dense": 0.675,
        "wider": 0.67,
        "chosen": {"wider": [0.6, "linear", 3.0]},
    }
    return {**right, **other}


def both(**other: Any) -> list[dict[str, Any]]:
    return [draw(**other), draw(**other, noisy=True)]


def lines(draws: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the cells of the table by the name of its rows."""
    rows = [line.split("|")[1:-1] for line in real_truth.table(draws).splitlines()[2:]]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


@pytest.mark.slow
def test_draw_has_the_verdict_of_a_study_and_its_truth(images: Path) -> None:
    plan = real_truth.quick(Plan(str(images), 0.4))
    plan = replace(plan, held_out=ROWS - 500 - 500 - TEST_ROWS)
    found = json.loads(json.dumps(measure_draw(plan, 0, noisy=True)))
    assert found["kind"]["label_noise"] == 0.2
    assert found["contain"] + found["below"] + found["above"] == plan.redraws
    assert found["runs_study"] == 12 + 3 * 3
    assert found["dense"] >= 0
    exported = found["word"] == "helps"
    assert found["chosen"]["export"] == (found["pick"] if exported else [0.0, "fixed", None])
    assert exported or found["export"] == found["zero"]
    assert len(lines([found])) > 20


def test_redrawn_intervals_contain_the_mean_of_all_seeds_and_rows() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(size=(30, 1)) + 30 * rng.normal(size=(1, 5000))
    differences = differences + rng.normal(size=(30, 5000))
    found = redrawn(differences, 10, 400)
    hits = sum(one.low <= differences.mean() <= one.high for one in found)
    assert 0.93 <= hits / len(found) <= 0.97
    assert all(one.freedom > 9 for one in found)


def test_more_test_rows_leave_the_other_rows_unchanged(images: Path) -> None:
    few, many = (
        load_splits(fashion(str(images), test_rows=rows, label_noise=noise), 3)
        for rows, noise in ((100, 0.0), (1500, 0.4))
    )
    assert torch.equal(few.train[0], many.train[0])
    assert (few.train[1] != many.train[1]).sum() == 200
    for split in ("valid", "test"):
        for before, after in zip(getattr(few, split), getattr(many, split), strict=True):
            assert torch.equal(before, after[: len(before)])


def test_grid_returns_the_means_of_each_configuration_in_order(images: Path) -> None:
    task = fashion(str(images), test_rows=TEST_ROWS + 100, epochs=2)
    truth = real_draw.Truth(task, 0, 1)
    grid = [Smoothing(0.4, "error", 1.0), Smoothing(0.0), Smoothing(0.3, "error", 1.0)]
    together, _ = truth.grid(grid, 2)
    alone = [truth.grid([one], 2)[0][0] for one in grid]
    assert together == pytest.approx(alone, rel=1e-4)
    assert len(set(np.round(alone, 4))) == 3


def test_missing_images_are_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SweeperError, match="install Debian's package dataset-fashion-mnist"):
        load_images(tmp_path)


def test_table_fails_where_a_goal_is_missed() -> None:
    assert [cells[-1] for cells in lines(both()).values() if cells[-1]] == ["PASS"] * 5
    missed = lines(both(contain=180, below=15, epsilon_at_end=True, export=0.69, truth=0.001))
    for name in (
        "the same, redrawn seeds and test rows",
        "interval below the truth, redrawn",
        "pick at the upper end of ε",
        "regret to the grid by hand",
    ):
        assert missed[name][-1] == "FAIL"
    assert missed['wrong "helps"'][0].startswith("1 of 1")
    assert lines(both())['wrong "helps"'][0].startswith("0 of 1")


def test_one_missed_interval_does_not_decide_about_coverage() -> None:
    outside, name = both(upper=-0.019), "interval contains the truth"
    assert lines(both() * 30 + outside)[name][-1] == "PASS"
    assert lines(both() * 30 + outside * 10)[name][-1] == "FAIL"


def test_gains_are_shares_of_the_gain_of_the_dense_grid() -> None:
    found = lines([draw(), draw(export=0.7, noisy=True)])
    assert found["gain of the export, of the dense grid's"][:3] == ["80%", "0%", "40%"]


def test_run_continues_with_draws_of_the_same_plan(tmp_path: Path) -> None:
    plan = Plan("", 0.4)
    file = tmp_path / "draws.jsonl"
    mine, other = draw(plan=plan.identity), draw(plan=Plan("", 0.8).identity)
    file.write_text(f"{json.dumps(mine)}\n{json.dumps(other)}\n")
    assert real_truth.read(file, plan) == [mine]
    assert real_truth.wanted(2, 1) == [(False, 0), (True, 0), (False, 1)]
