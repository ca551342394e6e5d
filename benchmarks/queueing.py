"""The ticket queue at a thousand and ten thousand workers: what breaks first, and at which number.

Claim     docs/scaling.md: which of connections, the study's lock, the reading of others' trials
          and the database's cores gives out first as workers grow, and what each remedy buys.
Method    First what each step of a trial costs the database is measured on a real PostgreSQL:
          the CPU time of the server's processes, which does not depend on who asks. Then a
          simulation by events, in virtual time: workers claim, read what has ended, are born
          under the study's lock, report epochs, tell, and renew their leases; a database of so
          many cores serves them first come, first served; the network adds a round trip to each
          statement. A lease that is not renewed for 30 s passes on, as it does.
            as it is     every worker reads the trials that others ended, as sampler and pruner do
            read apart   one process reads and proposes, and lays the points into the tickets
            in batches   and a hundred trials are born in one transaction
          Workers begin within their first trial's length, trials differ by a fifth of theirs.
Run       python benchmarks/queueing.py [--workers 100,300,1000,3000,10000] [--seconds 6,60,600]
          [--cores 8] [--round-trip 0.0005] [--trials 3] [--postgresql URL]
"""

import argparse
import heapq
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

import optuna
import psutil
from sqlalchemy import make_url

from benchmarks.scale import table
from benchmarks.shared.databases import running_postgresql
from benchmarks.shared.surface_study import NAME, Backend, launched
from sweeper.store.database import Store, open_writer
from sweeper.store.records import EpochRow, Result, close_ticket, write_epoch, write_result
from sweeper.store.studies import get_study
from sweeper.store.tickets import Ticket, claim, renew
from sweeper.store.trials import bear, finish
from sweeper.study.load import read_stored
from sweeper.study.trials import open_optuna_study

EPOCHS: Final = 20
LEASE, RENEW = 30.0, 10.0
# Statements, each of which waits for its answer: what a step takes from a network.
TRIPS: Final = {"claim": 3, "read": 3, "birth": 6, "epoch": 2, "tell": 10, "renew": 2}
# What of a birth is done while the study's row is locked: all but the first statement.
LOCKED_TRIPS: Final = 5
BATCH: Final = 100


@dataclass(frozen=True)
class Costs:
    """CPU seconds of the database: of each step, and of each trial that is read."""

    claim: float
    birth: float
    epoch: float
    tell: float
    renew: float
    read: float
    connection_bytes: float


@dataclass(frozen=True)
class Case:
    """What is simulated; `apart` and `batch` are the remedies."""

    workers: int
    seconds: float  # a trial's training
    cores: int
    round_trip: float
    trials: int  # each worker's
    apart: bool = False
    batch: int = 1


# ---- what the database pays ---------------------------------------------------------------


class Server:
    """The processes of a PostgreSQL on this machine."""

    def __init__(self, data: str) -> None:
        self._data = data

    def processes(self) -> list[psutil.Process]:
        """Return all of them, with the one that started the others."""
        for process in psutil.process_iter(["cmdline"]):
            if self._data in (process.info["cmdline"] or []):
                return [process, *process.children(recursive=True)]
        raise SystemExit(f"no PostgreSQL of this machine runs in {self._data}")

    def cpu(self) -> float:
        """Return the CPU seconds that they have had, those that ended included."""
        first, *others = self.processes()
        ended = first.cpu_times()
        total = float(ended.children_user + ended.children_system)
        for process in (first, *others):
            times = process.cpu_times()
            total += times.user + times.system
        return total


def measured(server_url: str, count: int = 600) -> Costs:
    """Return what a step costs the database, by doing each so many times on a real one."""
    backend = Backend("postgresql", server_url)
    with launched(backend, 4 * count, finished=count) as scene:
        store = open_writer(scene.storage)
        record = get_study(store, NAME)
        spec = read_stored(record.spec).spec
        study = open_optuna_study(store, spec)
        distributions = study.get_trials(deepcopy=False)[-1].distributions
        params = study.get_trials(deepcopy=False)[-1].params
        server = Server(_data_folder(store))
        held: list[Ticket] = []
        born: list[int] = []

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
            born.append(bear(store, study._study_id, ticket, params, distributions))

        def report(number: int) -> None:
            for epoch in FEW:
                write_epoch(store, held[number], epoch)

        def tell(number: int) -> None:
            write_result(store, held[number], RESULT)
            finish(store, born[number], optuna.trial.TrialState.COMPLETE, 0.5, {})
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
        fresh = [open_writer(scene.storage) for _ in range(5)]
        for one in fresh:
            one.reading.get_all_trials(study._study_id, deepcopy=False)
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
    """Return the bytes that a connection which has worked has for itself."""
    pids = []
    for store in stores:
        with store.engine.connect() as connection:
            pids.append(connection.exec_driver_sql("select pg_backend_pid()").scalar_one())
    return statistics.median(psutil.Process(pid).memory_full_info().uss for pid in pids)


