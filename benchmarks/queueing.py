"""The ticket queue with a thousand and ten thousand workers: which limit is reached first.

Claim     The bottlenecks of docs/explanation/scaling.md: which of connections, the study's lock,
          reading the trials of other workers, and the cores of the database reaches its limit
          first as the number of workers grows, and how much each remedy gains.
Method    First, the cost of each step of a trial is measured on a real PostgreSQL server: the CPU
          time of the server's processes, which does not depend on the number of workers. Then an
          event simulation in virtual time: workers claim, read the trials that have ended, create
          their trials under the study's lock, report epochs, tell, and renew their leases. A
          database with a number of cores serves them first come, first served; the network adds a
          round trip to each statement. A lease that is not renewed for 30 s lapses.
            current           every worker reads the ended trials of the others
            separate reader   one process reads and proposes, and stores the points in the tickets
            batched creation  the same, and a hundred trials are created in one transaction
          Workers begin within the length of their first trial; trials differ by a fifth in length.
Run       python -m benchmarks.queueing [--workers 100,300,1000,3000,10000] [--seconds 6,60,600]
          [--cores 8] [--round-trip 0.0005] [--trials 3] [--postgresql URL] [--quick]
"""

import heapq
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import optuna
import psutil

from benchmarks.shared.arguments import numbers, parse, parser
from benchmarks.shared.databases import Backend, opened_backend
from benchmarks.shared.plain_optuna import quiet_optuna
from benchmarks.shared.surface_study import NAME, launched
from benchmarks.shared.tables import markdown_table, median_percentile
from sweeper.store.database import Store, open_writer
from sweeper.store.records import EpochRow, Result, write_epoch, write_result
from sweeper.store.studies import get_study
from sweeper.store.tickets import Ticket, claim, close_ticket, renew
from sweeper.store.trials import end_trial, insert_trial
from sweeper.study.load import read_stored
from sweeper.study.trials import open_optuna_study

EPOCHS: Final = 20
LEASE, RENEW = 30.0, 10.0
# The statements of each step, each of which waits for its answer.
TRIPS: Final = {"claim": 3, "read": 3, "birth": 6, "epoch": 2, "tell": 10, "renew": 2}
# The statements of a birth while the study's row is locked: all but the first.
LOCKED_TRIPS: Final = 5
BATCH: Final = 100


@dataclass(frozen=True)
class Costs:
    """CPU seconds of the database for each step, and for each trial that is read."""

    claim: float
    birth: float
    epoch: float
    tell: float
    renew: float
    read: float
    connection_bytes: float


@dataclass(frozen=True)
class Case:
    """One simulation; `apart` and `batch` are the remedies."""

    workers: int
    seconds: float  # training time of a trial
    cores: int
    round_trip: float
    trials: int  # of each worker
    apart: bool = False
    batch: int = 1


# ---- the costs of the database ------------------------------------------------------------


class Server:
    """The processes of a PostgreSQL server on this machine."""

    def __init__(self, data: str) -> None:
        self._data = data

    def processes(self) -> list[psutil.Process]:
        """Return all processes; the first is the parent of the others."""
        for process in psutil.process_iter(["cmdline"]):
            if self._data in (process.info["cmdline"] or []):
                return [process, *process.children(recursive=True)]
        raise SystemExit(f"no PostgreSQL server of this machine runs in {self._data}")

    def cpu(self) -> float:
        """Return the CPU seconds of all processes, including those that have ended."""
        first, *others = self.processes()
        ended = first.cpu_times()
        total = float(ended.children_user + ended.children_system)
        for process in (first, *others):
            times = process.cpu_times()
            total += times.user + times.system
        return total


