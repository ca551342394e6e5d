"""Real studies of Fashion-MNIST, whose truth is known from images that they never used.

Claim     The 95% interval of a verdict contains the true difference in 93 to 97% of the studies,
          and the exported configuration is at least as good as the best of a careful grid by hand
          that costs as many training runs.
Method    Each draw takes small splits from the 70,000 images (500 or 2,000 training rows, 500
          validation rows, 1,000 test rows) and runs one study with the default settings through
          the public API. The truth is the mean loss of 20 fresh seeds on 20,000 other images.
          Intervals are also recomputed for 200 redrawn samples of seeds and test rows per study;
          the mean over all seeds and rows is the truth of these samples. The network has one
          hidden layer; draws alternate between four kinds of training. In noisy draws, 20 or 40%
          of the training labels are replaced by another class.
Grids     "Dense" is the best of 99 configurations by its loss on the 20,000 images, "by hand" the
          best of 36 by its validation loss; both over three seeds. All are then compared on the
          20 fresh seeds.
Data      Debian's package dataset-fashion-mnist (31 MB), or its four .gz files in --folder.
Run       OMP_NUM_THREADS=1 python -m benchmarks.real_truth [--draws 40] [--noisy 20]
          [--high 0.4] [--no-grid] [--write benchmarks/RESULTS.md] [--quick]
          Results are appended to --file after each draw, and a run continues where it was stopped.
          With --draws 0 --noisy 0, it prints the table of what is in the file.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from scipy import stats

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.real_draw import ANNEALED, FIXED, ZERO, Plan, measure_draw
from benchmarks.shared.tables import markdown_table, write_tables
from benchmarks.shared.tasks.fashion import FOLDER, load_images
from sweeper.errors import SweeperError

Draw = dict[str, Any]
Draws = Sequence[Draw]

COVERAGE: Final = (0.93, 0.97)
MOST_AT_END: Final = 0.1
HEAD: Final = ("", "clean labels", "noisy labels", "all", "goal", "conclusion")


class Row(NamedTuple):
    """A row of the table: its cell for some draws, the goal, and whether draws reach it."""

    name: str
    cell: Callable[[Draws], str]
    goal: str = ""
    reached: Callable[[Draws], bool] | None = None


# Cells


def count(draws: Draws, holds: Callable[[Draw], bool]) -> str:
    """Return a count with its share and the 95% binomial interval of the share."""
    if not draws:
        return ""
    hits = sum(map(holds, draws))
    low, high = binomial(hits, len(draws))
    return f"{hits} of {len(draws)}: {hits / len(draws):.0%} [{low:.0%}, {high:.0%}]"


def binomial(hits: int, number: int) -> tuple[float, float]:
    """Return the exact 95% interval of a probability (Clopper and Pearson 1934)."""
    found = stats.binomtest(hits, number).proportion_ci(method="exact")
    return float(found.low), float(found.high)


def mean(draws: Draws, value: Callable[[Draw], float], form: str = "+.4f") -> str:
    """Return the mean over draws with its standard error."""
    if not draws:
        return ""
    values = np.array([value(draw) for draw in draws])
    if len(values) == 1:
        return f"{values[0]:{form}}"
    error = values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():{form}} ± {error:{form.removeprefix('+')}}"


def helping(draws: Draws) -> Draws:
    """Return the draws in which the pick is truly better than ε = 0."""
    return [draw for draw in draws if draw["truth"] < 0]


def says(word: str) -> Callable[[Draw], bool]:
    return lambda draw: bool(draw["word"] == word)


def covered(draw: Draw) -> bool:
    return bool(draw["lower"] <= draw["truth"] <= draw["upper"])


def redrawn(name: str) -> Callable[[Draw], float]:
    return lambda draw: float(draw[name]) / float(draw["redraws"])


def regret(other: str) -> Callable[[Draw], float]:
    """Return the true loss of the export minus that of another choice."""
    return lambda draw: float(draw["export"] - draw[other])


def gain_share(draws: Draws, name: str) -> str:
    """Return the gain over ε = 0 of a choice, in percent of that of the dense grid."""
    best = sum(draw["zero"] - draw["dense"] for draw in draws)
    return f"{sum(draw['zero'] - draw[name] for draw in draws) / best:.0%}" if best else ""


# The table


def rows_of_studies() -> Iterator[Row]:
    """Yield the rows about verdicts and ranges."""
    for word in ("helps", "no benefit shown", "hurts"):
        yield Row(f'verdict "{word}"', partial(count, holds=says(word)))
    yield Row("true difference of the pick", partial(mean, value=lambda d: d["truth"]))
    yield Row(
        "interval contains the truth",
        partial(count, holds=covered),
        "93 to 97%",
        _covers_once,
    )
    yield Row(
        "the same, redrawn seeds and test rows",
        partial(mean, value=redrawn("contain"), form=".1%"),
        "93 to 97%",
        lambda draws: COVERAGE[0] <= _mean(draws, redrawn("contain")) <= COVERAGE[1],
    )
    yield Row(
        "interval below the truth, redrawn",
        partial(mean, value=redrawn("below"), form=".1%"),
        "at most 3.5%",
        lambda draws: _mean(draws, redrawn("below")) <= 0.035,
    )
    yield Row(
        "interval above the truth, redrawn", partial(mean, value=redrawn("above"), form=".1%")
    )
    yield Row('wrong "helps"', partial(count, holds=lambda d: says("helps")(d) and d["truth"] >= 0))
    yield Row('wrong "hurts"', partial(count, holds=lambda d: says("hurts")(d) and d["truth"] <= 0))
    yield Row('"helps" if the pick helps', lambda draws: count(helping(draws), says("helps")))
    yield Row(
        "bias: estimate minus truth", partial(mean, value=lambda d: d["estimate"] - d["truth"])
    )
    yield Row(
        "pick at the upper end of ε",
        partial(count, holds=lambda d: d["epsilon_at_end"]),
        "at most 10%",
        lambda draws: _mean(draws, lambda d: d["epsilon_at_end"]) <= MOST_AT_END,
    )
    yield Row("pick at an end of the rate", partial(count, holds=lambda d: d["rate_at_end"]))
    yield Row("seconds per draw", partial(mean, value=lambda d: d["seconds"], form=".0f"))


def rows_of_grids() -> Iterator[Row]:
    """Yield the rows that compare the export with grids."""
    for name, words in (
        ("export", "export"),
        ("by_hand", "grid by hand"),
        ("fixed_by_hand", "fixed ε by hand"),
        ("wider", "dense grid, ε up to 0.8"),
    ):
        yield Row(f"gain of the {words}, of the dense grid's", partial(gain_share, name=name))
    yield Row("gain of the dense grid", partial(mean, value=lambda d: d["zero"] - d["dense"]))
    yield Row("regret to the dense grid", partial(mean, value=regret("dense")))
    yield Row(
        "regret to the grid by hand",
        partial(mean, value=regret("by_hand")),
        "at most 0",
        lambda draws: _mean(draws, regret("by_hand")) <= 0,
    )
    yield Row("regret to the fixed ε by hand", partial(mean, value=regret("fixed_by_hand")))
    yield Row(
        "best ε of the dense grid above the range",
        partial(count, holds=lambda d: d["chosen"]["wider"][0] > d["plan"]["high"]),
    )


def _mean(draws: Draws, value: Callable[[Draw], float]) -> float:
    return float(np.mean([value(draw) for draw in draws]))


def _covers_once(draws: Draws) -> bool:
    """Return whether the binomial interval of the coverage overlaps the goal."""
    low, high = binomial(sum(map(covered, draws)), len(draws))
    return low <= COVERAGE[1] and high >= COVERAGE[0]


def table(draws: Draws) -> str:
    """Return the table of all draws."""
    rows = [*rows_of_studies(), *(rows_of_grids() if "export" in draws[0] else ())]
    return markdown_table(HEAD, (_cells(row, draws) for row in rows))


def _cells(row: Row, draws: Draws) -> list[str]:
    groups = [[d for d in draws if not d["noisy"]], [d for d in draws if d["noisy"]], draws]
    reached = "" if row.reached is None else "PASS" if row.reached(draws) else "FAIL"
    return [row.name, *map(row.cell, groups), row.goal, reached]


# Running


def wanted(draws: int, noisy: int) -> list[tuple[bool, int]]:
    """Return whether each draw is noisy, and its number; both kinds spread over the whole run."""
    both = [*((False, n) for n in range(draws)), *((True, n) for n in range(noisy))]
    return sorted(both, key=lambda one: (one[1] / (noisy if one[0] else draws), one))


def read(file: Path, plan: Plan) -> list[Draw]:
    """Return the draws in a file that were measured with this plan."""
    if not file.exists():
        return []
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [draw for draw in found if draw["plan"] == plan.identity]


def quick(plan: Plan) -> Plan:
    """Return a plan that takes seconds."""
    grid = (ZERO, FIXED[3], ANNEALED[1], ANNEALED[-1])
    few = {"trials": 12, "replicates": 3, "shortlist": 1}
    return replace(plan, held_out=2000, fresh_seeds=3, grid_seeds=1, grid=grid, settings=few)


def measure(plan: Plan, missing: Sequence[tuple[bool, int]], file: Path, processes: int) -> None:
    """Measure draws; append each to the file, and print how long the rest will take."""
    began = perf_counter()
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        Pool(processes, torch.set_num_threads, (1,)) as pool,
        file.open("a", encoding="utf-8") as out,
    ):
        for done, draw in enumerate(
            pool.imap_unordered(partial(_measured, plan), missing), start=1
        ):
            print(json.dumps(draw), file=out, flush=True)
            seconds = (perf_counter() - began) / done
            print(
                f"draw {draw['number']}{', noisy' if draw['noisy'] else ''}: {draw['word']}, "
                f"{draw['seconds']:.0f} s; {seconds:.0f} s per draw, "
                f"{seconds * (len(missing) - done) / 60:.0f} minutes left",
                flush=True,
            )


def _measured(plan: Plan, one: tuple[bool, int]) -> Draw:
    noisy, number = one
    return measure_draw(plan, number, noisy=noisy)


def main() -> None:
    """Measure what is missing in the file, and print its table."""
    arguments = parser(__doc__)
    arguments.add_argument("--draws", type=int, default=40, help="with clean labels")
    arguments.add_argument("--noisy", type=int, default=20, help="draws with noisy labels")
    arguments.add_argument("--high", type=float, default=0.4, help="upper end of the range of ε")
    arguments.add_argument("--no-grid", action="store_true", help="without the grids")
    arguments.add_argument("--folder", default=FOLDER, help="of the images")
    arguments.add_argument("--file", type=Path, default=Path("results/real_truth.jsonl"))
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--write", type=Path)
    given = parse(arguments, draws=1, noisy=1, processes=1)
    try:
        load_images(Path(given.folder))  # before the processes are forked, which share it
    except SweeperError as error:
        if not given.quick:
            raise SystemExit(str(error)) from error
        print(f"skipped: {error}")
        return
    plan = Plan(given.folder, given.high)
    if given.no_grid:
        plan = replace(plan, grid=())
    with TemporaryDirectory() as folder:
        if given.quick:
            plan, given.file = quick(plan), Path(folder) / "draws.jsonl"
        known = {(draw["noisy"], draw["number"]) for draw in read(given.file, plan)}
        missing = [one for one in wanted(given.draws, given.noisy) if one not in known]
        measure(plan, missing, given.file, given.processes)
        draws = read(given.file, plan)
    if not draws:
        raise SystemExit(f"{given.file} has no draws of this plan; measure some with --draws")
    made = table(draws)
    print(made)
    if given.write:
        write_tables(given.write, "real truth", {"draws": made})


if __name__ == "__main__":
    main()