# ---- the simulation -----------------------------------------------------------------------


@dataclass
class Queue:
    """So many servers, first come, first served, in virtual time."""

    servers: int
    busy: float = 0.0
    _free: list[float] = field(default_factory=list)

    def serve(self, now: float, service: float) -> float:
        """Return when a job that comes now is done."""
        began = now
        if len(self._free) == self.servers:
            began = max(now, heapq.heappop(self._free))
        self.busy += service
        heapq.heappush(self._free, began + service)
        return began + service


@dataclass
class Found:
    """What a simulation found: waits in seconds, and what was lost."""

    case: Case
    length: float = 0.0
    database: float = 0.0  # share of its cores that is busy
    lock: float = 0.0  # share of the time that the study's row is locked
    waits: list[float] = field(default_factory=list)  # beside training, each trial's
    births: list[float] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    lapsed: int = 0

    @property
    def lost(self) -> float:
        """The share of the workers' time that is not training."""
        waited = sum(self.waits)
        return waited / (waited + len(self.waits) * self.case.seconds)


class Simulation:
    """Workers at one database, event by event; each step asks for the next."""

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
        """Run until every worker has run its trials."""
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
        """Return how long a step takes now: the network, and the database's cores."""
        network = TRIPS[name] * self._case.round_trip
        return self._cores.serve(self._now + network, service) - self._now

    def _worker(self) -> Iterator[float]:
        """Yield how long each step of a worker takes."""
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
        # A batch is one transaction, and waits for the network once.
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
    remedy = "in batches" if case.batch > 1 else "read apart" if case.apart else "as it is"
    return [
        f"{case.workers:,}",
        f"{case.seconds:g}",
        remedy,
        f"{case.workers * case.trials / found.length:.1f}",
        f"{100 * found.database:.0f} %",
        f"{100 * found.lock:.0f} %",
        _spread(found.waits),
        _spread(found.births),
        f"{_high(found.renewals):.2f}",
        f"{found.lapsed:,}",
        f"{100 * found.lost:.1f} %",
        f"{time.perf_counter() - began:.0f}",
    ]


HEADINGS: Final = (
    *("workers", "trial, s", "", "trials/s", "database", "lock", "waits, s", "birth, s"),
    *("renewal, s", "lapsed", "lost", "took, s"),
)


def _high(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1] if len(values) > 1 else 0.0


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} / {_high(values):.2f}"


def main() -> None:
    """Measure, simulate, and print both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=_numbers, default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--seconds", type=_numbers, default=[6, 60, 600])
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--round-trip", type=float, default=0.0005, help="seconds")
    parser.add_argument("--trials", type=int, default=3, help="of each worker")
    parser.add_argument("--postgresql", metavar="URL", help="a server of this machine")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with ExitStack() as stack:
        server = given.postgresql or stack.enter_context(running_postgresql())
        costs = measured(make_url(server).render_as_string(hide_password=False))
    names = ("claim", "birth", "epoch", "tell", "renew", "read")
    table(
        ["the database pays, ms", *names, "a connection, MB"],
        [
            [
                "",
                *(f"{1e3 * getattr(costs, n):.3f}" for n in names),
                f"{costs.connection_bytes / 1e6:.1f}",
            ]
        ],
    )
    rows = []
    for workers, seconds in itertools.product(given.workers, given.seconds):
        case = Case(workers, seconds, given.cores, given.round_trip, given.trials)
        for remedied in (case, replace(case, apart=True), replace(case, apart=True, batch=BATCH)):
            rows.append(simulated(remedied, costs))
            print(" ".join(rows[-1]), flush=True)
    print()
    table(HEADINGS, rows)


def _numbers(given: str) -> list[int]:
    return [int(number) for number in given.split(",")]


if __name__ == "__main__":
    main()