def measured(backend: Backend, count: int) -> Costs:
    """Return the cost of each step, measured by running it `count` times on a real database."""
    with launched(backend, 4 * count, finished=count) as launch:
        store = open_writer(launch.storage)
        record = get_study(store, NAME)
        spec = read_stored(record).spec
        study = open_optuna_study(store, spec)
        distributions = study.get_trials(deepcopy=False)[-1].distributions
        params = study.get_trials(deepcopy=False)[-1].params
        server = Server(_data_folder(store))
        held: list[Ticket] = []
        created: list[int] = []

        def cost(work: Callable[[int], object]) -> float:
            before = server.cpu()
            for number in range(count):
                work(number)
            return (server.cpu() - before) / count

        def take(_: int) -> None:
            ticket = claim(store, record.id, "w", below=4 * count)
            assert ticket is not None
            held.append(ticket)

        def be_born(number: int) -> None:
            ticket = held[number].number
            trial, _ = insert_trial(store, study._study_id, ticket, params, distributions)
            created.append(trial)

        def report(number: int) -> None:
            for epoch in FEW:
                write_epoch(store, held[number], epoch)

        def tell(number: int) -> None:
            write_result(store, held[number], RESULT)
            end_trial(store, created[number], optuna.trial.TrialState.COMPLETE, 0.5, {})
            close_ticket(store, held[number])

        costs = {
            "claim": cost(take),
            "birth": cost(be_born),
            "epoch": cost(report) / len(FEW),
            "renew": cost(lambda n: renew(store, [held[n]])),
            "tell": cost(tell),
        }
        store.close()
        before = server.cpu()
        fresh = [open_writer(launch.storage) for _ in range(5)]
        for one in fresh:
            one.optuna_reader.get_all_trials(study._study_id, deepcopy=False)
        read = (server.cpu() - before) / (5 * 2 * count)
        memory = _memory_of_connections(server, fresh)
        for one in fresh:
            one.close()
    return Costs(**costs, read=read, connection_bytes=memory)


FEW: Final = [EpochRow(n, n / 20, 0.1, 0.1, 0.3, 0.3, 0.9, 0.1, 0.02) for n in range(1, 6)]
SCORES: Final = {f"score_{n}": n / 7 for n in range(20)}
RESULT: Final = Result(SCORES, {}, {}, 10, EPOCHS, 60.0, None, "", "", "", "")


def _data_folder(store: Store) -> str:
    with store.engine.connect() as connection:
        return str(connection.exec_driver_sql("show data_directory").scalar_one())


def _memory_of_connections(server: Server, stores: list[Store]) -> float:
    """Return the median private memory, in bytes, of the server processes of used connections."""
    pids = []
    for store in stores:
        with store.engine.connect() as connection:
            pids.append(connection.exec_driver_sql("select pg_backend_pid()").scalar_one())
    return statistics.median(psutil.Process(pid).memory_full_info().uss for pid in pids)


# ---- the simulation -----------------------------------------------------------------------


@dataclass
class Queue:
    """A queue with a number of servers, first come, first served, in virtual time."""

    servers: int
    busy: float = 0.0
    _free: list[float] = field(default_factory=list)

    def serve(self, now: float, service: float) -> float:
        """Return when a job that arrives now is done."""
        began = now
        if len(self._free) == self.servers:
            began = max(now, heapq.heappop(self._free))
        self.busy += service
        heapq.heappush(self._free, began + service)
        return began + service


@dataclass
class Found:
    """The results of a simulation; waits are in seconds."""

    case: Case
    length: float = 0.0
    database: float = 0.0  # share of its core time that is busy
    lock: float = 0.0  # share of the time that the study's row is locked
    waits: list[float] = field(default_factory=list)  # of each trial, outside training
    births: list[float] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    lapsed: int = 0

    @property
    def lost(self) -> float:
        """The share of the workers' time that is not training."""
        waited = sum(self.waits)
        return waited / (waited + len(self.waits) * self.case.seconds)


