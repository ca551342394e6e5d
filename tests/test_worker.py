"""One worker, in this process: what each trial leaves behind, and what stops it."""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from sqlalchemy import update

import sweeper
from sweeper.api import Study
from sweeper.store.database import open_reader
from sweeper.store.schema import now, tickets
from sweeper.store.tickets import LEASE_SECONDS, claim, leaseholders, revoke_leases, ticket_states
from sweeper.study.trials import TICKET
from sweeper.training.device import torch_threads
from sweeper.worker import attempt
from sweeper.worker.attempt import MAX_ATTEMPTS
from sweeper.worker.identity import worker_name
from sweeper.worker.served_studies import EndReason
from sweeper.worker.stopping import StopRequest
from tests.support.in_process_runs import StopAfter, registered, run, text, work

Write = Callable[..., Path]


def raw(storage: str) -> list[optuna.trial.FrozenTrial]:
    """Read the trials as any Optuna program would."""
    return optuna.load_study(study_name="quick", storage=storage).get_trials()


def test_the_budget_is_exact_and_epsilon_0_is_trial_0(write_study: Write, storage: str) -> None:
    frame = run(write_study(), storage).frame()
    assert frame["number"].tolist() == list(range(12))
    assert frame["ticket"].tolist() == list(range(12))
    first = frame.iloc[0]
    assert (first["epsilon"], first["schedule"], first["state"]) == (0.0, "fixed", "complete")
    assert pd.isna(first["rate"])


def test_any_optuna_program_can_open_the_study(write_study: Write, storage: str) -> None:
    study = run(write_study(text(trials=20)), storage)
    trials = raw(storage)
    assert [trial.number for trial in trials] == list(range(20))
    assert all(trial.params.keys() == {"epsilon", "schedule", "rate"} for trial in trials)
    space = optuna.search_space.intersection_search_space(trials)
    assert space.keys() == {"epsilon", "schedule", "rate"}
    best = study.best
    assert best is not None
    values = [trial.value for trial in trials if trial.state.name == "COMPLETE"]
    assert min(value for value in values if value is not None) == best["value"]


@pytest.mark.parametrize(
    ("pruner", "steps"),
    [("name = 'none'", []), ("name = 'median'\nwarmup = 0.25", [2, 3, 4, 5, 6, 7])],
)
def test_epochs_are_stored_and_optuna_gets_pruner_reports(
    write_study: Write, storage: str, pruner: str, steps: list[int]
) -> None:
    study = run(write_study(text(rest=f"[pruner]\n{pruner}", trials=3)), storage)
    epochs = study.epochs()
    assert epochs.groupby("number").size().tolist() == [8, 8, 8]
    stored = epochs.pivot(index="number", columns="epoch", values="nll")
    assert [trial.intermediate_values for trial in raw(storage)] == [
        {step: stored.loc[number, step] for step in steps} for number in range(3)
    ]
    last = epochs[epochs["epoch"] == 8].set_index("number")["nll"]
    assert last.tolist() == study.frame()["nll"].tolist()


def test_pruned_trials_stop_early_and_epsilon_0_never_does(
    write_study: Write, storage: str
) -> None:
    rest = "[pruner]\nname = 'percentile'\npercentile = 1.0\nstartup = 1\nwarmup = 0.0"
    frame = run(write_study(text(rest=rest, trials=30)), storage).frame()
    pruned = frame[frame["state"] == "pruned"]
    assert len(pruned) > 5
    assert (pruned["epochs"] < 8).all()
    assert pruned["value"].isna().all()
    assert pruned["nll"].notna().all()
    assert frame.iloc[0]["state"] == "complete"


def test_failed_trials_are_recorded_and_the_sweep_continues(
    write_study: Write, storage: str
) -> None:
    study = run(write_study(text("diverge", trials=25)), storage)
    frame = study.frame()
    epsilon = frame["epsilon"]
    diverged, raised = epsilon > 0.3, (epsilon > 0.2) & (epsilon <= 0.3)
    assert diverged.any()
    assert raised.any()
    assert set(frame[diverged]["failure"]) == {
        "training diverged: validation NLL is nan at epoch 1"
    }
    assert set(frame[raised]["failure"]) == {"RuntimeError: this trial fails on purpose"}
    assert (frame[diverged | raised]["state"] == "failed").all()
    assert not (frame[~(diverged | raised)]["state"] == "failed").any()
    log = study.log(int(frame[raised].iloc[0]["number"]))
    assert "quick training begins" in log
    assert 'raise RuntimeError("this trial fails on purpose")' in log


