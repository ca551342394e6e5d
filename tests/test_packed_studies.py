"""Packs in a worker: each trial of a pack is stored like a trial trained alone."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import sweeper
from sweeper.api import Study, replay
from sweeper.store.database import Store, open_writer
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import ClaimTerms, claim, count_open, revoke_leases
from sweeper.study.registration import register
from sweeper.training.packed.pack import Outcome, Pack
from sweeper.training.packed.stack import Member
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.studies import copy_task, read_here

pytestmark = pytest.mark.slow

Write = Callable[..., Path]

STUDY = """
[study]
name = "small"
seed = 3
[task]
use = "small.py:small"
[space]
width = {width}
lr = {lr}
[sampler]
name = "random"
[pruner]
name = "{pruner}"
startup = 3
[budget]
trials = 9
pack = {pack}
[confirm]
enabled = false
"""


@pytest.fixture
def small(tmp_path: Path) -> Write:
    """Return a function that writes the study, with its declared task beside it."""

    def write(
        pack: object, width: str = "[8]", lr: str = "[0.02, 0.03]", pruner: str = "none"
    ) -> Path:
        copy_task(tmp_path, "small.py")
        path = tmp_path / "small.toml"
        path.write_text(STUDY.format(pack=pack, width=width, lr=lr, pruner=pruner))
        return path

    return write


@pytest.fixture
def frame_of(small: Write, tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Return a function that runs the study in this process and returns its trials."""

    def run(pack: object, **others: str) -> pd.DataFrame:
        storage = f"sqlite:///{tmp_path}/{pack}.db"
        done = sweeper.launch(
            small(f'"{pack}"' if isinstance(pack, str) else pack, **others),
            workers=0,
            storage=storage,
            results=tmp_path / str(pack),
        )
        return done.frame().set_index("number")

    return run