class Simulation:
    """Workers and one database, event by event."""

    def __init__(self, case: Case, costs: Costs) -> None:
        self._case, self._costs = case, costs
        self._cores, self._lock = Queue(case.cores), Queue(1)
        self._found = Found(case)
        self._events: list[tuple[float, int, Iterator[float]]] = []
        self._order = itertools.count()
        self._random = random.Random(0)
        self._ended = 0  # trials, of all workers
        self._working = case.workers
        self._now = 0.0

    def run(self) -> Found:
        """Run until all workers have run their trials."""
        for _ in range(self._case.workers):
            start = self._random.uniform(0, self._case.seconds)
            self._add(start, self._worker())
            self._add(start + self._random.uniform(0, RENEW), self._renewals())
        while self._events and self._working:
            self._now, _, steps = heapq.heappop(self._events)
            wait = next(steps, None)
            if wait is not None:
                self._add(self._now + wait, steps)
        found = self._found
        found.length = self._now
        found.database = self._cores.busy / (self._now * self._case.cores)
        found.lock = self._lock.busy / self._now
        return found

    def _add(self, when: float, steps: Iterator[float]) -> None:
        heapq.heappush(self._events, (when, next(self._order), steps))

    def _step(self, name: str, service: float) -> float:
        """Return how long a step takes now on the network and on the database."""
        network = TRIPS[name] * self._case.round_trip
        return self._cores.serve(self._now + network, service) - self._now

    def _worker(self) -> Iterator[float]:
        """Yield the duration of each step of a worker."""
        case, costs = self._case, self._costs
        seen = 0
        for _ in range(case.trials):
            began, training = self._now, 0.0
            yield self._step("claim", costs.claim)
            if not case.apart:
                new, seen = self._ended - seen, self._ended
                yield self._step("read", new * costs.read)
            asked = self._now
            yield from self._birth()
            self._found.births.append(self._now - asked)
            each = case.seconds / EPOCHS * self._random.uniform(0.8, 1.2)
            for _ in range(EPOCHS):
                yield each
                training += each
                yield self._step("epoch", costs.epoch)
            yield self._step("tell", costs.tell)
            self._ended += 1
            self._found.waits.append(self._now - began - training)
        self._working -= 1

    def _birth(self) -> Iterator[float]:
        case, costs = self._case, self._costs
        yield case.round_trip
        # A batch is one transaction and waits for the network once.
        held = LOCKED_TRIPS * case.round_trip / case.batch + costs.birth
        done = self._lock.serve(self._now, held)
        self._cores.serve(self._now, costs.birth)
        yield done - self._now

    def _renewals(self) -> Iterator[float]:
        while True:
            took = self._step("renew", self._costs.renew)
            self._found.renewals.append(took)
            self._found.lapsed += took > LEASE - RENEW
            yield took + RENEW


def simulated(case: Case, costs: Costs) -> list[str]:
    """Run one case; return its row."""
    began = time.perf_counter()
    found = Simulation(case, costs).run()
    remedy = (
        "batched creation" if case.batch > 1 else "separate reader" if case.apart else "current"
    )
    return [
        f"{case.workers:,}",
        f"{case.seconds:g}",
        remedy,
        f"{case.workers * case.trials / found.length:.1f}",
        f"{found.database:.0%}",
        f"{found.lock:.0%}",
        median_percentile(found.waits, 99, "{:.2f}"),
        median_percentile(found.births, 99, "{:.2f}"),
        f"{np.percentile(found.renewals, 99):.2f}" if found.renewals else "",
        f"{found.lapsed:,}",
        f"{found.lost:.1%}",
        f"{time.perf_counter() - began:.0f}",
    ]


HEADINGS: Final = (
    *("workers", "trial, s", "", "trials/s", "database", "lock", "waits, s", "birth, s"),
    *("renewal, s", "lapsed", "lost", "took, s"),
)


def main() -> None:
    """Measure and simulate; print both."""
    arguments = parser(__doc__)
    arguments.add_argument("--workers", type=numbers, default=[100, 300, 1000, 3000, 10000])
    arguments.add_argument("--seconds", type=numbers, default=[6, 60, 600])
    arguments.add_argument("--cores", type=int, default=8)
    arguments.add_argument("--round-trip", type=float, default=0.0005, help="seconds")
    arguments.add_argument("--trials", type=int, default=3, help="of each worker")
    arguments.add_argument("--repeats", type=int, default=600, help="of each step that is measured")
    arguments.add_argument("--postgresql", metavar="URL", help="a server of this machine")
    given = parse(arguments, workers=[100], seconds=[6], repeats=40)
    quiet_optuna()
    with opened_backend("postgresql", given.postgresql) as backend:
        costs = measured(backend, given.repeats)
    names = ("claim", "birth", "epoch", "tell", "renew", "read")
    cells = [f"{1e3 * getattr(costs, name):.3f}" for name in names]
    memory = f"{costs.connection_bytes / 1e6:.1f}"
    headings = ["CPU of the database, ms", *names, "memory per connection, MB"]
    print(markdown_table(headings, [["", *cells, memory]]), end="\n\n", flush=True)
    rows = []
    for workers, seconds in itertools.product(given.workers, given.seconds):
        case = Case(workers, seconds, given.cores, given.round_trip, given.trials)
        for remedied in (case, replace(case, apart=True), replace(case, apart=True, batch=BATCH)):
            rows.append(simulated(remedied, costs))
            print(*rows[-1], file=sys.stderr, flush=True)
    print(markdown_table(HEADINGS, rows))


if __name__ == "__main__":
    main()
