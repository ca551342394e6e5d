"""Searches over the tabulated landscape with the study's own plan, samplers and pruners.

A search does what one worker does that trains a batch of trials at once: it asks for all of their
points while the trials before them are running, trains them together and tells all results. Only
the training is replaced: results are read from the table, at one training seed per search.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState, create_trial

from benchmarks.shared.landscape_table import Columns, Floats, Landscape, rows
from sweeper.confirmation.shortlist import shortlist
from sweeper.smoothing import Smoothing
from sweeper.study.dimensions import Space
from sweeper.study.plan import plan
from sweeper.study.results import TRIAL_COLUMNS
from sweeper.study.sampler import REPORTS, make_pruner, propose, warmup_steps
from sweeper.study.space import Point, canonical, distributions, effective_smoothing
from sweeper.study.spec import Metric, StudySpec
from sweeper.study.trials import STATES, clear_trial_cache

Signal = Literal["nll", "nll_calibrated"]

FINAL: Final[dict[Metric, int]] = {"nll": REPORTS - 1, "nll_calibrated": 2 * REPORTS - 1}
TEST: Final[dict[Metric, int]] = {"nll": Columns.TEST, "nll_calibrated": Columns.TEST_SCALED}
ALL: Final = "all"
CURVE: Final[dict[Signal, slice]] = {"nll": Columns.RAW, "nll_calibrated": Columns.SCALED}


@dataclass(frozen=True)
class Setting:
    """A search to simulate; `batch` is the number of trials asked for before any has a result.

    `signal` is the score that the pruner reads, `metric` the score of a finished trial. The
    sampler `all` is only for this benchmark: it trains every configuration of the table and
    ignores `trials`.
    """

    task: str
    sampler: str
    batch: int = 1
    trials: int = 128
    startup: int = 16
    pruner: Mapping[str, Any] | None = None
    signal: Signal = "nll"
    metric: Metric = "nll"

    def spec(self, seed: int) -> StudySpec:
        """Return the study file of one search."""
        return StudySpec.model_validate(
            {
                "study": {"name": "simulated", "seed": seed},
                "task": {"use": "digits"},
                "objective": {"metric": self.metric},
                "budget": {"trials": self.trials},
                "sampler": {
                    "name": "random" if self.sampler == ALL else self.sampler,
                    "startup": self.startup,
                },
                "pruner": self.pruner or {"name": "none"},
            }
        )


class Tried(NamedTuple):
    """One trial of a simulated search.

    `spent` is its share of a training run, `whole` its value at the end, even if it was pruned.
    """

    point: Point
    state: Literal["complete", "pruned"]
    value: float
    spent: float
    copied: bool
    accuracy: float
    whole: float


class Search(NamedTuple):
    """A search with all its trials; `asked` is the mean time of a proposal in seconds."""

    spec: StudySpec
    tried: list[Tried]
    asked: float


@cache
def landscape(task: str) -> Landscape:
    """Return the table of a task, which is read once per process."""
    return Landscape.read(task)


def search(setting: Setting, replicate: int) -> Search:
    """Simulate one search; replicates differ in the sampler's seed and in the training seed."""
    if setting.sampler == ALL:
        return _everything(setting, replicate)
    return _Simulation(setting, replicate).run()


def _everything(setting: Setting, replicate: int) -> Search:
    of = landscape(setting.task)
    tried = [
        _whole({**vars(smoothing), "rate": smoothing.rate or 1.0}, columns, setting.metric)
        for smoothing, columns in zip(rows(), of.table[replicate % of.seeds], strict=True)
    ]
    return Search(setting.spec(replicate), tried, 0.0)


def _whole(point: Point, columns: Floats, metric: Metric) -> Tried:
    value, accuracy = float(columns[FINAL[metric]]), float(columns[Columns.ACCURACY])
    return Tried(point, "complete", value, 1.0, False, accuracy, value)


