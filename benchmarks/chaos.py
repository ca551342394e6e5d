"""Random faults for minutes: budgets stay exact, and no trial is lost that was not killed.

Method    Three workers with four slots each: two below launches, which are launched again when they
          end, and one that serves all studies. One launch trains a function, in a process for each
          trial, the other a task in packs, and confirms what it found. When a study is finished the
          next one is launched. Faults are drawn from a seed: a process is killed, or frozen for
          0.5 to 8 s or for longer than a lease; the network of a worker is cut, slow or half-open;
          the server of the database is restarted, at once or in good order; an SQLite file is
          locked; the disk of the results (and of SQLite's file) is full; the wall clock of all
          processes steps; the folder of the results is removed. Then all faults end, and so do the
          studies. The servers' own clocks and disks are not touched.
          --mode rounds kills everything at once instead, 20 times. --mode crowd has 30 workers on
          SQLite, or 60 on a PostgreSQL of 100 connections, at work without faults, each with one
          slot.
Run       python -m benchmarks.chaos [--database sqlite] [--mode faults] [--minutes 20] [--seed 1]
          [--quick]; Linux; root for a disk of its own, the package faketime for the clock.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.campaign import (
    TEMPORARY,
    Supervised,
    Watch,
    children_killed,
    environment,
)
from benchmarks.shared.chaos_checks import (
    Checks,
    check_failures,
    check_files,
    check_logs,
    check_replays,
    check_study,
)
from benchmarks.shared.databases import opened_backend
from benchmarks.shared.faults import (
    Injector,
    World,
    resume_all,
    schedule,
    small_disk,
    stepped_clock,
)
from benchmarks.shared.process_tree import adopt_orphans, reap, started_below
from benchmarks.shared.surface_study import NAME, faults, launched
from benchmarks.shared.tables import markdown_table
from benchmarks.shared.tasks import attacked
from benchmarks.shared.tcp_proxy import Proxy
from tests.support.databases import (
    MysqlServer,
    Server,
    empty_database,
    running_mysql,
    running_postgresql,
)

DATABASES: Final = ("sqlite", "postgresql", "mysql")
SERVERS: Final[Mapping[str, Callable[[], AbstractContextManager[Server | MysqlServer]]]] = {
    "postgresql": running_postgresql,
    "mysql": running_mysql,
}
WORKERS: Final = 3
CROWDS: Final = {"sqlite": 30, "postgresql": 60}
# 0: in the worker's process. 60 workers with a trainer server each need 25 GB of memory.
CROWD_SLOTS: Final = {"sqlite": 1, "postgresql": 0}
CROWD_CONNECTIONS: Final = 100
CROWD_SECONDS: Final = 900.0
CROWD_TRIALS: Final = 10  # for each worker
ONCE: Final = Counter(["status 0"])
DISK_MEBIBYTES: Final = 128
# For all studies to end after the last fault, and for processes to end after their worker.
DRAIN_SECONDS: Final = 600.0
END_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.1
STUDIES: Final = {
    "function": """
[study]
name = "function-{number}"
[task]
use = "attacked.py:train"
[budget]
trials = {trials}
[confirm]
enabled = false
""",
    "packs": """
