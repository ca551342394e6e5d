"""Tables and plots of the results of benchmarks/search.py; regrets are in thousandths of a nat.

A search is identified by its setting, task and replicate. `both` is the mean over the two tasks of
a replicate. Means have standard errors over replicates, differences those of paired replicates.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from benchmarks.shared.browser import chromium_page
from benchmarks.shared.landscape_table import Floats
from benchmarks.shared.simulated_search import ALL, CURVE, FINAL, landscape
from benchmarks.shared.tables import markdown_table
from sweeper.study.sampler import REPORTS

Lines = Sequence[Mapping[str, Any]]

BOTH: Final = "both"
TASKS: Final = ("clean", "noisy")
SIGNALS: Final = {"nll": "raw", "nll_calibrated": "scaled"}
PRUNERS: Final = ("median", "percentile", "halving", "hyperband")
GROUPS: Final = {"small": "ε ≤ 0.2", "large": "ε > 0.2", "best": "the best tenth"}
PLAIN: Final[Mapping[str, Any]] = {
    "batch": 1,
    "startup": 16,
    "pruner": "none",
    "warmup": 0.0,
    "signal": "nll",
    "metric": "nll",
}
# Microseconds per step and trial by the number that a worker trains at once (digits, one core).
STEP: Final = {1: 545.0, 2: 608.0, 4: 361.0, 8: 282.0, 16: 261.0, 32: 273.0}
WORKERS: Final = 2
RESAMPLED: Final = 1_000
COLORS: Final = ("#1b1f24", "#0036f5", "#f57600", "#4ca871", "#8a5381", "#009df5", "#b3003c")
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star")


class Found(NamedTuple):
    """One row per answer, and one row per search."""

    answers: pd.DataFrame
    searches: pd.DataFrame


def found_in(lines: Lines) -> Found:
    """Return the results as frames, regrets in thousandths of a nat."""
    searches, answers = [], []
    for line in lines:
        pruner = line["pruner"] or {"name": "none", "warmup": 0.0}
        plain = {key: value for key, value in line.items() if key not in ("answers", "stopped")}
        one = {**plain, "pruner": pruner["name"], "warmup": pruner["warmup"]}
        searches.append({**one, **{f"stopped_{k}": v for k, v in line["stopped"].items()}})
        answers += [{**one, "count": count, **each} for count, each in line["answers"].items()]
    frame = pd.DataFrame(answers)
    regrets = ["pick", "pick_test", "lowest", "lowest_test"]
    frame[regrets] *= 1_000
    return Found(frame, pd.DataFrame(searches))


def curves(found: Found, column: str = "pick", task: str = BOTH, **setting: Any) -> pd.DataFrame:
    """Return a column of the searches of a setting, by replicate and by number of trials."""
    wanted = {**PLAIN, **setting}
    rows = found.answers
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    if task != BOTH:
        rows = rows[rows["task"] == task]
    by_task = rows.pivot_table(index="replicate", columns=["count", "task"], values=column)
    # A replicate without results for both tasks is left out.
    whole = by_task.dropna()
    return whole.T.groupby(level="count").mean().T


def _numbers(frame: pd.DataFrame) -> tuple[list[int], Floats]:
    counts = sorted(int(count) for count in map(str, frame) if count.isdigit())
    return counts, frame[[str(count) for count in counts]].to_numpy(float)


def mean_text(values: Iterable[float]) -> str:
    """Return a mean with its standard error."""
    given = np.asarray(list(values), float)
    if len(given) < 2:
        return ""
    return f"{given.mean():.2f} ± {given.std(ddof=1) / math.sqrt(len(given)):.2f}"


def change_text(here: pd.Series, there: pd.Series) -> str:
    """Return the mean of paired differences with its sign and its standard error."""
    text = mean_text((here - there).dropna())
    return text if text.startswith("-") or not text else f"+{text}"


# Tables

SAMPLERS: Final = (
    *(("random", 1), ("grid", 1), ("qmc", 1)),
    *(("tpe", 1), ("tpe", 8), ("gp", 1), ("gp", 8)),
)


def _words(sampler: str, batch: int) -> str:
    return sampler if batch == 1 else f"{sampler}, {batch} at once"


def _samplers(found: Found, task: str) -> str:
    counts, last = ("8", "16", "32", "64", "128"), ("64", "128")
    rows = []
    for sampler, batch in SAMPLERS:
        picks = curves(found, task=task, sampler=sampler, batch=batch)
        low = curves(found, "lowest", task, sampler=sampler, batch=batch)
        cells = [mean_text(picks[count]) for count in counts]
        more = [mean_text(low[count]) for count in last]
        rows.append([_words(sampler, batch), str(len(picks)), *cells, *more])
    pick, low = (curves(found, name, task, sampler=ALL) for name in ("pick", "lowest"))
    cells = [mean_text(pick[ALL]), "", mean_text(low[ALL])]
    rows.append(["all 519", str(len(pick)), "", "", "", "", *cells])
    return markdown_table(["", "n", *counts, *(f"lowest, {count}" for count in last)], rows)


def _against_tpe(found: Found) -> str:
    rows = []
    for sampler, batch in SAMPLERS:
        if sampler == "tpe":
            continue
        cells = [
            change_text(
                curves(found, task=task, sampler=sampler, batch=batch)[count],
                curves(found, task=task, sampler="tpe", batch=batch)[count],
            )
            for count in ("64", "128")
            for task in (*TASKS, BOTH)
        ]
        rows.append([_words(sampler, batch), *cells])
    head = [f"{task}, {count}" for count in ("64", "128") for task in (*TASKS, BOTH)]
    return markdown_table(["minus tpe", *head], rows)


def _lowest_minus_pick(found: Found) -> str:
    rows = []
    for sampler, batch in SAMPLERS:
        given: dict[str, Any] = {"sampler": sampler, "batch": batch}
        cells = [
            change_text(curves(found, low, **given)[count], curves(found, pick, **given)[count])
            for pick, low in (("pick", "lowest"), ("pick_test", "lowest_test"))
            for count in ("32", "64", "128")
        ]
        rows.append([_words(sampler, batch), *cells])
    head = [f"{split}, {count}" for split in ("valid", "test") for count in (32, 64, 128)]
    return markdown_table(["lowest minus pick", *head], rows)


def _batches(found: Found, task: str) -> str:
    counts = ("16", "32", "64", "128", "256")
    first = curves(found, task=task, sampler="tpe")
    rows = []
    for batch in _batches_of(found):
        given = curves(found, task=task, sampler="tpe", batch=batch)
        cells = [mean_text(given[count]) if count in given else "" for count in counts]
        changes = [change_text(given[c], first[c]) if batch > 1 else "" for c in ("64", "128")]
        rows.append([str(batch), *cells, *changes])
    head = ["at once", *counts, "64, minus at 1", "128, minus at 1"]
    return markdown_table(head, rows)


def _quartiles(found: Found) -> str:
    rows = []
    for batch in _batches_of(found):
        cells = []
        for task in TASKS:
            given = curves(found, task=task, sampler="tpe", batch=batch)
            for count in ("64", "128"):
                low, middle, high = np.quantile(given[count], (0.25, 0.5, 0.75))
                cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        rows.append([str(batch), *cells])
    head = [f"{task}, {count}" for task in TASKS for count in (64, 128)]
    return markdown_table(["at once", *head], rows)


def _batches_of(found: Found) -> list[int]:
    searches = found.searches
    plain = (searches["sampler"] == "tpe") & (searches["pruner"] == "none")
    return sorted(searches.loc[plain, "batch"].unique().tolist())


def _startup(found: Found) -> str:
    rows = []
    for startup in (4, 8, 16, 24):
        cells = []
        for batch in (1, 8):
            given, usual = (
                curves(found, sampler="tpe", batch=batch, startup=one) for one in (startup, 16)
            )
            cells += [mean_text(given[count]) for count in ("32", "64")]
            cells.append(change_text(given["64"], usual["64"]) if startup != 16 else "")
        rows.append([str(startup), *cells])
    head = [f"{what}, {b} at once" for b in (1, 8) for what in ("32", "64", "64 minus start 16")]
    return markdown_table(["startup", *head], rows)


# Time


def step_time(batch: int) -> float:
    """Return the wall time per trial in units of that of two workers without packs."""
    if batch == 1:
        return float(WORKERS)
    return STEP[batch // WORKERS] / STEP[1]


def _whole(curve: pd.DataFrame, batch: int) -> pd.DataFrame:
    """Return the counts that are whole batches, because a batch reports its results together."""
    return curve[[str(count) for count in _numbers(curve)[0] if count % batch == 0]]


def _at(curve: pd.DataFrame, trials: float) -> pd.Series:
    """Return the regret of each replicate after some trials, interpolated in their logarithm."""
    counts, values = _numbers(curve)
    found = [np.interp(math.log(trials), np.log(counts), row) for row in values]
    return pd.Series(found, curve.index)


def _time(found: Found) -> str:
    budgets, rows = (16, 32, 64, 96), []
    usual = curves(found, sampler="tpe", batch=2)
    for batch in _batches_of(found):
        given, cells = _whole(curves(found, sampler="tpe", batch=batch), batch), []
        first, *_, most = _numbers(given)[0]
        for budget in budgets:
            trials = budget / step_time(batch)
            there = first <= trials <= most
            cells.append(mean_text(_at(given, trials)) if there else "")
        here = _at(given, min(64 / step_time(batch), most))
        cells.append(change_text(here, usual["64"]) if batch != WORKERS else "")
        rows.append([str(batch), f"{step_time(batch):.2f}", *cells])
    head = ["at once", "time per trial", *(f"time of {budget}" for budget in budgets)]
    return markdown_table([*head, "of 64, minus at 2"], rows)


def _reached(curve: Floats, spent: Floats, target: float) -> float:
    """Return what is spent until the mean reaches the target, infinity if it does not."""
    below = np.minimum.accumulate(curve)
    if below[-1] > target:
        return math.inf
    place = int(np.argmax(below <= target))
    if place == 0:
        return float(spent[0])
    high, low = below[place - 1], below[place]
    share = (high - target) / (high - low)
    return float(spent[place - 1] + share * (spent[place] - spent[place - 1]))


def _draws(replicates: int) -> Iterable[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    yield np.arange(replicates)
    for _ in range(RESAMPLED):
        yield generator.integers(replicates, size=replicates)


def _ratios(
    reference: tuple[Floats, Floats], other: tuple[Floats, Floats], place: int
) -> tuple[float, float, float]:
    """Return the cost to reach the regret that the reference has at a place, as a ratio.

    The reference and the other are pairs of regret and cost, (replicates, counts), with the same
    replicates. Returns the ratio and its 95% bootstrap interval; infinity means not reached.
    """
    found = []
    for draw in _draws(len(reference[0])):
        base, base_spent = (part[draw].mean(0) for part in reference)
        here, spent = (part[draw].mean(0) for part in other)
        target = float(base[place])
        found.append(_reached(here, spent, target) / _reached(base, base_spent, target))
    low, high = np.quantile(found[1:], (0.025, 0.975), method="nearest")
    return found[0], float(low), float(high)


def _ratio_text(ratio: tuple[float, float, float], scale: float = 1.0) -> str:
    first, low, high = ("not" if math.isinf(one) else f"{one * scale:.2f}" for one in ratio)
    return f"{first} ({low} to {high})"


def _to_reach(found: Found) -> str:
    usual = curves(found, sampler="tpe", batch=WORKERS)
    counts, _ = _numbers(usual)
    rows = []
    for batch in _batches_of(found):
        given = _whole(curves(found, sampler="tpe", batch=batch), batch)
        reference, other = _without_cost(usual, given)
        share = step_time(batch) / step_time(WORKERS)
        cells = []
        for target in (32, 64):
            ratio = _ratios(reference, other, counts.index(target))
            cells += [_ratio_text(ratio), _ratio_text(ratio, share)]
        rows.append([str(batch), *cells])
    head = [f"{what} for {n}" for n in (32, 64) for what in ("trials", "time")]
    return markdown_table(["at once", *head], rows)


def _without_cost(*frames: pd.DataFrame) -> list[tuple[Floats, Floats]]:
    """Return the regrets and numbers of trials of the replicates that all frames have."""
    pairs = sorted(set.intersection(*(set(frame.index) for frame in frames)))
    found = []
    for frame in frames:
        counts, values = _numbers(frame.loc[pairs])
        found.append((values, np.broadcast_to(np.array(counts, float), values.shape)))
    return found


# Pruning


class Pruned(NamedTuple):
    """A setting of the pruner."""

    pruner: str
    warmup: float
    signal: str
    batch: int = 1
    metric: str = "nll"


def _pruned(found: Found, metric: str) -> list[Pruned]:
    searches = found.searches[found.searches["pruner"] != "none"]
    searches = searches[searches["metric"] == metric]
    columns = list(Pruned._fields)
    distinct = searches[columns].drop_duplicates().itertuples(index=False, name=None)
    return sorted(
        (Pruned(*each) for each in distinct),
        key=lambda p: (p.batch, PRUNERS.index(p.pruner), p.warmup, p.signal),
    )


def _pruners(found: Found, metric: str) -> str:
    rows = []
    for way in _pruned(found, metric):
        given, none = _compared(way)
        spent, all_spent = curves(found, "spent", **given), curves(found, "spent", **none)
        share = f"{spent['64'].mean() / all_spent['64'].mean():.0%}"
        same = change_text(curves(found, **given)["64"], curves(found, **none)["64"])
        equal = [_equal(found, given, none, task) for task in (*TASKS, BOTH)]
        rows.append([*_named(way), share, same, *equal])
    equal = [f"equal, {task}" for task in (*TASKS, BOTH)]
    return markdown_table(["pruner, warm-up", "signal", "training", "64 trials", *equal], rows)


def _to_be_as_good(found: Found, way: Pruned) -> str:
    """Return the training to reach the regret of 64 trials without pruning, as a share of it."""
    given, none = _compared(way)
    here, there = curves(found, **given), curves(found, **none)
    names = [str(count) for count in _numbers(here)[0] if str(count) in there]
    pairs = here.index.intersection(there.index)
    spent, all_spent = (
        curves(found, "spent", **setting).loc[pairs, names].to_numpy() for setting in (given, none)
    )
    ratio = _ratios(
        (there.loc[pairs, names].to_numpy(), all_spent),
        (here.loc[pairs, names].to_numpy(), spent),
        names.index("64"),
    )
    return _ratio_text(ratio)


def _compared(way: Pruned) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a setting with pruning, and the same without."""
    none = {"sampler": "tpe", "batch": way.batch, "metric": way.metric}
    return {"sampler": "tpe", **way._asdict()}, none