class _Simulation:
    """The worker's side of a search: ask, report and tell in the order of a pack."""

    def __init__(self, setting: Setting, replicate: int) -> None:
        self._setting, self._spec = setting, setting.spec(replicate)
        self._of = landscape(setting.task)
        self._seed = replicate % self._of.seeds
        self._study = optuna.create_study(
            study_name=f"simulated-{replicate}", pruner=make_pruner(self._spec.pruner)
        )
        self._distributions = distributions(self._spec.space)
        self._asked: list[float] = []
        self._done: dict[Any, float] = {}

    def run(self) -> Search:
        points = plan(self._spec, {})
        tried = list[Tried]()
        for first in range(0, len(points), self._setting.batch):
            tickets = range(first, min(first + self._setting.batch, len(points)))
            born = [self._born(ticket, points[ticket]) for ticket in tickets]
            tried += self._trained(tickets, born)
            clear_trial_cache(self._study)
        asked = float(np.mean(self._asked)) if self._asked else 0.0
        return Search(self._spec, tried, asked)

    def _born(self, ticket: int, laid: Point | None) -> tuple[int, Point]:
        clear_trial_cache(self._study)
        began = time.perf_counter()
        point = propose(self._study, self._spec, ticket) if laid is None else laid
        if laid is None:
            self._asked.append(time.perf_counter() - began)
        trial = create_trial(
            state=TrialState.RUNNING, params=dict(point), distributions=self._distributions
        )
        storage = self._study._storage
        return storage.create_new_trial(self._study._study_id, template_trial=trial), point

    def _trained(
        self, tickets: Sequence[int], born: Sequence[tuple[int, Point]]
    ) -> Iterator[Tried]:
        """Train all trials together, report by report, and tell their results."""
        columns = [
            self._of.at(Smoothing(*effective_smoothing(point)))[self._seed] for _, point in born
        ]
        twins = [self._done.get(canonical(point, Space())) for _, point in born]
        ends = [REPORTS] * len(born)
        for step in range(warmup_steps(self._spec.pruner), REPORTS):
            for place, (trial, _) in enumerate(born):
                if ends[place] == REPORTS and twins[place] is None:
                    value = columns[place][CURVE[self._setting.signal]][step - 1]
                    if self._pruned(trial, step, value) and tickets[place] != 0:
                        ends[place] = step
                        self._tell(trial, "pruned", value)
        for place, (trial, point) in enumerate(born):
            yield self._told(trial, point, columns[place], ends[place], twins[place])

    def _pruned(self, trial: int, step: int, value: float) -> bool:
        if self._spec.pruner.name == "none":
            return False
        storage = self._study._storage
        storage.set_trial_intermediate_value(trial, step, float(value))
        return self._study.pruner.prune(self._study, storage.get_trial(trial))

    def _told(
        self, trial: int, point: Point, columns: Floats, end: int, twin: float | None
    ) -> Tried:
        whole = _whole(point, columns, self._setting.metric)
        if end < REPORTS:
            return whole._replace(state="pruned", value=math.nan, spent=end / REPORTS)
        self._tell(trial, "complete", whole.value)
        self._done[canonical(point, Space())] = whole.value
        return whole if twin is None else whole._replace(spent=0.0, copied=True)

    def _tell(self, trial: int, state: str, value: float) -> None:
        self._study._storage.set_trial_state_values(trial, STATES[state], [float(value)])


# The regret of a search


class Answer(NamedTuple):
    """The regret against the best of the table, in nats, on the seeds not searched on."""

    valid: float
    test: float


def worth(setting: Setting, replicate: int, point: Point) -> Answer:
    """Return the regret of a configuration on all other seeds."""
    of = landscape(setting.task)
    others = np.arange(of.seeds) != replicate % of.seeds
    lost = [
        float(of.at(Smoothing(*effective_smoothing(point)))[others, column].mean())
        - float(of.table[others][:, :, column].mean(0).min())
        for column in (FINAL[setting.metric], TEST[setting.metric])
    ]
    return Answer(*lost)


def lowest(found: Search, trials: int) -> Point:
    """Return the point of the lowest of the first trials."""
    values = [one.value if one.state == "complete" else math.inf for one in found.tried[:trials]]
    return found.tried[int(np.argmin(values))].point


def picked(found: Search, trials: int) -> Point:
    """Return the point that the study would pick after the first trials."""
    return shortlist(found.spec, frame(found.tried[:trials]))[0].point


def frame(tried: Iterable[Tried]) -> pd.DataFrame:
    """Return trials in the columns of real ones."""
    found = []
    first = dict[Any, int]()
    for number, one in enumerate(tried):
        smoothing = effective_smoothing(one.point)
        rate = math.nan if smoothing.rate is None else smoothing.rate
        found.append(
            {
                **dict(zip(TRIAL_COLUMNS, (number, number, one.state), strict=False)),
                "epsilon": smoothing.epsilon,
                "schedule": smoothing.schedule,
                "rate": rate,
                "copied_from": first.get(canonical(one.point, Space())) if one.copied else None,
                "value": one.value,
                "accuracy": one.accuracy,
            }
        )
        first.setdefault(canonical(one.point, Space()), number)
    types = {"copied_from": "Int64"}
    return pd.DataFrame(found).reindex(columns=list(TRIAL_COLUMNS)).astype(types)
