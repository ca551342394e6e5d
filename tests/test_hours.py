"""Budgets of core hours and GPU hours in whole studies, and what is shown of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

import sweeper
from sweeper.store.database import Store, open_writer
from sweeper.store.schema import tickets
from sweeper.store.studies import get_study
from sweeper.store.tickets import SEARCH, ClaimTerms, claim
from sweeper.store.usage import HourLimits, SlotUse, hours_used
from sweeper.worker.identity import worker_name

pytestmark = pytest.mark.slow
TRIALS = 6
FUNCTION = """
def train(run):
    held = bytearray(50_000_000)
    for epoch in range(2):
        logits = [[2.0 + epoch, 0.0], [0.0, 1.0 + run.smoothing.epsilon]]
        run.report(logits, [0, 1], progress=(epoch + 1) / 2)
"""


def write(folder: Path, budget: str, rest: str = "") -> Path:
    (folder / "loop.py").write_text(FUNCTION)
    path = folder / "loop.toml"
    path.write_text(
        "[study]\nname = 'loop'\n[task]\nuse = 'loop.py:train'\n"
        f"[budget]\ntrials = {TRIALS}\n{budget}\n[confirm]\nenabled = false\n{rest}\n"
    )
    return path


@pytest.fixture
def launch(tmp_path: Path, storage: str) -> Any:
    def run(budget: str, **options: Any) -> sweeper.Study:
        path = write(tmp_path, budget, rest=options.pop("rest", ""))
        results = tmp_path / "results"
        return sweeper.launch(path, storage=storage, results=results, check=False, **options)

    return run


def claimed_an_hour_ago(store: Store, worker: str) -> None:
    """Let a worker claim ticket 0, with a beginning in the past."""
    study = get_study(store, "loop")
    ticket = claim(store, study.id, worker, below=1, terms=ClaimTerms(use=SlotUse(2.0, 0.5)))
    assert ticket is not None
    with store.engine.begin() as connection:
        since = tickets.c.since - 3600
        connection.execute(update(tickets).where(ticket.row()).values(since=since))


def test_used_hours_end_the_search_exactly_after_one_trial_of_a_slot(launch: Any) -> None:
    done = launch("core_hours = 1e-9", workers=1)
    counts = done.progress()
    assert (counts.ended, counts.trials) == (1, TRIALS)
    assert done.finished
    assert counts.core_hours > 1e-9
    again = launch("core_hours = 1e-9", workers=1)
    assert again.progress().ended == 1
    more = launch("core_hours = 1000.0", workers=1)
    assert more.progress().ended == TRIALS


def test_used_hours_end_the_search_with_at_most_one_trial_per_slot(launch: Any) -> None:
    done = launch("core_hours = 1e-9", workers=3)
    assert 1 <= done.progress().ended <= 3
    assert done.finished


def test_hours_of_a_killed_worker_count(launch: Any, storage: str, tmp_path: Path) -> None:
    launch("core_hours = 1.0", detach=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = worker_name(1).replace(f":{os.getpid()}", f":{ended.pid}", 1)
    store = open_writer(storage)
    claimed_an_hour_ago(store, name)
    done = launch("core_hours = 1.0", workers=2)
    assert done.progress().ended == 0
    assert done.finished
    used = hours_used(store, get_study(store, "loop").id, SEARCH)
    assert used.core_hours == pytest.approx(2.0, rel=0.05)
    assert used.gpu_hours == pytest.approx(0.5, rel=0.05)
    store.close()
    assert launch("core_hours = 1000.0", workers=2).progress().ended == TRIALS
    assert launch("core_hours = 1000.0", workers=2).frame()["core_hours"][0] > 2.0


def test_gpu_hours_end_a_search(launch: Any, storage: str) -> None:
    launch("gpu_hours = 0.4", detach=True)
    store = open_writer(storage)
    claimed_an_hour_ago(store, "elsewhere:1:1")
    study = get_study(store, "loop")
    terms = ClaimTerms(limits=HourLimits(gpu_hours=0.4))
    assert claim(store, study.id, "w", below=TRIALS, terms=terms) is None
    store.close()


def test_usage_is_shown_per_trial(launch: Any, storage: str) -> None:
    done = launch("core_hours = 5", workers=1, rest="[resources]\ncpus = 3")
    frame = done.frame()
    assert frame["cores"].tolist() == [1.0] * TRIALS
    assert (frame["core_hours"] > 0).all()
    assert frame["gpu_hours"].isna().all()
    assert (frame["peak_memory"] > 0.045).all()  # the function holds 50 MB
    total = frame["core_hours"].sum()
    assert done.progress().core_hours == pytest.approx(total)
    command = [sys.executable, "-m", "sweeper"]
    shown = subprocess.run(
        [*command, "status", "loop", "--storage", storage],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert " of 5 core hours" in shown
    status = subprocess.run(
        [*command, "status", "loop", "--json", "--storage", storage],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(status)["core_hours"] == pytest.approx(total)
