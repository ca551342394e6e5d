"""Trials trained again: what is the same to the last bit, and what differs is found and named."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, MetaData, Table, delete, select, update

import sweeper
from sweeper.api import Study, replay
from sweeper.cli import main
from sweeper.errors import SweeperError
from sweeper.replaying.comparison import Difference, RunValues, compare, environment_differences
from sweeper.store.database import open_reader, open_writer
from sweeper.store.schema import epochs, results, studies
from sweeper.store.tickets import SEARCH
from sweeper.worker.stopping import StopRequest
from tests.support.in_process_runs import StopAfter, registered, run, text, work
from tests.support.processes import process
from tests.support.studies import copy_task

Write = Callable[..., Path]
Launch = Callable[[Path], Study]

PRUNING = "[pruner]\nname = 'percentile'\npercentile = 1.0\nstartup = 1\nwarmup = 0.0"


@pytest.fixture
def write(write_study: Write, tmp_path: Path) -> Write:
    """Return a function that writes a study of one of the loops."""

    def written(function: str, options: str = "", trials: int = 2, rest: str = "") -> Path:
        copy_task(tmp_path, "digits_variants.py")
        return write_study(text(function, options, trials, rest))

    return written


def edit(storage: str, change: Callable[[Connection], Any]) -> None:
    """Change what is stored, as somebody with SQL would."""
    store = open_writer(storage)
    try:
        store.transact(change)
    finally:
        store.close()


def set_epochs(storage: str, where: ColumnElement[bool] | None = None, **values: Any) -> None:
    """Change columns of stored epochs."""
    query = update(epochs) if where is None else update(epochs).where(where)
    edit(storage, lambda connection: connection.execute(query.values(values)))


def set_result(storage: str, number: int, **values: Any) -> None:
    """Change columns of a result."""
    query = update(results).where(results.c.number == number).values(values)
    edit(storage, lambda connection: connection.execute(query))


def drop_epochs(storage: str, where: ColumnElement[bool]) -> None:
    """Lose stored epochs."""
    edit(storage, lambda connection: connection.execute(delete(epochs).where(where)))


def rewrite(storage: str, number: int, column: str, **values: Any) -> None:
    """Change entries of a JSON column of a result."""
    row = (results.c.number == number) & (results.c.phase == SEARCH)

    def change(connection: Connection) -> None:
        before = connection.execute(select(results.c[column]).where(row)).scalar_one()
        connection.execute(update(results).where(row).values({column: {**before, **values}}))

    edit(storage, change)


def stored(storage: str, number: int, column: str) -> Mapping[str, Any]:
    store = open_reader(storage)
    row = (results.c.number == number) & (results.c.phase == SEARCH)
    query = select(results.c[column]).where(row)
    try:
        return dict(store.transact(lambda connection: connection.execute(query)).scalar_one())
    finally:
        store.close()


def scored(storage: str, number: int) -> int:
    """Return how many scores are stored, the loop's own among them."""
    kept = {**stored(storage, number, "scores"), **stored(storage, number, "extra")}
    return sum(value is not None for value in kept.values())


def rows(storage: str) -> dict[str, list[str]]:
    """Return every row of every table, Optuna's too."""
    store, metadata = open_reader(storage), MetaData()
    try:
        metadata.reflect(store.engine)
        return {
            name: store.transact(partial(_rows_of, table))
            for name, table in metadata.tables.items()
        }
    finally:
        store.close()


def _rows_of(table: Table, connection: Connection) -> list[str]:
    return sorted(map(repr, connection.execute(select(table))))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file below a folder, but for what SQLite keeps beside a database."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.endswith(("-wal", "-shm"))
        and "__pycache__" not in path.parts
    }


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `sweeper replay` in this process; return its status and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweeper", "replay", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


# ---- on either database ------------------------------------------------------------------


