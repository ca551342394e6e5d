"""A search confirmed: fresh seeds for all alike, one verdict, and the export that follows it."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from sqlalchemy import select, update

from sweeper import api
from sweeper.api import Study
from sweeper.confirmation.design import Assignment, due_confirmation
from sweeper.confirmation.examples import pack_examples
from sweeper.confirmation.read_evidence import StoredScores, replicate_of
from sweeper.errors import SweeperError
from sweeper.export import digest_of
from sweeper.scoring import score
from sweeper.smoothing import SCHEDULES
from sweeper.store.database import open_reader, open_writer
from sweeper.store.records import read_results
from sweeper.store.schema import confirmations, replicates, studies, tickets
from sweeper.store.studies import get_study
from sweeper.store.tickets import planned_points, ticket_states
from sweeper.study.registration import register
from sweeper.training.failures import TrainingFailed
from sweeper.training.replicate_scores import replicate_result
from sweeper.training.run import Evaluation
from sweeper.worker.open_study import open_for_work
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.processes import run as command
from tests.support.studies import copy_task, read_here

pytestmark = pytest.mark.slow

Write = Callable[..., Path]

TEXT = """
[study]
name = "quick"
seed = 3
[task]
use = "quick.py:{function}"
options = {options}
[space]
schedule = ["fixed", "linear"]
[budget]
trials = {trials}
[confirm]
{confirm}
"""
HELPS = "{ help = 8.0 }"
HURTS = "{ help = -30.0 }"


def text(
    options: str = HELPS,
    trials: int = 12,
    confirm: str = "replicates = 4",
    function: str = "with_test_split",
) -> str:
    return TEXT.format(options=options, trials=trials, confirm=confirm, function=function)


class Confirmed(NamedTuple):
    """A study that has been searched and confirmed, for tests that only read it."""

    study: Study
    storage: str
    results: Path


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Confirmed:
    """Return a confirmed study that all tests of this module share."""
    folder = tmp_path_factory.mktemp("confirmed")
    copy_task(folder)
    (folder / "quick.toml").write_text(text())
    storage, results = f"sqlite:///{folder}/sweeper.db", folder / "results"
    study = api.launch(folder / "quick.toml", workers=0, storage=storage, results=results)
    return Confirmed(study, storage, results / "quick")


@pytest.fixture
def launch(write_study: Write, storage: str, tmp_path: Path) -> Callable[..., Study]:
    """Return a function that launches the study in this process."""

    def launched(content: str, **more: Any) -> Study:
        path = write_study(content)
        return api.launch(path, workers=0, storage=storage, results=tmp_path / "results", **more)

    return launched


def rows(storage: str, table: Any) -> list[dict[str, Any]]:
    store = open_reader(storage)
    with store.engine.connect() as connection:
        found = [dict(row._mapping) for row in connection.execute(select(table))]
    store.close()
    return found


def seeds(storage: str, number: int = 1) -> list[dict[str, Any]]:
    store = open_reader(storage)
    points = planned_points(store, get_study(store, "quick"), f"confirm-{number}")
    store.close()
    return [dict(point) for point in points.values()]


# ---- what is trained again ---------------------------------------------------------------------


def test_every_candidate_is_trained_on_the_same_fresh_seeds(confirmed: Confirmed) -> None:
    study = confirmed.study
    assert study.finished
    evidence = study.evidence()
    assert evidence is not None
    roles = [candidate.role for candidate in evidence.candidates]
    assert roles == ["baseline", "pick", "runner-up", "runner-up", "default"]
    assert evidence.complete
    assert len(evidence.replicates) == 5 * 4
    by_candidate = [
        {(r.number, r.seed) for r in evidence.replicates if r.candidate == index}
        for index in range(5)
    ]
    assert all(found == by_candidate[0] for found in by_candidate)
    assert len({seed for _, seed in by_candidate[0]}) == 4
    assert 3 not in {seed for _, seed in by_candidate[0]}
    assert {one["data_seed"] for one in seeds(confirmed.storage)} == {3}


def test_confirmation_adds_no_trial_and_its_tickets_are_closed(confirmed: Confirmed) -> None:
    study = confirmed.study
    assert study.frame()["number"].tolist() == list(range(12))
    store = open_reader(confirmed.storage)
    states = ticket_states(store, get_study(store, "quick"), "confirm-1")
    store.close()
    assert [state.closed for state in states] == [True] * 20


def test_search_uses_only_the_validation_split(write_study: Write, storage: str) -> None:
    content = text(function="rejects_test_split", options="{}", confirm="enabled = false")
    path = write_study(content)
    study = api.launch(path, workers=0, storage=storage, results=path.parent / "results")
    assert not (study.frame()["state"] == "failed").any()
    asked = api.confirm(
        "quick", workers=0, storage=storage, results=path.parent / "results"
    ).evidence()
    assert asked is not None
    assert all("asked" in replicate.failure for replicate in asked.replicates)


def test_test_scores_and_examples_are_those_of_the_test_split(confirmed: Confirmed) -> None:
    evidence = confirmed.study.evidence()
    assert evidence is not None
    for replicate in evidence.replicates:
        assert replicate.rows == {"valid": 120, "train": 240, "test": 240}
        test = replicate.scores["test"]
        assert replicate.examples["nll"].mean() == pytest.approx(test["nll"], abs=1e-6)
        assert replicate.examples["correct"].mean() == pytest.approx(test["accuracy"])
        assert test["nll"] != replicate.scores["valid"]["nll"]


def test_test_scores_use_the_validation_temperature(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, test = (scale * torch.randn(90, 3, generator=generator) for scale in (1.0, 4.0))
    labels = logits.argmax(1).where(torch.arange(90) % 3 > 0, torch.zeros(90, dtype=torch.long))
    evaluation = Evaluation(logits, labels, 1.0, splits={"test": lambda: (test, labels)})
    valid = score(logits, labels)
    assert valid.temperature is not None
    found = replicate_result(evaluation, valid)
    found.save(tmp_path / "examples.npz")
    packed = pack_examples(tmp_path / "examples.npz")
    stored = StoredScores(found.scores, found.rows, packed)
    one = replicate_of(Assignment(0, 0, 1, 1, {}), stored)
    at = (test / valid.temperature).log_softmax(1).gather(1, labels[:, None]).squeeze(1)
    assert one.examples["nll_calibrated"] == pytest.approx(-at.double().numpy(), abs=1e-4)
    own = score(test, labels).temperature
    assert own is not None
    assert abs(own - valid.temperature) > 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "has no test split"),
        ({"test": lambda: (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))}, "no examples"),
        ({"test": lambda: None}, "returned None; it must return logits and labels"),
        ({"test": lambda: (torch.eye(3), torch.arange(3) + 1)}, "labels range from 1 to 3"),
        ({"test": lambda: (torch.full((2, 3), math.nan), torch.tensor([0, 1]))}, "diverged"),
    ],
)
def test_a_test_split_that_cannot_be_scored_fails_its_training(
    given: dict[Any, Any], words: str
) -> None:
    logits, labels = torch.eye(3), torch.arange(3)
    evaluation = Evaluation(logits, labels, 1.0, splits=given)
    with pytest.raises(TrainingFailed, match=words):
        replicate_result(evaluation, score(logits, labels))


def test_confirmation_can_be_run_later_without_repeating_runs(
    launch: Callable[..., Study], storage: str, tmp_path: Path
) -> None:
    study = launch(text(), confirm=False)
    assert study.finished
    assert study.evidence() is None
    assert study.document()["verdict"] is None
    again = api.confirm("quick", workers=0, storage=storage, results=tmp_path / "results")
    assert again.document()["verdict"]["word"] == "helps"
    before = rows(storage, tickets)
    api.confirm("quick", workers=0, storage=storage, results=tmp_path / "results")
    launch(text())
    assert rows(storage, tickets) == before


def test_continued_study_is_confirmed_again_and_notes_test_reuse(
    launch: Callable[..., Study], storage: str
) -> None:
    first = launch(text())
    verdict = first.verdict()
    assert verdict is not None
    assert "earlier confirmation" not in verdict.sentences[-1]
    second = launch(text(trials=14))
    evidence, verdict = second.evidence(), second.verdict()
    assert evidence is not None
    assert verdict is not None
    assert evidence.number == 2
    assert "already used by 1 earlier confirmation of this study" in verdict.sentences[-1]
    # A confirmation that trained nothing has not used the test split.
    store = open_writer(storage)
    with store.engine.begin() as connection:
        connection.execute(replicates.delete().where(replicates.c.phase == "confirm-1"))
    store.close()
    verdict = second.verdict()
    assert verdict is not None
    assert not any("earlier confirmation" in sentence for sentence in verdict.sentences)


def test_damaged_replicate_is_a_one_line_error(
    launch: Callable[..., Study], storage: str, tmp_path: Path
) -> None:
    launch(text()).close()
    store = open_writer(storage)
    with store.engine.begin() as connection:
        connection.execute(replicates.update().values(rows={}))
    store.close()
    done = command("report", "quick", "--storage", storage, "-o", tmp_path / "r.html")
    assert done.status == 2
    assert "study 'quick' cannot be used" in done.err
    assert len(done.err.splitlines()) == 1
    assert not {one["seed"] for one in seeds(storage, 1)} & {o["seed"] for o in seeds(storage, 2)}


def test_stopped_confirmation_resumes(write_study: Write, storage: str, tmp_path: Path) -> None:
    store = open_writer(storage)
    record = register(store, read_here(write_study(text())))
    options = WorkerOptions("quick", tmp_path / "results", trials=12 + 7)
    assert work(store, options, StopRequest()) is EndReason.TRIAL_LIMIT
    first = Study("quick", storage).evidence()
    assert first is not None
    assert len(first.replicates) == 7
    assert Study("quick", storage).verdict() is None
    assert not Study("quick", storage).finished
    assert Study("quick", storage).progress().confirmed == 7
    assert (
        work(store, WorkerOptions("quick", tmp_path / "results"), StopRequest())
        is EndReason.FINISHED
    )
    results = read_results(store, record, "confirm-1")
    assert sorted(results) == list(range(20))
    store.close()
    whole = Study("quick", storage).evidence()
    assert whole is not None
    kept = {(r.candidate, r.number): r.scores for r in first.replicates}
    assert kept.items() <= {(r.candidate, r.number): r.scores for r in whole.replicates}.items()


def test_a_worker_for_all_studies_confirms_too(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    store = open_writer(storage)
    register(store, read_here(write_study(text())))
    options = WorkerOptions(None, tmp_path / "results", idle=0.0)
    assert work(store, options, StopRequest()) is EndReason.IDLE
    store.close()
    assert Study("quick", storage).verdict() is not None


def test_resplit_redraws_the_data_for_each_seed(launch: Callable[..., Study], storage: str) -> None:
    study = launch(text(confirm="replicates = 3\nresplit = true"))
    splits = [(one["replicate"], one["data_seed"]) for one in seeds(storage)]
    assert len(set(splits)) == 3
    assert 3 not in {split for _, split in splits}
    verdict = study.verdict()
    assert verdict is not None
    assert verdict.comparison.difference.freedom == 2
    assert "new samples from this source" in verdict.sentences[0]


# ---- what the verdict says and the export does -----------------------------------------------


def test_a_pick_that_helps_is_exported_with_its_verdict(confirmed: Confirmed) -> None:
    study = confirmed.study
    verdict, document = study.verdict(), study.document()
    assert verdict is not None
    assert verdict.word == "helps"
    assert document["epsilon"] == verdict.pick.point["epsilon"] > 0
    assert document["rule"] == "best"
    assert document["verdict"]["difference"]["high"] < 0
    assert document["digest"] == digest_of(document)
    assert json.loads((confirmed.results / "best.json").read_text())["verdict"] is not None
    assert document["baseline"]["nll"] > document["scores"]["nll"]


def test_epsilon_0_is_exported_if_smoothing_hurts(launch: Callable[..., Study]) -> None:
    study = launch(text(options=HURTS))
    verdict, document = study.verdict(), study.document()
    assert verdict is not None
    assert verdict.word == "hurts"
    assert (document["epsilon"], document["schedule"], document["rate"]) == (0.0, "fixed", None)
    assert document["label_smoothing"] == 0.0
    assert document["scores"] == document["baseline"]


def test_pick_with_failed_replicates_is_not_recommended(
    launch: Callable[..., Study], storage: str, tmp_path: Path
) -> None:
    first = launch(text(), confirm=False)
    planned = api.confirm(
        "quick", workers=0, storage=storage, results=tmp_path / "results"
    ).evidence()
    assert planned is not None
    failing_seed = planned.replicates[0].seed
    api.delete("quick", storage)
    study = launch(text(options=f"{{ help = 8.0, failing_seeds = [{failing_seed}] }}"))
    verdict = study.verdict()
    assert verdict is not None
    assert (verdict.word, verdict.failed, verdict.replicates) == ("no benefit shown", 1, 3)
    assert study.document()["epsilon"] == 0.0
    assert first.name == study.name


def test_a_pick_that_breaks_the_constraint_on_fresh_seeds_is_not_exported(
    launch: Callable[..., Study], storage: str
) -> None:
    study = launch(text(confirm="replicates = 4\nconstraint = 'nll <= baseline * 0.99'"))
    assert study.document()["epsilon"] > 0
    store = open_writer(storage)
    with store.engine.begin() as connection:
        settings = rows(storage, confirmations)[0]["settings"]
        strict = {**settings, "constraint": "nll <= baseline * 0.01"}
        connection.execute(update(confirmations).values(settings=strict))
    store.close()
    verdict = study.verdict()
    assert verdict is not None
    assert verdict.word == "helps"
    assert "nll <= baseline * 0.01" in verdict.reason
    assert verdict.recommended is verdict.baseline
    assert study.document()["epsilon"] == 0.0


# ---- what cannot be confirmed ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (text(function="train", options="{}"), "the training function has no test split"),
        (text(confirm="constraint = 'accuracy >= 1.5'"), "ε > 0 satisfies confirm.constraint"),
        (text(trials=1), "no trial with ε > 0 has finished"),
        (text(function="broken", options="{}", trials=4), "ε = 0 has not finished"),
    ],
)
def test_search_without_candidates_reports_the_reason(
    write_study: Write, storage: str, content: str, reason: str
) -> None:
    path = write_study(content)
    study = api.launch(path, workers=0, storage=storage, results=path.parent / "results")
    assert study.finished
    assert reason in study.snapshot().unconfirmed
    assert rows(storage, replicates) == []
    before = rows(storage, confirmations)
    done = command("confirm", "quick", "--storage", storage)
    assert done.status == 2
    assert reason in done.err
    assert len(done.err.splitlines()) == 1
    assert rows(storage, confirmations) == before


def test_unfinished_search_is_not_confirmed(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    store = open_writer(storage)
    register(store, read_here(write_study(text())))
    work(store, WorkerOptions("quick", tmp_path / "results", trials=5), StopRequest())
    store.close()
    with pytest.raises(SweeperError, match="has finished 5 of 12 trials"):
        api.confirm("quick", storage=storage)
    assert rows(storage, confirmations) == []


def test_study_older_than_confirmations_is_finished(
    launch: Callable[..., Study], storage: str
) -> None:
    study = launch(text(), confirm=False)
    store = open_writer(storage)
    with store.engine.begin() as connection:
        kept = json.loads(rows(storage, studies)[0]["spec"])
        del kept["spec"]["confirm"]
        connection.execute(update(studies).values(spec=json.dumps(kept)))
    store.close()
    assert study.finished
    assert launch(text()).verdict() is not None


# ---- verify ------------------------------------------------------------------------------------


@pytest.fixture
def best(confirmed: Confirmed, tmp_path: Path) -> Path:
    """Return the export of a confirmed study, to be changed."""
    return Path(shutil.copy(confirmed.results / "best.json", tmp_path))


def changed(path: Path, **values: Any) -> None:
    """Change an export as its writer would have: its digest fits."""
    document = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({**document, "digest": digest_of(document)}))


def test_an_export_is_verified_on_new_seeds_and_nothing_is_written(
    best: Path, confirmed: Confirmed
) -> None:
    storage = confirmed.storage
    before = rows(storage, tickets), rows(storage, replicates)
    found = api.verify(best, storage, replicates=3)
    assert found.holds
    assert found.low < found.difference < found.high
    assert (rows(storage, tickets), rows(storage, replicates)) == before
    done = command("verify", best, "--storage", storage, "--replicates", 3)
    assert done.status == 0
    assert "this is inside the exported 95% CI" in done.out


def test_failed_verification_sets_the_exit_status(best: Path, confirmed: Confirmed) -> None:
    verdict = json.loads(best.read_text())["verdict"]
    wrong = {**verdict["difference"], "low": -9.0, "high": -8.0}
    changed(best, verdict={**verdict, "difference": wrong})
    done = command("verify", best, "--storage", confirmed.storage, "--replicates", 2)
    assert done.status == 1
    assert "OUTSIDE" in done.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda path: path.write_text(path.read_text().replace('"seed": 3', '"seed": 4')),
            "changed",
        ),
        (lambda path: changed(path, spec_hash="0" * 64), "another study"),
        (lambda path: changed(path, verdict=None), "no verdict"),
        (lambda path: path.write_text("[1]"), "not the best.json"),
        (lambda path: path.write_text("{"), "not JSON"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_unverifiable_file_is_a_one_line_error(
    best: Path, confirmed: Confirmed, change: Callable[[Path], Any], words: str
) -> None:
    change(best)
    done = command("verify", best, "--storage", confirmed.storage)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_study_with_custom_schedule_is_read_without_loading_it(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    own = text().replace('"linear"', '"quick.py:slope"')
    path = write_study(own)
    study = api.launch(path, workers=0, storage=storage, results=tmp_path / "results")
    before = study.frame()
    assert "quick.py:slope" in set(before["schedule"])
    del SCHEDULES["quick.py:slope"]
    pd.testing.assert_frame_equal(study.frame(), before)
    assert study.document()["epsilon"] > 0
    for verb in ("status", "report", "export"):
        where = ["-o", tmp_path / "out"] if verb == "report" else []
        assert command(verb, "quick", "--storage", storage, *where).status == 0


def test_last_worker_of_the_search_creates_the_confirmation(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    store = open_writer(storage)
    register(store, read_here(write_study(text())))
    options = WorkerOptions("quick", tmp_path / "results", trials=12)
    assert work(store, options, StopRequest()) is EndReason.TRIAL_LIMIT
    store.close()
    assert len(seeds(storage)) == 20


def test_study_deleted_during_last_trial_is_not_confirmed(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    store = open_writer(storage)
    record = register(store, read_here(write_study(text(trials=1))))
    study = open_for_work(store, record, tmp_path / "results", tmp_path)
    api.delete("quick", storage)
    assert due_confirmation(store, record, study.spec) is None
    assert rows(storage, confirmations) == []
    store.close()
