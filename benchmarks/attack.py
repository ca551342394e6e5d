"""Hostile clients of the service: how long somebody who has signed in waits meanwhile.

Claim     While 100 connections attack the service and 8 slots of this machine train, 99% of the
          requests of a client with a token are answered within 500 ms: the numbers of a study
          (`GET /v1/studies/NAME`) and its page. None fails.
Method    A study with finished trials goes on in 8 slots of one worker. For each kind of attack
          (benchmarks/shared/attackers.py) the client asks again and again, with a new connection
          for each request. Service, worker, attackers and client are processes that share the
          cores of this machine, and all connections come from one address.
Run       python -m benchmarks.attack [--slots 8] [--connections 100] [--finished 1000]
          [--seconds 30] [--kinds none,…] [--quick]
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
import psutil

from benchmarks.service import service, workers
from benchmarks.shared.arguments import names_among, parse, parser
from benchmarks.shared.attackers import KINDS
from benchmarks.shared.databases import opened_backend
from benchmarks.shared.surface_study import NAME, launched
from benchmarks.shared.tables import markdown_table
from sweeper import api
from sweeper.api import Study

# Seconds of CPU time that each epoch of a trial takes.
WORK: Final = 0.1
# Between two requests of each kind.
NUMBERS_EVERY: Final = 0.1
PAGE_EVERY: Final = 0.3
NONE: Final = "none"


class Period(NamedTuple):
    """The seconds of each kind of answer, failures, answers to attackers, and the service's CPU."""

    times: dict[str, list[float]]
    errors: list[str]
    answers: int
    cpu: float


@contextmanager
def attack(kind: str, port: int, token: str, clients: int) -> Iterator[list[int]]:
    """Attack meanwhile; the list gets the number of answers to the attackers."""
    answers: list[int] = []
    if kind == NONE:
        yield answers
        return
    given = (kind, str(port), NAME, str(clients), token)
    command = [sys.executable, "-m", "benchmarks.shared.attackers", *given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(1.0)
        yield answers
        process.terminate()
        assert process.stdout is not None
        answers.append(json.loads(process.stdout.read())["answers"])


def ask(port: int, path: str, token: str) -> tuple[int, bytes]:
    """Ask on a connection of its own; return status and body, 0 and the error without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/html"}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def until_drawn(port: int, token: str) -> None:
    """Wait until the page has its figures: the first time a page waits for them."""
    drawn = re.compile(rb'data-version="\w')
    while not drawn.search(ask(port, f"/studies/{NAME}", token)[1]):
        time.sleep(0.2)


def client(port: int, token: str, seconds: float) -> tuple[dict[str, list[float]], list[str]]:
    """Ask for the numbers and the page for a time; return the times of both, and what failed."""
    paths = {"numbers": f"/v1/studies/{NAME}", "page": f"/studies/{NAME}"}
    times: defaultdict[str, list[float]] = defaultdict(list)
    errors = list[str]()
    end, page_due = time.monotonic() + seconds, 0.0
    while (began := time.monotonic()) < end or len(times) < len(paths):
        kind = "page" if began >= page_due else "numbers"
        if kind == "page":
            page_due = began + PAGE_EVERY
        status, body = ask(port, paths[kind], token)
        times[kind].append(time.monotonic() - began)
        if status != 200:
            errors.append(f"{paths[kind]}: {status} {body[:200]!r}")
        time.sleep(NUMBERS_EVERY)
    return times, errors


def measured(
    kind: str, served: tuple[psutil.Process, int], token: str, given: argparse.Namespace
) -> Period:
    process, port = served
    before = sum(process.cpu_times()[:2])
    with attack(kind, port, token, given.connections) as answers:
        times, errors = client(port, token, given.seconds)
        cpu = (sum(process.cpu_times()[:2]) - before) / given.seconds
    return Period(times, errors, sum(answers), cpu)


def row(kind: str, period: Period) -> list[str]:
    cells = []
    for name in ("numbers", "page"):
        cuts = np.percentile(period.times[name], (50, 99))
        cells += [str(len(period.times[name])), *(f"{1e3 * cut:,.0f}" for cut in cuts)]
    return [kind, *cells, str(len(period.errors)), f"{period.answers:,}", f"{period.cpu:.0%}"]


HEADINGS: Final[Sequence[str]] = (
    "attack",
    "numbers",
    "median, ms",
    "p99, ms",
    "pages",
    "median, ms",
    "p99, ms",
    "failed",
    "answers to attackers",
    "CPU of the service",
)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--slots", type=int, default=8)
    arguments.add_argument("--connections", type=int, default=100)
    arguments.add_argument("--finished", type=int, default=1000)
    arguments.add_argument("--seconds", type=float, default=30.0, help="for each kind of attack")
    every = (NONE, *KINDS)
    arguments.add_argument("--kinds", type=names_among(every), default=every)
    given = parse(arguments, slots=1, connections=10, finished=8, seconds=1.5)
    rows = list[list[str]]()
    with (
        opened_backend("sqlite") as backend,
        launched(backend, 10 * given.finished, given.finished, work=WORK) as launch,
    ):
        token = api.create_token("benchmark", "viewer", launch.storage)
        study = Study(NAME, launch.storage)
        with workers(launch, 1, "--slots", str(given.slots)):
            ended = study.progress().ended
            while study.progress().ended < ended + 2 * given.slots:  # until all have begun
                time.sleep(0.2)
            for kind in given.kinds:
                with service(launch, "--sign-in") as served:
                    until_drawn(served[1], token)
                    period = measured(kind, served, token, given)
                    served[0].kill()  # what an attack has left would hold up its end
                rows.append(row(kind, period))
                print(*rows[-1], *period.errors[:3], sep=" | ", flush=True)
            load = os.getloadavg()[0]
    print(
        f"\n{given.slots} busy slots, {given.connections} hostile connections, "
        f"{os.cpu_count()} cores, load {load:.0f}\n"
    )
    print(markdown_table(HEADINGS, rows))


if __name__ == "__main__":
    main()
