"""A study is read once for all that is shown of it, and its confirmation is computed once."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

import sweeper
from sweeper import api
from sweeper.cli import main
from sweeper.confirmation import read_evidence
from sweeper.confirmation.evidence import COMPARED_SCORES, Evidence, EvidenceSummary
from sweeper.snapshot import StudySnapshot
from sweeper.store.database import open_writer
from sweeper.store.schema import confirmations, replicates
from sweeper.study import frames
from sweeper.tasks.program import Program
from tests.support.service_world import World, copied

RESAMPLED = len(COMPARED_SCORES) * 5  # scores of each candidate


@pytest.fixture
def fresh_world(template: World, tmp_path: Path) -> World:
    return copied(template, tmp_path)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a whole study is read, and how much of its confirmation is computed."""
    found = Counter[str]()

    def count(what: str, where: Any, name: str, when: Callable[..., bool]) -> None:
        original = getattr(where, name)

        def counted(*given: Any, **named: Any) -> Any:
            found[what] += when(*given)
            return original(*given, **named)

        monkeypatch.setattr(where, name, counted)

    count("built", Program, "check", lambda _: True)
    count("reads", frames, "read_table", lambda store, record, ids=None: ids is None)
    count("evidence", read_evidence, "read_replicates", lambda *_: True)
    count("examples", read_evidence, "read_examples", lambda *_: True)
    count("intervals", Evidence, "_interval", lambda _, __, ___, split, *____: split == "test")
    return found


def sweeper_command(*arguments: object) -> int:
    """Run a command in this process; return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweeper", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_a_launch_computes_its_confirmation_once(
    template: World, tmp_path: Path, storage: str, counts: Counter[str]
) -> None:
    study = template.folder / "quick.toml"
    options = ("--workers", 0, "--storage", storage, "--results", tmp_path)
    assert sweeper_command("launch", study, *options) == 0
    # Before the confirmation its candidates are chosen; at the end everything is shown.
    assert counts["reads"] == 2
    assert counts["evidence"] == counts["examples"] == 1
    assert counts["intervals"] == RESAMPLED
    assert counts["built"] == 1


def test_status_recomputes_nothing(
    fresh_world: World, counts: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweeper_command("status", "quick", "--storage", fresh_world.study.storage) == 0
    assert "verdict: " in capsys.readouterr().out
    assert counts["reads"] == counts["evidence"] == 1
    assert counts["examples"] == counts["intervals"] == 0


def test_views_of_a_study_read_it_once(fresh_world: World, counts: Counter[str]) -> None:
    for _ in range(2):
        for path in ("/studies/quick", "/studies/quick?shown=running", "/studies/quick/trials"):
            assert fresh_world.site.page(path).status == 200
    for path in ("best", "scores", "export", "report"):
        assert fresh_world.site.ask(f"/v1/studies/quick/{path}").status == 200
    assert counts["reads"] == 1
    # Once for the snapshot, and once for the recommendation in the list, which reads no trials.
    assert counts["evidence"] == 2
    assert counts["intervals"] == 0


def test_a_second_confirmation_is_seen_at_once(fresh_world: World) -> None:
    def confirmation() -> int:
        return int(fresh_world.site.ask("/v1/studies/quick/best").json["confirmation"]["number"])

    assert confirmation() == 1
    file = fresh_world.folder / "quick.toml"
    file.write_text(file.read_text() + "\n[confirm]\nchoice = 'one_standard_error'\n")
    study = sweeper.launch(
        file, workers=0, storage=fresh_world.study.storage, results=fresh_world.folder
    )
    found = study.evidence()
    assert found is not None
    assert found.number == 2
    # The service may answer with numbers a moment old.
    until = time.monotonic() + 10
    while confirmation() == 1:
        assert time.monotonic() < until
    assert confirmation() == 2


# ---- what is stored ----------------------------------------------------------------------


def evidence_of(world: World) -> Evidence:
    found = world.study.evidence()
    assert found is not None
    return found


def test_stored_summary_equals_computed_summary(template: World) -> None:
    stored = evidence_of(template)
    assert stored.summary is not None
    computed = replace(stored, summary=None)
    for candidate in range(len(stored.candidates)):
        for score in COMPARED_SCORES:
            assert stored.compare(candidate, score) == computed.compare(candidate, score)
    for replicate in stored.replicates:
        for score in COMPARED_SCORES:
            assert stored.score(replicate, "test", score) == pytest.approx(
                computed.score(replicate, "test", score), rel=1e-12
            )


@pytest.mark.parametrize("changed", ["replicate", "method"])
def test_stored_summary_is_invalidated_by_changes(
    fresh_world: World, counts: Counter[str], monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    before = fresh_world.study.verdict()
    assert before is not None
    assert counts["intervals"] == 0
    store = open_writer(fresh_world.study.storage)
    if changed == "method":
        monkeypatch.setattr(EvidenceSummary, "VERSION", EvidenceSummary.VERSION + 1)
    else:
        with store.engine.begin() as connection:
            one = connection.execute(select(replicates).limit(1)).one()
            scores = {**one.scores, "valid": {**one.scores["valid"], "nll": 9.0}}
            mine = replicates.c.number == one.number, replicates.c.phase == one.phase
            connection.execute(update(replicates).where(*mine).values(scores=scores))
    assert fresh_world.study.verdict() is not None
    assert counts["intervals"] == RESAMPLED
    api.confirm("quick", workers=0, storage=fresh_world.study.storage, results=fresh_world.folder)
    assert counts["intervals"] == 2 * RESAMPLED
    assert fresh_world.study.verdict() is not None
    assert counts["intervals"] == 2 * RESAMPLED
    store.close()


def test_study_of_older_version_is_computed_on_read(fresh_world: World) -> None:
    snapshot: StudySnapshot = fresh_world.study.snapshot()
    store = open_writer(fresh_world.study.storage)
    with store.engine.begin() as connection:
        connection.execute(update(confirmations).values(summary=None))
    store.close()
    again = fresh_world.study.snapshot()
    assert snapshot.verdict is not None
    assert again.verdict == snapshot.verdict