@pytest.mark.slow
def test_a_finished_study_trains_nothing_and_a_raised_budget_continues(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    options = f"options = {{ trace = '{trace}', pause = 0.0 }}"
    run(write_study(text("slow", options, trials=5)), storage)
    run(write_study(text("slow", options, trials=5)), storage)
    assert len(trace.read_text().splitlines()) == 5
    frame = run(write_study(text("slow", options, trials=8)), storage).frame()
    assert len(trace.read_text().splitlines()) == 8
    assert frame["number"].tolist() == list(range(8))


def test_a_lowered_budget_is_finished(write_study: Write, storage: str) -> None:
    run(write_study(text(trials=5)), storage)
    study = run(write_study(text(trials=3)), storage)
    assert study.finished
    assert study.progress().trials == 3


def test_stopped_trial_is_released_and_resumed(write_study: Write, storage: str) -> None:
    store, record = registered(write_study(text(trials=4)), storage)
    # Looks: two before the first claim, one an epoch; so the third epoch of trial 0.
    assert work(store, record, StopAfter(4)) is EndReason.STOPPED
    state = ticket_states(store, record)[0]
    assert (state.closed, state.leased, state.attempts) == (False, False, 0)
    assert [trial.state.name for trial in raw(storage)] == ["RUNNING"]
    assert work(store, record, StopRequest()) is EndReason.FINISHED
    study = Study("quick", storage)
    assert study.frame()["number"].tolist() == [0, 1, 2, 3]
    assert study.epochs().groupby("number").size().loc[0] == 8
    store.close()


def test_stopping_changes_no_result(write_study: Write, storage: str, tmp_path: Path) -> None:
    results = tmp_path / "straight"
    study = write_study(text(trials=10))
    straight = sweeper.launch(study, workers=0, storage=storage, results=results).frame()
    other = f"sqlite:///{tmp_path}/other.db"
    store, record = registered(write_study(text(trials=10)), other)
    for looks in (2, 5, 9, 13, 4, 3):
        work(store, record, StopAfter(looks))
    work(store, record, StopRequest())
    store.close()
    columns = ["number", "state", "epsilon", "schedule", "value", "ece"]
    pd.testing.assert_frame_equal(straight[columns], Study("quick", other).frame()[columns])


def test_ticket_of_worker_dead_after_tell_is_only_closed(
    write_study: Write, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    trace = tmp_path / "trace"
    options = f"options = {{ trace = '{trace}', pause = 0.0 }}"
    store, record = registered(write_study(text("slow", options, trials=1)), storage)
    with monkeypatch.context() as death:
        death.setattr(attempt, "close_ticket", die)
        with pytest.raises(SystemExit):
            work(store, record, StopRequest())
    revoke_leases(store, leaseholders(store, record))
    assert not ticket_states(store, record)[0].closed
    assert raw(storage)[0].state.name == "COMPLETE"
    assert work(store, record, StopRequest()) is EndReason.FINISHED
    assert len(trace.read_text().splitlines()) == 1
    assert ticket_states(store, record)[0].closed
    store.close()


def test_trial_with_repeatedly_dying_workers_is_abandoned(write_study: Write, storage: str) -> None:
    store, record = registered(write_study(text(trials=3)), storage)
    for _ in range(MAX_ATTEMPTS):
        assert claim(store, record.id, "doomed", below=1) is not None
        revoke_leases(store, ["doomed"])
    work(store, record, StopRequest())
    frame = Study("quick", storage).frame()
    assert frame["number"].tolist() == [0, 1, 2]
    assert frame["state"].tolist()[0] == "failed"
    assert "process died or hung 5 times" in frame.iloc[0]["failure"]
    store.close()


def test_duplicate_proposal_copies_the_stored_result(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    first = '[[first]]\nepsilon = 0.1\nschedule = "fixed"\nrate = {rate}\n'
    rest = first.format(rate=1.0) + first.format(rate=5.0) + first.format(rate=2.0)
    options = f"options = {{ trace = '{trace}', pause = 0.0 }}"
    study = run(write_study(text("slow", options, trials=4, rest=rest)), storage)
    frame = study.frame()
    assert len(trace.read_text().splitlines()) == 2  # ε = 0 and one of the three twins
    assert frame["copied_from"].tolist()[2:] == [1, 1]
    assert frame["value"].nunique() == 2
    assert raw(storage)[2].user_attrs["copied_from"] == 1


def test_search_minimizes_the_calibrated_metric(write_study: Write, storage: str) -> None:
    rest = "[objective]\nmetric = 'nll_calibrated'"
    frame = run(write_study(text(rest=rest)), storage).frame()
    done = frame[frame["state"] == "complete"]
    assert done["value"].tolist() == done["nll_calibrated"].tolist()
    assert (done["value"] != done["nll"]).any()


@pytest.mark.slow
def test_patience_ends_a_study_and_raising_it_resumes(write_study: Write, storage: str) -> None:
    study = run(write_study(text(trials=60, rest="patience = 4")), storage)
    ended = study.progress().ended
    assert ended < 60
    assert study.finished
    values = study.frame()["value"]
    assert values.iloc[-4:].min(skipna=True) >= values.min(skipna=True)
    assert values.idxmin() == ended - 5
    more = run(write_study(text(trials=60, rest="patience = 8")), storage)
    assert more.progress().ended > ended


def test_timeout_stops_and_next_launch_resumes(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    options = f"options = {{ trace = '{tmp_path}/trace', pause = 0.05 }}"
    file = write_study(text("slow", options, trials=30))
    results = tmp_path / "results"
    study = sweeper.launch(file, workers=0, storage=storage, timeout=6, results=results)
    ended = study.progress().ended
    assert 0 < ended < 30
    assert not study.finished
    assert (results / "quick" / "best.json").is_file()


def test_extra_metrics_and_versions_are_stored(write_study: Write, storage: str) -> None:
    study = run(write_study(text(options="threads = 2", trials=2)), storage)
    assert study.frame()["extra_quality"].notna().all()
    document = study.document()
    assert document["versions"]["torch"] == torch.__version__
    assert document["versions"]["threads"] == "2"
    assert document["scores"].keys() >= {"nll", "quality"}
    json.dumps(document, allow_nan=False)


def test_a_closed_study_opens_its_database_again(write_study: Write, storage: str) -> None:
    study = run(write_study(text(trials=2)), storage)
    before = study.frame()
    study.close()
    study.close()
    pd.testing.assert_frame_equal(study.frame(), before)
    study.close()
    reader = open_reader(storage)
    shared = Study("quick", storage, reader)
    shared.frame()
    opened = reader.engine.pool
    shared.close()
    assert reader.engine.pool is opened  # dispose() would replace it
    reader.close()


def test_foreign_trials_are_never_counted(write_study: Write, storage: str) -> None:
    run(write_study(text(trials=3)), storage)
    foreign = optuna.load_study(study_name="quick", storage=storage)
    foreign.tell(foreign.ask(), -99.0)
    study = run(write_study(text(trials=5)), storage)
    frame = study.frame()
    assert len(frame) == 5
    assert frame["value"].min() > 0
    assert study.progress().ended == 5
    assert [TICKET in trial.user_attrs for trial in raw(storage)].count(False) == 1


def test_two_studies_in_one_database_are_independent(write_study: Write, storage: str) -> None:
    one = run(write_study(text(trials=3)), storage)
    before = one.frame()
    other = text(trials=4).replace('"quick"', '"other"').replace("name = quick", "")
    two = run(write_study(other, "other.toml"), storage)
    assert len(two.frame()) == 4
    pd.testing.assert_frame_equal(one.frame(), before)
    sweeper.delete("other", storage)
    pd.testing.assert_frame_equal(one.frame(), before)


def test_changed_task_file_is_rejected_before_training(write_study: Write, storage: str) -> None:
    file = write_study(text(trials=3))
    store, record = registered(file, storage)
    task = file.parent / "quick.py"
    task.write_text(task.read_text() + "\n# another program by now\n")
    with pytest.raises(sweeper.SweeperError, match=r"quick\.py has changed"):
        work(store, record, StopRequest())
    assert ticket_states(store, record)[0].attempts == 0
    store.close()


@pytest.mark.slow
def test_process_state_is_restored(write_study: Write, storage: str) -> None:
    with torch_threads(3):
        frozen = gc.get_freeze_count()
        run(write_study(text(trials=1)), storage)
        assert (torch.get_num_threads(), gc.get_freeze_count()) == (3, frozen)


def test_readers_see_active_and_stale_workers(write_study: Write, storage: str) -> None:
    store, record = registered(write_study(text(trials=3)), storage)
    name = worker_name()
    assert claim(store, record.id, name, below=3) is not None
    assert claim(store, record.id, "elsewhere:77:1.00:ab", below=3) is not None
    late = update(tickets).where(tickets.c.number == 1).values(lease_until=now() - 60)
    store.transact(lambda connection: connection.execute(late))
    here, silent = Study("quick", storage).workers()
    assert (here.pid, here.trial, here.attempt, here.stale) == (os.getpid(), 0, 1, False)
    assert 0 <= here.unseen < 30
    assert (silent.host, silent.pid, silent.trial, silent.stale) == ("elsewhere", 77, None, True)
    assert 90 <= silent.unseen < 120
    store.close()


def test_ticket_of_dead_worker_is_claimed_before_lease_expiry(
    write_study: Write, storage: str
) -> None:
    store, record = registered(write_study(text(trials=1)), storage)
    code = "from sweeper.worker.identity import worker_name; print(worker_name())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert claim(store, record.id, gone.stdout.strip(), below=1) is not None
    stop = StopRequest(deadline=time.monotonic() + LEASE_SECONDS / 2)
    assert work(store, record, stop) is EndReason.FINISHED
    store.close()