[study]
name = "packs-{number}"
[task]
use = "attacked.py:paced"
[budget]
trials = {trials}
pack = 4
[confirm]
shortlist = 1
replicates = 2
""",
}


@dataclass
class Campaign:
    """Studies, one after another of each kind, on one database.

    `url` is the database, and `urls` is how the workers reach it: through networks that fail.
    """

    folder: Path
    world: World
    url: str
    urls: tuple[str, ...]
    env: Mapping[str, str]
    budgets: Mapping[str, int]
    slots: int
    names: dict[str, str] = field(default_factory=dict)  # of studies, with their kind
    launches: dict[str, Supervised] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        shutil.copy(attacked.__file__, self.folder)
        command = ("worker", "--slots", str(self.slots), "--workers", str(WORKERS))
        self.worker = self._supervised("worker", command, self.urls[-1], forever=True)

    def _supervised(
        self, name: str, command: tuple[str, ...], url: str, *, forever: bool = False
    ) -> Supervised:
        env = environment(url, self.folder / TEMPORARY, self.env)
        options = ("--results", str(self.world.results), "--debug")
        return Supervised(name, (*command, *options), env, self.logs, forever)

    def launch(self, kind: str) -> None:
        """Begin with the next study of a kind."""
        number = 1 + sum(of == kind for of in self.names.values())
        name = f"{kind}-{number}"
        self.names[name] = kind
        file = self.folder / f"{name}.toml"
        file.write_text(STUDIES[kind].format(number=number, trials=self.budgets[kind]))
        self.launch_again(kind, file)

    def launch_again(self, kind: str, file: Path) -> None:
        """Launch a study."""
        command = ("launch", str(file), "--workers", str(self.slots))
        url = self.urls[list(STUDIES).index(kind)]
        self.launches[kind] = self._supervised(file.stem, command, url)

    @property
    def supervised(self) -> list[Supervised]:
        """All that is started again."""
        return [self.worker, *self.launches.values()]

    def look(self, *, more: bool = False) -> None:
        """Start what has ended; with `more` the next study where one is finished."""
        for child in self.supervised:
            child.look()
        for kind in STUDIES:
            if kind not in self.launches or (more and self.launches[kind].finished):
                self._count(kind)
                self.launch(kind)
        reap({child.process.pid for child in self.supervised if child.process is not None})

    def _count(self, kind: str) -> None:
        if kind in self.launches:
            self.ends.update({f"launch: {how}": n for how, n in self.launches[kind].ends.items()})

    @property
    def finished(self) -> bool:
        """Whether all launches are over."""
        return all(launch.finished for launch in self.launches.values())

    def finish(self, checks: Checks) -> None:
        """Let the studies come to their end, and launch the last ones again, for their files."""
        finish = "every launch comes to its end when the faults are over"
        checks.note(finish)
        until = time.monotonic() + DRAIN_SECONDS
        for again in (False, True):
            if again:
                for kind in STUDIES:
                    self._count(kind)
                    name = [name for name, of in self.names.items() if of == kind][-1]
                    shutil.rmtree(self.world.results / name, ignore_errors=True)
                    self.launch_again(kind, self.folder / f"{name}.toml")
            while not self.finished and time.monotonic() < until:
                self.look()
                time.sleep(LOOK_SECONDS)
            if not self.finished:
                checks.note(finish, *(f"{c.name}: {c.log}" for c in self.supervised))
        for kind in STUDIES:
            self._count(kind)
        if not self.worker.stop(60.0):
            checks.note("workers leave when they are told to", f"{self.worker.log}")
        self.ends.update({f"worker: {how}": n for how, n in self.worker.ends.items()})


def attack(campaign: Campaign, injector: Injector, watch: Watch, given: argparse.Namespace) -> None:
    """Inject the faults of a seed while studies run."""
    seconds = 60 * given.minutes
    left = schedule(given.seed, given.database, seconds, given.longest, given.gap)
    print(f"{len(left)} faults in {seconds:.0f} s", flush=True)
    while not watch.claims:  # until the first trial has begun
        campaign.look()
        watch.look()
        time.sleep(LOOK_SECONDS)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        if left and passed >= left[0].at:
            fault = left.pop(0)
            print(f"{fault}: {injector.inject(fault)}", flush=True)
        injector.look()
        campaign.look(more=True)
        watch.look()
        time.sleep(LOOK_SECONDS)
    injector.end_all()
    resume_all()


def kill_rounds(
    campaign: Campaign, injector: Injector, watch: Watch, given: argparse.Namespace
) -> None:
    """Kill everything at once, again and again, some time after new trials have begun."""
    drawn = random.Random(given.seed)
    for number in range(given.rounds):
        seen, wait = watch.count, drawn.uniform(0.0, 3.0)
        while watch.count == seen:
            campaign.look(more=True)
            watch.look()
            time.sleep(LOOK_SECONDS)
        time.sleep(wait)
        killed = injector.kill_all()
        print(f"round {number + 1}: {killed} processes killed", flush=True)


def run_crowd(given: argparse.Namespace) -> bool:
    """Let many workers share a study; print the checks, and return whether they pass."""
    count = given.workers or CROWDS[given.database]
    trials = CROWD_TRIALS * count
    with (
        opened_backend(given.database, connections=CROWD_CONNECTIONS) as backend,
        launched(backend, trials) as study,
    ):
        logs = study.folder / "logs"
        logs.mkdir()
        env = environment(study.storage, study.folder / TEMPORARY, {})
        slots = str(CROWD_SLOTS[given.database])
        command = ("worker", NAME, "--slots", slots, "--results", str(study.folder), "--debug")
        crowd = [Supervised(f"worker-{number}", command, env, logs) for number in range(count)]
        began = time.monotonic()
        with children_killed(crowd):
            while not all(worker.finished for worker in crowd):
                if time.monotonic() - began > CROWD_SECONDS:
                    break
                for worker in crowd:
                    worker.look()
                time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - began
        wrong = faults(study)
        checks = Checks()
        check_logs(checks, logs)
    ends = sum((worker.ends for worker in crowd), Counter[str]())
    print(f"{count} workers, {trials} trials: {seconds:.0f} s; {dict(ends)}")
    checks.note(
        "every worker ended by itself, once",
        *(f"{worker.name}: {dict(worker.ends)}" for worker in crowd if worker.ends != ONCE),
    )
    checks.note("the budget is exact, and no trial was lost", *wrong)
    print("\n".join(checks.lines()))
    return checks.passed


def check_processes(checks: Checks, folder: Path) -> None:
    """Check that nothing is left of launches and workers, nor of what they have started."""
    until = time.monotonic() + END_SECONDS
    while (left := started_below(folder / TEMPORARY)) and time.monotonic() < until:
        reap(())
        time.sleep(LOOK_SECONDS)
    names = [f"{process.pid}: {' '.join(process.cmdline())}" for process in left]
    checks.note("no process is left behind", *names)


@contextmanager
def opened_world(database: str, folder: Path) -> Iterator[tuple[World, str, tuple[str, ...]]]:
    """Yield what faults hit, the URL of the database, and those of its workers' networks."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk", DISK_MEBIBYTES))
        clock = folder / "clock" if stepped_clock(folder / "clock") else None
        world = World(folder / "disk" / "results", disk, clock)
        if database == "sqlite":
            file = folder / "disk" / "sweeper.db"
            yield replace(world, database=file), f"sqlite:///{file}", (f"sqlite:///{file}",) * 3
            return
        server = stack.enter_context(SERVERS[database]())
        drop = "drop database {}" + (" with (force)" if database == "postgresql" else "")
        url = make_url(stack.enter_context(empty_database(server.url, drop)))
        host, port = url.query.get("host", url.host), url.port
        unix = str(host).startswith("/")
        to = f"{host}/.s.PGSQL.{port or 5432}" if unix else (str(host), int(port or 0))
        proxies = tuple(Proxy(to) for _ in range(WORKERS))
        for proxy in proxies:
            stack.callback(proxy.close)
        urls = tuple(
            url.set(host="127.0.0.1", port=proxy.port, query={}).render_as_string(
                hide_password=False
            )
            for proxy in proxies
        )
        direct = url.render_as_string(hide_password=False)
        yield replace(world, server=server, proxies=proxies), direct, urls