class Replays:
    """What is stored comes back as the same doubles; a subclass a backend."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def launch(self, url: str) -> Iterator[Launch]:
        opened: list[Study] = []

        def launched(path: Path) -> Study:
            opened.append(run(path, url))
            return opened[-1]

        yield launched
        for study in opened:
            study.close()

    @pytest.mark.usefixtures("one_thread")
    def test_replay_is_bitwise_equal(self, url: str, launch: Launch, write: Write) -> None:
        study = launch(
            write("digits_variants.py:short", rest="[confirm]\nshortlist = 1\nreplicates = 2")
        )
        for number in (0, 1):
            again = replay("quick", number, url)
            assert again.same, again
            assert (again.epochs, again.state) == (4, "complete")
            assert again.scores == scored(url, number) + 1  # the value
            assert (again.environment, again.reason) == ([], "")
        assert study.frame()["nll"].nunique() == 2

    def test_replay_detects_one_bit_differences(
        self, url: str, launch: Launch, write_study: Write
    ) -> None:
        study = launch(write_study(text(trials=2)))
        for after in (math.inf, -math.inf):
            nll = study.epochs().query("number == 1 and epoch == 5")["nll"].item()
            near = math.nextafter(nll, after)
            fifth = (epochs.c.number == 1) & (epochs.c.epoch == 5)
            set_epochs(url, fifth, nll=near)
            brier = stored(url, 1, "scores")["brier"]
            rewrite(url, 1, "scores", brier=math.nextafter(brier, after))
            again = replay("quick", 1, url)
            assert not again.same
            assert again.differences == [
                Difference("nll", near, nll, 5),
                Difference("brier", math.nextafter(brier, after), brier),
            ]
            set_epochs(url, fifth, nll=nll)
            rewrite(url, 1, "scores", brier=brier)
        assert replay("quick", 1, url).same
        assert replay("quick", 0, url).same

    def test_replay_writes_nothing(
        self, url: str, launch: Launch, write_study: Write, tmp_path: Path
    ) -> None:
        launch(write_study(text(trials=3)))
        before = rows(url), files(tmp_path)
        assert replay("quick", 2, url).same
        rewritten = rows(url), files(tmp_path)
        assert rewritten == before
        assert sum(map(len, before[0].values())) > 30
        assert any("report.html" in name for name in before[1])


class TestSqlite(Replays):
    @pytest.fixture
    def url(self, storage: str) -> str:
        return storage


class TestPostgresql(Replays):
    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


class TestMysql(Replays):
    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql


# ---- what is compared --------------------------------------------------------------------


def test_replay_compares_the_optuna_value(write_study: Write, storage: str) -> None:
    value = run(write_study(text(trials=1)), storage).frame()["value"].item()
    table = models.TrialValueModel.__table__
    edit(storage, lambda connection: connection.execute(update(table).values(value=0.25)))
    assert replay("quick", 0, storage).differences == [Difference("value", 0.25, value)]


def test_missing_and_extra_epochs_are_reported(write_study: Write, storage: str) -> None:
    run(write_study(text(trials=1)), storage)
    drop_epochs(storage, epochs.c.epoch == 3)
    assert replay("quick", 0, storage).differences == [Difference("epoch", None, 3, 3)]


def test_non_finite_numbers_compare_as_stored(write: Write, storage: str) -> None:
    run(write("reports_threads", options="threads = 2", trials=1), storage)
    again = replay("quick", 0, storage)
    assert again.same
    assert stored(storage, 0, "extra") == {"threads": 2, "nothing": None}
    rewrite(storage, 0, "extra", nothing=1.0)
    (line,) = replay("quick", 0, storage).differences
    assert (line.name, line.stored, line.replayed) == ("extra_nothing", 1.0, math.inf)
    assert line.to_dict()["here"] is None
    set_epochs(storage, epochs.c.epoch < 3, brier=None)
    assert [line.name for line in replay("quick", 0, storage).differences][:2] == ["brier", "brier"]


def test_columns_added_later_are_not_compared(write: Write, storage: str) -> None:
    run(write("reports_threads", trials=1), storage)
    set_epochs(storage, train_loss=None)
    assert replay("quick", 0, storage).same


def test_comparison_of_values() -> None:
    there = RunValues({1: {"nll": 0.5, "brier": None}, 2: {"nll": 0.5}}, {"ece": 0.1, "nll": None})
    here = RunValues({1: {"nll": 0.25, "brier": math.nan}}, {"ece": 0.1, "nll": 1.0, "more": 2.0})
    found = compare(there, here)
    assert [str(line) for line in found] == [
        "epoch 1, nll: stored 0.5, replayed 0.25 (0.25 lower)",
        "epoch: stored 2, replayed none",
        "nll: stored none, replayed 1.0",
    ]
    assert compare(there, there) == []
    assert compare(RunValues(scores={"nll": 0.5}), RunValues(scores={"nll": math.nan})) != []


def test_environment_differences_are_listed_by_key() -> None:
    found = environment_differences(
        {"torch": "2.12", "cpu": "a"}, {"torch": "2.13", "cpu": "a", "commit": "c"}
    )
    assert list(map(str, found)) == [
        "torch: stored 2.12, replayed 2.13",
        "commit: stored none, replayed c",
    ]


# ---- with what it was trained ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("torch", "2.12.0"), ("cpu", "an abacus"), ("python", "3.1")]
)
def test_different_environment_is_reported_and_results_compared(
    write_study: Write, storage: str, name: str, value: str
) -> None:
    run(write_study(text(trials=1)), storage)
    here = stored(storage, 0, "environment")[name]
    rewrite(storage, 0, "environment", **{name: value})
    again = replay("quick", 0, storage)
    assert again.same
    assert [str(line) for line in again.environment] == [f"{name}: stored {value}, replayed {here}"]
    rewrite(storage, 0, "scores", nll=0.5)
    again = replay("quick", 0, storage)
    assert not again.same
    assert again.reason.startswith("results are bitwise reproducible only with the same packages")


def test_replay_accepts_other_package_versions(write_study: Write, storage: str) -> None:
    run(write_study(text(trials=1)), storage)
    edit(storage, lambda c: c.execute(update(studies).values(spec=_other_torch(c))))
    with pytest.raises(SweeperError, match=r"was launched with torch 1\.0"):
        sweeper.api.run_worker(sweeper.api.WorkerOptions("quick"), storage)
    assert replay("quick", 0, storage).same


def _other_torch(connection: Connection) -> str:
    kept = json.loads(connection.execute(select(studies.c.spec)).scalar_one())
    return json.dumps({**kept, "packages": {**kept["packages"], "torch": "1.0"}})


def test_replay_uses_the_stored_thread_count(write: Write, storage: str) -> None:
    run(write("reports_threads", trials=1), storage)
    rewrite(storage, 0, "environment", threads="3")
    rewrite(storage, 0, "extra", threads=3)
    before = torch.get_num_threads()
    again = replay("quick", 0, storage)
    assert again.same
    assert again.environment == []
    assert torch.get_num_threads() == before
    rewrite(storage, 0, "environment", threads="none", device="an H100 of tomorrow")
    again = replay("quick", 0, storage)
    assert [str(line) for line in again.environment] == [
        "threads: stored none, replayed 1",
        "device: stored an H100 of tomorrow, replayed cpu",
    ]


# ---- how trials end ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["nll", "nll_calibrated"])
def test_pruned_trial_is_replayed_to_its_last_epoch(
    write_study: Write, storage: str, metric: str
) -> None:
    rest = f"{PRUNING}\n[objective]\nmetric = '{metric}'"
    frame = run(write_study(text(rest=rest)), storage).frame()
    pruned = frame[frame["state"] == "pruned"]
    assert len(pruned) > 1
    seen: list[int] = []
    for row in pruned.to_dict("records"):
        seen.clear()
        number, length = row["number"], row["epochs"]
        again = replay("quick", number, storage, on_epoch=lambda row, _: seen.append(row.epoch))
        assert again.same, again
        assert seen == list(range(1, length + 1))
        assert again.epochs == length < 8
        assert again.scores == scored(storage, number)
        in_full = stored(storage, number, "scores")["nll_calibrated"] is not None
        assert in_full == (metric == "nll_calibrated")


@pytest.mark.slow
def test_a_failed_trial_fails_the_same_way(write_study: Write, storage: str) -> None:
    frame = run(write_study(text("diverge", trials=25)), storage).frame()
    failed = frame[frame["state"] == "failed"]
    assert set(failed["cause"]) == {"raised", "diverged"}
    for row in failed.drop_duplicates("cause").to_dict("records"):
        number, cause = row["number"], row["cause"]
        again = replay("quick", number, storage)
        assert again.same, again
        assert (again.failed_here.cause, again.failed_here.failure) == (cause, row["failure"])
        for change in ({"cause": "memory"}, {"cause": cause, "failure": "something else"}):
            set_result(storage, row["ticket"], **change)
            assert not replay("quick", number, storage).same


def test_trial_that_no_longer_fails_is_reported(
    write: Write, storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace"
    trace.touch()
    run(write("fails_while_file_exists", f"options = {{ trace = '{trace}' }}", trials=1), storage)
    again = replay("quick", 0, storage)
    assert again.same
    assert (again.epochs, again.scores) == (2, scored(storage, 0))
    trace.unlink()
    again = replay("quick", 0, storage)
    assert again.differences == [Difference("epoch", None, 3, 3)]  # and it trains no further
    status, out, _ = command(capsys, "quick", 0, "--storage", storage)
    assert status == 1
    assert "stored: RuntimeError: there is a file; replayed: it did not fail" in out


def test_trial_ended_by_worker_is_compared_to_its_last_epoch(write: Write, storage: str) -> None:
    run(write("unsavable_state", trials=1), storage)  # its state is refused at its first report
    frame = Study("quick", storage).frame()
    assert frame["state"].tolist() == ["failed"]
    assert "is a set of length 2" in frame["failure"].item()
    again = replay("quick", 0, storage)
    assert again.same, again
    assert (again.epochs, again.failed_here.failure) == (0, again.failed_there.failure)


def test_timed_out_trial_is_replayed_to_its_last_epoch(write_study: Write, storage: str) -> None:
    run(write_study(text(trials=1)), storage)

    def late(connection: Connection) -> None:
        ended = {"cause": "timeout", "failure": "it took longer", "epochs": 0, "environment": {}}
        connection.execute(update(results).values({**ended, "scores": {}, "extra": {}}))
        connection.execute(update(models.TrialModel.__table__).values(state=TrialState.FAIL))
        connection.execute(delete(epochs).where(epochs.c.epoch > 5))

    edit(storage, late)
    again = replay("quick", 0, storage)
    assert again.same, again
    assert (again.epochs, again.scores) == (5, 0)
    set_epochs(storage, epochs.c.epoch == 4, nll=1.0)
    assert replay("quick", 0, storage).reason.endswith("are not stored")
    drop_epochs(storage, epochs.c.epoch > 0)
    with pytest.raises(SweeperError, match=r"trial 0 has no stored results.*: it took longer"):
        replay("quick", 0, storage)


def test_copied_trial_replays_its_source(
    write_study: Write, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = '[[first]]\nepsilon = 0.1\nschedule = "fixed"\nrate = {rate}\n'
    run(write_study(text(trials=3, rest=first.format(rate=1.0) + first.format(rate=5.0))), storage)
    again = replay("quick", 2, storage)
    assert (again.requested, again.trial, again.epochs) == (2, 1, 8)
    assert again.same
    status, out, _ = command(capsys, "quick", 2, "--storage", storage)
    assert status == 0
    assert out.startswith("trial 2 is a copy of trial 1")
    rewrite(storage, 2, "scores", nll=0.5)
    assert replay("quick", 1, storage).same
    (line,) = replay("quick", 2, storage).differences
    assert (line.name, line.stored) == ("nll of trial 2", 0.5)


def test_interrupted_trial_replays_equal(write_study: Write, storage: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    options = f"options = {{ trace = '{trace}' }}"
    store, record = registered(write_study(text("resumable", options, trials=2)), storage)
    for _ in range(3):
        work(store, record, StopAfter(4))
    work(store, record, StopRequest())
    store.close()
    assert len(trace.read_text().splitlines()) == 2 * 8  # it did go on from checkpoints
    for number in (0, 1):
        assert replay("quick", number, storage).same
    set_epochs(storage, nll=1.0)
    assert "was started or resumed" in replay("quick", 0, storage).reason


@pytest.mark.slow
def test_trial_of_a_pack_replays_alone_bitwise(write: Write, storage: str, tmp_path: Path) -> None:
    """As a user launches it: in an environment that does not say how MKL multiplies."""
    file = write("digits_variants.py:paced", rest="pack = 4\n[confirm]\nenabled = false", trials=4)
    env = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    options = ("--workers", 1, "--storage", storage, "--results", tmp_path / "results")
    done = process("launch", file, *options, env=env)
    assert done.returncode == 0, done.stderr
    for number in range(4):
        again = replay("quick", number, storage)
        assert again.same, again


# ---- loops that are not deterministic ----------------------------------------------------


def test_nondeterministic_loop_is_detected(
    write: Write, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write("nondeterministic"), storage)
    again = replay("quick", 1, storage)
    first = again.differences[0]
    assert not again.same
    assert (first.epoch, first.name) == (3, "nll")
    assert again.reason.startswith("packages, processor type, threads and device are the same")
    assert "quick.py:nondeterministic is likely not deterministic" in again.reason
    status, out, _ = command(capsys, "quick", 1, "--storage", storage)
    assert status == 1
    output = out.splitlines()
    assert output[1].startswith("6 of 8 epochs and ")
    assert output[2].startswith(f"epoch 3, nll: stored {first.stored!r}, ")
    assert output[3].startswith("nll: ")
    assert output[4].startswith("likely reason: packages, ")


def test_extra_metric_difference_is_explained(write: Write, storage: str) -> None:
    run(write("random_metric", trials=1), storage)
    again = replay("quick", 0, storage)
    assert [line.name for line in again.differences] == ["extra_luck"]
    assert again.reason.startswith("only extra metrics of the training function differ")


# ---- mistakes, and the command -----------------------------------------------------------


def test_unreplayable_trial_is_an_error(write_study: Write, storage: str, tmp_path: Path) -> None:
    store, record = registered(write_study(text(trials=3)), storage)
    work(store, record, StopAfter(4))  # in the middle of trial 0
    with pytest.raises(SweeperError, match="trial 0 has not ended"):
        replay("quick", 0, storage)
    work(store, record, StopRequest())
    store.close()
    with pytest.raises(SweeperError, match=r"trial 3 does not exist \(trials 0-2\)"):
        replay("quick", 3, storage)
    with pytest.raises(SweeperError, match=r"no study 'quik'.*quick"):
        replay("quik", 0, storage)
    with pytest.raises(SweeperError, match="file not found"):
        replay("quick", 0, f"sqlite:///{tmp_path}/none.db")


def test_replay_requires_unchanged_task_files(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    run(write_study(text(trials=1)), storage)
    task, folder = tmp_path / "quick.py", tmp_path / "elsewhere"
    folder.mkdir()
    task.rename(folder / "quick.py")
    with pytest.raises(SweeperError, match=r"is not on this machine.*--folder"):
        replay("quick", 0, storage)
    assert replay("quick", 0, storage, folder=folder).same
    with (folder / "quick.py").open("a") as edited:
        edited.write("# edited\n")
    with pytest.raises(SweeperError, match=r"revision 1 of .*quick\.py has changed since"):
        replay("quick", 0, storage, folder=folder)


def test_replay_command_output(
    write_study: Write, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = '[[first]]\nepsilon = 0.1\nschedule = "cosine"\nrate = 2.0\n'
    run(write_study(text(trials=2, rest=rest)), storage)
    assert command(capsys, "quick", 1, "--storage", storage) == (
        0,
        "trial 1: complete, ε = 0.10, cosine, rate 2.0\n"
        f"8 epochs and {scored(storage, 1) + 1} scores are identical, bit for bit\n",
        "",
    )
    rewrite(storage, 1, "environment", torch="2.12.0")
    rewrite(storage, 1, "scores", ece=0.5)
    status, out, _ = command(capsys, "quick", 1, "--storage", storage, "--json")
    output = json.loads(out)
    assert (status, output["same"], output["point"]["epsilon"]) == (1, False, 0.1)
    assert [line["name"] for line in output["differences"]] == ["ece"]
    assert [line["there"] for line in output["environment"]] == ["2.12.0"]
    status, out, err = command(capsys, "quick", 9, "--storage", storage)
    assert (status, out, err) == (
        2,
        "",
        "error: study 'quick': trial 9 does not exist (trials 0-1)\n",
    )