def _named(way: Pruned) -> list[str]:
    more = f", {way.batch} at once" if way.batch > 1 else ""
    return [f"{way.pruner}, {way.warmup:g}{more}", SIGNALS[way.signal]]


def _stopped(found: Found, metric: str) -> str:
    rows = []
    for way in _pruned(found, metric):
        own = found.searches
        for key, value in {**PLAIN, **_compared(way)[0]}.items():
            own = own[own[key] == value]
        shares = own[[f"stopped_{group}" for group in GROUPS]].mean()
        stopped = [f"{share:.0%}" for share in shares]
        rows.append(
            [*_named(way), str(len(own) // len(TASKS)), *stopped, _to_be_as_good(found, way)]
        )
    head = ["pruner, warm-up", "signal", "n", *GROUPS.values(), "training to match none"]
    return markdown_table(head, rows)


def _equal(found: Found, given: Mapping[str, Any], none: Mapping[str, Any], task: str) -> str:
    here, there = curves(found, task=task, **given), curves(found, task=task, **none)
    return change_text(here["equal"], there["64"])


def _behind() -> str:
    """Return the share of the best tenth at the end that is in the worse half at each report."""
    rows = []
    for metric, last in FINAL.items():
        for signal, curve in CURVE.items():
            for task in TASKS:
                table = landscape(task).table
                best = table[:, :, last] <= np.quantile(table[:, :, last], 0.1, 1, keepdims=True)
                reports = table[:, :, curve][:, :, : REPORTS - 1]
                worse = reports > np.median(reports, 1, keepdims=True)
                shares = worse[best].mean(0)
                words = [SIGNALS[metric], SIGNALS[signal], task]
                rows.append([*words, *(f"{share:.0%}" for share in shares)])
    steps = [f"{100 * step / REPORTS:.3g}%" for step in range(1, REPORTS)]
    return markdown_table(["metric", "signal", "digits", *steps], rows)


def _asked(found: Found) -> str:
    searches = found.searches
    rows = []
    for sampler in ("tpe", "gp"):
        for batch in (1, 8):
            own = searches[(searches["sampler"] == sampler) & (searches["pruner"] == "none")]
            own = own[(own["batch"] == batch) & (own["trials"] == 128)]
            copied = curves(found, "copied", sampler=sampler, batch=batch)["128"]
            low, middle, high = 1_000 * np.quantile(own["asked"], (0.25, 0.5, 0.75))
            text = f"{middle:.1f} ({low:.1f} to {high:.1f})"
            rows.append([sampler, str(batch), text, f"{copied.mean():.1%}"])
    return markdown_table(["sampler", "at once", "ms per proposal", "copied results"], rows)


def tables(lines: Lines) -> dict[str, str]:
    """Return the tables by name."""
    found = found_in(lines)
    return {
        **{f"samplers, {task}": _samplers(found, task) for task in TASKS},
        "against tpe": _against_tpe(found),
        "luckiest": _lowest_minus_pick(found),
        "asked": _asked(found),
        **{f"batches, {task}": _batches(found, task) for task in (*TASKS, BOTH)},
        "quartiles": _quartiles(found),
        "time": _time(found),
        "to reach": _to_reach(found),
        "startup": _startup(found),
        "behind": _behind(),
        "pruners": _pruners(found, "nll"),
        "stopped": _stopped(found, "nll"),
        "pruners, scaled": _pruners(found, "nll_calibrated"),
        "stopped, scaled": _stopped(found, "nll_calibrated"),
    }


# Plots


def _line(curve: pd.DataFrame, spent: Sequence[float], name: str, number: int) -> go.Scatter:
    """Return the mean over replicates with its standard error as a line."""
    values = _numbers(curve)[1]
    error = values.std(0, ddof=min(1, len(values) - 1)) / math.sqrt(len(values))
    style = {"color": COLORS[number], "width": 1.5}
    bars = {"array": error.round(3).tolist(), "thickness": 1, "width": 2}
    return go.Scatter(
        x=[round(one, 2) for one in spent],
        y=values.mean(0).round(3).tolist(),
        error_y=bars,
        name=name,
        legendgroup=name,
        line=style,
        mode="lines+markers",
        marker={"size": 6, "symbol": SYMBOLS[number]},
    )


def _panels(titles: Sequence[str], lines: Sequence[Sequence[go.Scatter]], x: Sequence[str]) -> str:
    """Return panels side by side as SVG, on one scale; each name has one legend entry."""
    figure = make_subplots(1, len(titles), subplot_titles=titles, shared_yaxes=True)
    seen = set[str]()
    for column, (own, words) in enumerate(zip(lines, x, strict=True), start=1):
        for line in own:
            line.showlegend = line.name not in seen
            seen.add(line.name)
            figure.add_trace(line, 1, column)
        ticks = {"type": "log", "tickvals": [8, 16, 32, 64, 128, 256], "title": words}
        figure.update_xaxes(**ticks, row=1, col=column)
    figure.update_yaxes(type="log", tickvals=[0.5, 1, 2, 3, 5, 10])
    figure.update_yaxes(title="confirmed regret, 0.001 nats", col=1)
    figure.update_layout(template="plotly_white", font={"size": 12}, margin={"t": 40, "r": 10})
    return _svg(figure)


def _svg(figure: go.Figure) -> str:
    with chromium_page() as page:
        page.set_content(f"<script>{get_plotlyjs()}</script>")
        draw = "text => Plotly.toImage(JSON.parse(text), {format: 'svg', width: 900, height: 400})"
        address: str = page.evaluate(draw, figure.to_json())
    return unquote(address.partition(",")[2])


def _by_trials(curve: pd.DataFrame, name: str, number: int) -> go.Scatter:
    return _line(curve, _numbers(curve)[0], name, number)


def _plot_samplers(lines: Lines, path: Path) -> None:
    found = found_in(lines)
    panels = [
        [
            _by_trials(curves(found, task=task, sampler=name), name, number)
            for number, name in enumerate(("random", "grid", "qmc", "tpe", "gp"))
        ]
        for task in TASKS
    ]
    path.write_text(_panels(TASKS, panels, ("trials", "trials")), encoding="utf-8")


def _plot_batches(lines: Lines, path: Path) -> None:
    found = found_in(lines)
    by_trials, by_time = [], []
    for number, batch in enumerate(_batches_of(found)):
        curve = curves(found, sampler="tpe", batch=batch)
        name = f"{batch} at once"
        by_trials.append(_by_trials(curve, name, number))
        whole = _whole(curve, batch)
        time = [count * step_time(batch) for count in _numbers(whole)[0]]
        by_time.append(_line(whole, time, name, number))
    x = ("trials", "wall time, in trials of two workers without packs")
    titles = ("after as many trials", "after as long")
    path.write_text(_panels(titles, (by_trials, by_time), x), encoding="utf-8")


def _plot_pruners(lines: Lines, path: Path) -> None:
    found = found_in(lines)
    panels = []
    for signal in SIGNALS:
        own = [_by_trials(curves(found, sampler="tpe"), "none", 0)]
        for number, pruner in enumerate(PRUNERS, start=1):
            way = Pruned(pruner, 0.5, signal)
            given, _ = _compared(way)
            spent = _numbers(curves(found, "spent", **given))[1].mean(0)
            own.append(_line(curves(found, **given), spent, pruner, number))
        panels.append(own)
    titles = [f"stopped by {words} NLL" for words in SIGNALS.values()]
    x = ["training spent, in whole trials"] * 2
    path.write_text(_panels(titles, panels, x), encoding="utf-8")


PLOTS: Final[Mapping[str, Callable[[Lines, Path], None]]] = {
    "search-samplers.svg": _plot_samplers,
    "search-batches.svg": _plot_batches,
    "search-pruners.svg": _plot_pruners,
}