def run_faults(given: argparse.Namespace, folder: Path) -> bool:
    """Attack studies on a database; print what happened, and return whether all is well."""
    checks, trials, attempts = Checks(), Counter[str](), Counter[str]()
    with opened_world(given.database, folder) as (world, url, urls):
        env = {} if world.clock is None else stepped_clock(world.clock)
        env["SWEEPER_CHAOS_STEP"] = "0.01"
        budgets = {"function": given.trials, "packs": given.trials // 2}
        campaign, injector, watch = (
            Campaign(folder, world, url, urls, env, budgets, given.slots),
            Injector(world),
            Watch(url),
        )
        with children_killed(campaign.supervised):
            (kill_rounds if given.mode == "rounds" else attack)(campaign, injector, watch, given)
            campaign.finish(checks)
        watch.close()
        check_processes(checks, folder)
        check_logs(checks, folder)
        last = {kind: name for name, kind in campaign.names.items()}
        check_files(checks, world.results, list(last.values()))
        for name, kind in campaign.names.items():
            trials += check_study(checks, name, url, budgets[kind], kind == "packs")
            attempts += check_failures(checks, name, url, watch, injector.hits)
        check_replays(checks, list(campaign.names), url, given.replays, given.seed)
        if not checks.passed and world.disk is not None:
            shutil.copytree(world.disk, folder / "kept")
        tell(injector, campaign, trials, attempts)
        print("\n".join(checks.lines()), flush=True)
    return checks.passed


def tell(
    injector: Injector, campaign: Campaign, trials: Counter[str], attempts: Counter[str]
) -> None:
    """Print what was done, and what came of it."""
    deaths = Counter(f"{hit.kind} {hit.role}" for hit in injector.hits)
    tables = {
        "fault": injector.injected,
        "missed": injector.missed,
        "process": deaths,
        "trials": trials,
        "attempts of which nothing came": attempts,
        "how launches and workers ended": campaign.ends,
    }
    print(f"\nstudies: {len(campaign.names)}")
    for name, counts in tables.items():
        rows = [[what, str(count)] for what, count in sorted(counts.items())]
        print(f"\n{markdown_table((name, 'count'), rows)}")
    print()


def privately_mounted() -> None:
    """Begin again with mounts of this process's own, which end with it, where that is permitted."""
    private, marker = ["unshare", "--mount"], "SWEEPER_CHAOS_PRIVATE"
    if marker in os.environ or shutil.which("unshare") is None:
        return
    if subprocess.run([*private, "true"], capture_output=True).returncode == 0:
        os.environ[marker] = "1"
        os.execvp("unshare", [*private, sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:]])