@pytest.fixture
def launched(small: Write, storage: str) -> Iterator[tuple[Store, StudyRecord]]:
    """A study in packs of four, registered and not begun."""
    store = open_writer(storage)
    yield store, register(store, read_here(small(4)))
    store.close()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were in the pack in each of its epochs, from here on."""
    found, epoch = list[int](), Pack.epoch

    def noted(pack: Pack) -> Iterator[tuple[Member, Outcome]]:
        found.append(len(pack))
        return epoch(pack)

    monkeypatch.setattr(Pack, "epoch", noted)
    return found


SCORES = ["state", "value", "accuracy", "ece", "epsilon", "schedule", "epochs"]


def test_study_is_bitwise_equal_for_all_pack_sizes(
    frame_of: Callable[..., pd.DataFrame], sizes: list[int]
) -> None:
    by_one = frame_of(1)
    assert set(sizes) == {1}
    sizes.clear()
    by_four = frame_of(4)
    assert max(sizes) == 4
    assert sizes[-1] == 1  # 9 trials: the places of those that ended were taken again
    pd.testing.assert_frame_equal(by_one[SCORES], by_four[SCORES], check_exact=True)
    assert set(by_four["state"]) == {"complete"}
    assert set(by_four["notes"]) == {""}
    loop = frame_of("off")
    assert max((loop["value"] - by_four["value"]).abs()) < 1e-4
    assert not loop["value"].equals(by_four["value"])  # or nothing was packed


def test_failed_member_does_not_change_others(frame_of: Callable[..., pd.DataFrame]) -> None:
    found = frame_of(5, width="[8, 13]", lr="[0.02, 1e38]")
    broken = found["hp_width"] == 13
    wild = ~broken & (found["hp_lr"] > 1)
    assert 0 < broken.sum() < 9
    assert 0 < wild.sum() < 9
    assert found[broken]["failure"].str.contains("no model of 13").all()
    assert found[wild]["failure"].str.contains("diverged").all()
    alone = frame_of(1, width="[8, 13]", lr="[0.02, 1e38]")
    pd.testing.assert_frame_equal(found[SCORES], alone[SCORES], check_exact=True)


def test_a_pack_prunes(frame_of: Callable[..., pd.DataFrame]) -> None:
    states = frame_of(4, lr="[0.00001, 0.03]", pruner="median")["state"]
    assert {"complete", "pruned"} == set(states)


def test_unstackable_model_is_trained_alone_with_note(
    frame_of: Callable[..., pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sweeper"):
        found = frame_of(4, width="[8, 11]")
    assert set(found["state"]) == {"complete"}
    warnings = [record.message for record in caplog.records if "trained alone" in record.message]
    assert len(warnings) == 1
    assert "1 (Branching)" in warnings[0]
    alone = found["hp_width"] == 11
    loop = frame_of("off", width="[8, 11]")
    pd.testing.assert_series_equal(loop["value"][alone], found["value"][alone], check_exact=True)


def test_auto_pack_uses_the_loop_for_unstackable_models(
    frame_of: Callable[..., pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sweeper"):
        found = frame_of("auto", width="[11]")
    assert set(found["state"]) == {"complete"}
    assert any("each trial is trained alone" in record.message for record in caplog.records)


class StopAfter(StopRequest):
    """Asks for the stop when it has been looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    def __bool__(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def test_stopped_pack_resumes_bitwise_equal(
    launched: tuple[Store, StudyRecord],
    storage: str,
    frame_of: Callable[..., pd.DataFrame],
    tmp_path: Path,
) -> None:
    store, record = launched
    options = WorkerOptions(record.name, tmp_path / "stopped")
    for looks in (12, 19, 27):
        assert work(store, options, StopAfter(looks)) is EndReason.STOPPED
        assert Study("small", storage).progress().running == 0
    assert (tmp_path / "stopped" / "small" / "checkpoints").is_dir()
    assert work(store, options, StopRequest()) is EndReason.FINISHED
    stopped = Study("small", storage).frame().set_index("number")
    pd.testing.assert_frame_equal(stopped[SCORES], frame_of(4)[SCORES], check_exact=True)


@pytest.mark.parametrize("begun", [4, "off"])
def test_trial_resumes_in_the_mode_it_started_in(
    begun: object,
    small: Write,
    storage: str,
    frame_of: Callable[..., pd.DataFrame],
    tmp_path: Path,
) -> None:
    path, other = small(4 if begun == 4 else '"off"'), "off" if begun == 4 else 4
    store = open_writer(storage)
    work(
        store, WorkerOptions(register(store, read_here(path)).name, tmp_path / "both"), StopAfter(9)
    )
    store.close()
    sweeper.launch(path, pack=other, storage=storage, results=tmp_path / "both", workers=0)
    found = Study("small", storage).frame().set_index("number")["value"]
    assert found[0] == frame_of(begun)["value"][0]
    assert found[8] == frame_of(other)["value"][8]
    assert all(replay("small", trial, storage).same for trial in (0, 8))


def test_ticket_with_failed_attempts_runs_alone(
    launched: tuple[Store, StudyRecord], sizes: list[int], tmp_path: Path
) -> None:
    store, record = launched
    assert claim(store, record.id, "doomed", below=9) is not None
    revoke_leases(store, ["doomed"])
    work(store, WorkerOptions(record.name, tmp_path), StopRequest())
    assert sizes[:6] == [1] * 6
    assert max(sizes) == 4


def test_pack_leaves_tickets_for_other_workers(
    launched: tuple[Store, StudyRecord], sizes: list[int], tmp_path: Path
) -> None:
    store, record = launched
    work(store, WorkerOptions(record.name, tmp_path, workers=3), StopRequest())
    assert max(sizes) == 3
    assert sizes[-1] == 1


def test_planned_and_sampled_tickets_are_claimed_separately(
    write_study: Write, storage: str
) -> None:
    store = open_writer(storage)
    record = register(store, read_here(write_study(), trials=24))
    laid = count_open(store, record.id, below=24, points="planned", most=99)
    asked = count_open(store, record.id, below=24, points="sampled", most=99)
    assert (laid, asked) == (16, 8)
    assert count_open(store, record.id, below=24, points="planned", most=5) == 5
    ticket = claim(store, record.id, "one", below=24, terms=ClaimTerms("sampled"))
    assert ticket is not None
    assert (ticket.number, ticket.point) == (16, None)
    assert claim(store, record.id, "one", below=16, terms=ClaimTerms("sampled")) is None
    revoke_leases(store, ["one"])
    again = claim(store, record.id, "two", below=24, terms=ClaimTerms("sampled"))
    assert again is not None
    assert again.number == 17
    store.close()


def test_packed_trial_replays_bitwise(small: Write, storage: str, tmp_path: Path) -> None:
    sweeper.launch(small(4), workers=0, storage=storage, results=tmp_path / "results")
    found = replay("small", 5, storage)
    assert found.same, found.differences
    assert found.epochs == 6