def main() -> int:
    """Attack, check, and say how to repeat it."""
    arguments = parser(__doc__)
    arguments.add_argument("--database", choices=DATABASES, default="sqlite")
    arguments.add_argument("--mode", choices=("faults", "rounds", "crowd"), default="faults")
    arguments.add_argument("--minutes", type=float, default=20.0)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--trials", type=int, default=100, help="of each study; half in packs")
    arguments.add_argument("--replays", type=int, default=50)
    arguments.add_argument("--longest", type=float, default=60.0, help="seconds of one fault")
    arguments.add_argument("--gap", type=float, default=3.75, help="mean seconds between faults")
    arguments.add_argument("--slots", type=int, default=4, help="of each worker")
    arguments.add_argument("--rounds", type=int, default=20, help="of --mode rounds")
    arguments.add_argument("--workers", type=int, help="of --mode crowd [30 or 60]")
    given = parse(
        arguments,
        minutes=0.15,
        trials=8,
        replays=2,
        longest=2.0,
        gap=1.2,
        slots=2,
        rounds=3,
        workers=4,
    )
    privately_mounted()
    adopt_orphans()
    repeat = f"python -m benchmarks.chaos {' '.join(sys.argv[1:])}"
    print(f"{repeat} (seed {given.seed})", flush=True)
    if given.mode == "crowd":
        return 0 if run_crowd(given) else 1
    folder = Path(tempfile.mkdtemp(prefix="sweeper-chaos-"))
    folder.chmod(0o755)
    passed = run_faults(given, folder)
    if passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"\nWhat is left of it: {folder}. To repeat it: {repeat}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
