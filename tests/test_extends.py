"""Studies that extend an earlier study: which of its trials inform the sampler."""

import os
import signal
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest

import sweeper
from sweeper.api import Study, control, plan_launch
from sweeper.errors import SweeperError
from sweeper.store.database import Store, open_writer
from sweeper.store.studies import EarlierTrial, get_study, read_earlier_trials
from sweeper.store.tickets import count_planned, planned_points
from sweeper.study.baseline_search import is_baseline_ticket
from sweeper.study.extension import fit_point
from sweeper.study.load import parse_spec, read_stored
from sweeper.study.sampler import as_frozen, propose
from sweeper.study.space import distributions
from sweeper.study.spec import StudySpec
from tests.support.processes import StartSweeper, run
from tests.support.studies import copy_task

POINT = {"epsilon": 0.1, "schedule": "cosine", "rate": 2.0}
LR = {"low": 0.1, "high": 1.0}
EIGHT = {"name": "tpe", "startup": 8}


def spec_of(space: Mapping[str, Any], **tables: Any) -> StudySpec:
    study = {"study": {"name": "quick"}, "task": {"use": "quick.py:train"}}
    return parse_spec({**study, "space": space, **tables})


# ---- which configurations fit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "values", "new", "fitted"),
    [
        ({"lr": LR}, {"lr": 0.5}, {"lr": {"low": 0.01, "high": 2.0, "log": True}}, {"lr": 0.5}),
        ({"lr": LR}, {"lr": 0.5}, {"lr": {"low": 0.6, "high": 2.0}}, "lr is outside space.lr"),
        ({"lr": LR}, {"lr": 0.5}, {"lr": [0.25, 0.5]}, {"lr": 0.5}),
        ({"lr": LR}, {"lr": 0.5}, {"lr": 0.5}, {}),
        ({"lr": LR}, {"lr": 0.5}, {"lr": 0.4}, "lr has another value"),
        ({"lr": LR}, {"lr": 0.5}, {}, "lr is not in [space]"),
        ({"lr": 0.5}, {}, {"lr": LR}, {"lr": 0.5}),
        ({}, {}, {"lr": LR}, "lr has no value"),
        ({}, {}, {"lr": 0.5}, "lr has another value"),
        (
            {"depth": [1, 2, 3]},
            {"depth": 3},
            {"depth": {"low": 2, "high": 9, "integer": True}},
            {"depth": 3},
        ),
        ({"kind": ["a", "b"]}, {"kind": "b"}, {"kind": ["c", "b"]}, {"kind": "b"}),
        ({"kind": ["a", "b"]}, {"kind": "a"}, {"kind": ["c", "b"]}, "kind is outside space.kind"),
        ({"schedule": "cosine"}, {}, {"schedule": "fixed"}, "schedule is not in space.schedule"),
        ({}, {}, {"rate": {"low": 3.0, "high": 4.0}}, "rate is outside space.rate"),
        ({}, {}, {"epsilon": {"low": 0.0, "high": 0.05}}, "epsilon is outside space.epsilon"),
        ({}, {"epsilon": 0.0}, {"schedule": "linear"}, {"epsilon": 0.0, "schedule": "linear"}),
        (
            {"kind": ["a", "b"], "lr": {**LR, "when": {"kind": "a"}}},
            {"kind": "a", "lr": 0.5},
            {"kind": "a", "lr": LR},
            {"lr": 0.5},
        ),
        (
            {"kind": ["a", "b"], "lr": {**LR, "when": {"kind": "a"}}},
            {"kind": "b", "lr": 0.5},
            {"kind": ["a", "b"], "lr": LR},
            "lr has no value",
        ),
        (
            {"kind": ["a", "b"], "lr": LR},
            {"kind": "b", "lr": 0.5},
            {"kind": ["a", "b"], "lr": {**LR, "when": {"kind": "a"}}},
            "lr is not in [space]",
        ),
    ],
)
def test_trials_fit_if_they_train_in_the_same_way(
    old: Any, values: Any, new: Any, fitted: Any
) -> None:
    space = spec_of(new).space
    point = fit_point({**POINT, **values}, spec_of(old).space, space, {})
    if isinstance(fitted, str):
        assert point == fitted
    else:
        assert point == {**POINT, **fitted}
        for name, distribution in distributions(space).items():  # Optuna accepts each value
            assert distribution._contains(distribution.to_internal_repr(point[name]))


def test_defaults_of_a_task_are_values() -> None:
    defaults = {"lr": 0.3, "width": 8}
    fit = fit_point(POINT, spec_of({}).space, spec_of({"lr": LR}).space, defaults)
    assert fit == {**POINT, "lr": 0.3}
    old = spec_of({"width": [8, 16]}).space
    assert fit_point({**POINT, "width": 8}, old, spec_of({}).space, defaults) == POINT
    reason = fit_point({**POINT, "width": 16}, old, spec_of({}).space, defaults)
    assert reason == "width has another value"


def test_values_without_effect_are_drawn_if_the_space_does_not_have_them() -> None:
    old = spec_of({"kind": ["a", "b"], "lr": {**LR, "when": {"kind": "a"}}}).space
    space = spec_of(
        {
            "kind": ["a", "b"],
            "lr": {"low": 2.0, "high": 3.0, "when": {"kind": "a"}},
            "rate": {"low": 5.0, "high": 6.0},
        }
    ).space
    given = {**POINT, "schedule": "fixed", "kind": "b", "lr": 0.5}
    points = [fit_point({**given, "rate": rate}, old, space, {}) for rate in (1.0, 2.0)]
    for point in points:
        assert isinstance(point, dict)
        assert 2.0 <= point["lr"] <= 3.0
        assert 5.0 <= point["rate"] <= 6.0
    assert points[0] != points[1]


# ---- the sampler -------------------------------------------------------------------------


def earlier(count: int, space: Mapping[str, Any], best: float) -> list[EarlierTrial]:
    """Return trials whose value is lowest at epsilon = best; every fourth was pruned."""
    return [
        EarlierTrial("old", n, (n / count * 0.4 - best) ** 2, 6 if n % 4 == 3 else None, point)
        for n in range(count)
        for point in [{**POINT, "rate": 1 + n % 7, "epsilon": n / count * 0.4, **space}]
    ]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
@pytest.mark.parametrize("best", [0.05, 0.35])
def test_earlier_trials_inform_the_sampler(sampler: str, best: float) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = spec_of(
        {"lr": {"low": 0.01, "high": 2.0, "log": True}, "kind": ["b", "c"]},
        sampler={"name": sampler, "startup": 8},
    )
    frozen = as_frozen(earlier(32, {"lr": 0.5, "kind": "b"}, best), spec.space)
    study = optuna.create_study()
    main = [ticket for ticket in range(8, 17) if not is_baseline_ticket(spec, ticket)]
    proposed = [propose(study, spec, ticket, frozen)["epsilon"] for ticket in main]
    assert abs(sum(proposed) / len(main) - best) < 0.1
    # Without them there is nothing to model, and the next Sobol point is proposed.
    assert propose(study, spec, main[0])["epsilon"] != proposed[0]


# ---- studies -----------------------------------------------------------------------------

STUDY = """
[study]
name = "{name}"
seed = 3
{extends}
[task]
use = "quick.py:{function}"
{options}
[space]
{space}
[budget]
trials = {trials}
[sampler]
startup = 8
[confirm]
enabled = false
"""


class Files:
    """Study files in one folder, launched in this process."""

    def __init__(self, folder: Path, storage: str) -> None:
        self.folder, self.storage = folder, storage
        copy_task(folder)

    def write(
        self,
        name: str,
        extends: str = "",
        space: str = 'schedule = ["fixed", "cosine"]',
        *,
        trials: int = 12,
        function: str = "train",
        options: str = "",
        **replaced: str,
    ) -> Path:
        path = self.folder / f"{name}.toml"
        line = f'extends = "{extends}"' if extends else ""
        text = STUDY.format(
            name=name,
            extends=line,
            space=space,
            trials=trials,
            function=function,
            options=options,
        )
        for old, new in replaced.items():
            text = text.replace(old, new)
        path.write_text(text)
        return path

    def launch(self, *arguments: Any, **keywords: Any) -> Study:
        path = self.write(*arguments, **keywords)
        results = self.folder / "results"
        return sweeper.launch(path, workers=0, storage=self.storage, results=results)


@pytest.fixture
def files(tmp_path: Path, storage: str) -> Files:
    return Files(tmp_path, storage)


WIDER = 'schedule = ["cosine", "linear", "fixed"]\nepsilon = { low = 0.0, high = 0.6 }'


def assert_exact(study: Study, store: Store, trials: int) -> None:
    """Check that a study has exactly its own tickets and trials."""
    frame = study.frame()
    assert frame["number"].tolist() == list(range(trials))
    assert sorted(frame["ticket"]) == list(range(trials))
    assert set(frame["state"]) <= {"complete", "pruned"}
    assert frame["epsilon"].iloc[0] == 0  # ε = 0 is trained in each study
    assert count_planned(store, get_study(store, study.name)) == trials
    progress = study.progress()
    assert (progress.trials, progress.ended) == (trials, trials)


class ExtendContract:
    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    def test_both_studies_stay_exact_and_earlier_trials_are_marked(
        self, url: str, tmp_path: Path
    ) -> None:
        files = Files(tmp_path, url)
        older = files.launch("older")
        before = older.frame()
        newer = files.launch("newer", "older", WIDER, trials=10)
        with closing(open_writer(url)) as store:
            assert_exact(older, store, 12)
            assert_exact(newer, store, 10)
        assert older.frame().equals(before)
        marked = newer.earlier()
        assert marked["study"].tolist() == ["older"] * 12
        assert sorted(marked["trial"]) == list(range(12))
        values = before.set_index("number")["value"]
        complete = marked[marked["state"] == "complete"]
        assert (complete["value"] == values[complete["trial"]].to_numpy()).all()
        assert older.earlier().empty
        assert newer.document()["trial"] in newer.frame()["number"].tolist()


class TestSqlite(ExtendContract):
    @pytest.fixture
    def url(self, storage: str) -> str:
        return storage


class TestPostgresql(ExtendContract):
    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


class TestMysql(ExtendContract):
    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql


def test_earlier_trials_take_the_place_of_sobol_points(files: Files) -> None:
    files.launch("older", trials=4)
    path = files.write("newer", "older")
    plan = plan_launch(path, workers=0, storage=files.storage)
    assert plan.extension is not None
    # ε = 0 and 8 - 1 - 4 Sobol points.
    assert len(plan.extension.trials) == 4
    assert plan.trials - plan.sampled == 4
    newer = files.launch("newer", "older")
    with closing(open_writer(files.storage)) as store:
        assert len(planned_points(store, get_study(store, "newer"))) == 4
    # A second launch continues the study and does not read the older one again.
    assert len(files.launch("newer", "older", trials=14).earlier()) == 4
    assert newer.frame()["number"].tolist() == list(range(14))


def test_a_study_survives_the_end_of_the_one_that_it_extends(files: Files) -> None:
    files.launch("older")
    sweeper.launch(files.write("older", trials=20), detach=True, storage=files.storage)
    control.pause("older", files.storage)
    files.launch("newer", "older", trials=6)
    control.delete("older", files.storage)
    newer = files.launch("newer", "older", trials=10)
    assert newer.frame()["number"].tolist() == list(range(10))
    assert len(newer.earlier()) == 12
    newer.check()
    # Deleting the newer study deletes its earlier trials.
    control.delete("newer", files.storage)
    with closing(open_writer(files.storage)) as store, store.engine.connect() as connection:
        rows = connection.exec_driver_sql("select count(*) from sweeper_earlier_trials")
        assert rows.scalar_one() == 0


def test_a_chain_keeps_the_trials_of_all_studies(files: Files) -> None:
    files.launch("a", space='schedule = ["fixed"]\nlr = [0.1, 0.2]')
    files.launch("b", "a", 'schedule = ["fixed", "cosine"]\nlr = [0.1, 0.2, 0.3]')
    control.delete("a", files.storage)
    c = files.launch("c", "b", 'schedule = ["fixed"]\nlr = 0.1')
    marked = c.earlier()
    assert set(marked["study"]) == {"a", "b"}
    with closing(open_writer(files.storage)) as store:
        assert_exact(c, store, 12)
        stored = read_earlier_trials(store, get_study(store, "c"))
        dimensions = read_stored(get_study(store, "c")).spec.space.dimensions
    assert all(trial.point.keys() == dimensions.keys() for trial in stored)
    assert "hp_lr" not in marked.columns


def test_only_trials_of_the_same_code_are_used(files: Files) -> None:
    files.launch("older", trials=5)
    task = files.folder / "quick.py"
    task.write_text(task.read_text() + "\n# changed\n")
    with pytest.raises(SweeperError, match=r"no trial can be used: 0 of 5 trials .* other code"):
        files.launch("newer", "older")
    sweeper.launch(
        files.write("older", trials=8),
        workers=0,
        storage=files.storage,
        results=files.folder / "results",
        accept_code=True,
    )
    newer = files.launch("newer", "older")
    assert sorted(newer.earlier()["trial"]) == [5, 6, 7]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"extends": "oldr"}, "study.extends: no study 'oldr' in .* (did you mean 'older'?)"),
        ({"extends": "newer"}, "study.extends: must be another study; give this one a new name"),
        ({"seed = 3": "seed = 4"}, "not comparable (study.seed: 3 -> 4)"),
        ({"options": "options = { epochs = 9 }"}, "not comparable (task.options.epochs: not set"),
        ({"function": "resumable"}, "not comparable (task.use: 'quick.py:train' -> "),
        (
            {"[budget]": '[objective]\nmetric = "nll_calibrated"\n[budget]'},
            "not comparable (objective.metric: 'nll' -> 'nll_calibrated')",
        ),
        (
            {"startup = 8": 'name = "grid"'},
            "study.extends: requires the sampler tpe or gp; grid does not use results",
        ),
        (
            {"space": "lr = { low = 0.1, high = 1.0 }"},
            "no trial can be used: 0 of 12 trials of study 'older' inform the sampler "
            "(not used: 12 (lr has no value))",
        ),
    ],
)
def test_a_study_that_cannot_be_extended_is_refused(
    replaced: dict[str, str], message: str, files: Files
) -> None:
    files.launch("older")
    keywords: dict[str, Any] = {"extends": "older", **replaced}
    with pytest.raises(SweeperError) as error:
        files.launch("newer", **keywords)
    for part in message.split(".*"):
        assert part.strip() in str(error.value)
    names = [study.name for study in sweeper.studies(files.storage)]
    assert names == ["older"]  # nothing was written


def test_without_a_database_there_is_nothing_to_extend(files: Files) -> None:
    with pytest.raises(SweeperError, match=r"study.extends: no study 'older' in sqlite"):
        files.launch("newer", "older")


def test_the_identity_has_the_name_of_the_extended_study(files: Files) -> None:
    files.launch("older", trials=4)
    files.launch("newer", "older", trials=4)
    with pytest.raises(SweeperError, match=r"study.extends: 'older' -> not set"):
        files.launch("newer", trials=4)


def test_commands_and_pages_mark_earlier_trials(own_folder: None, files: Files) -> None:
    files.launch("older")
    newer = files.write("newer", "older", 'schedule = ["fixed"]')
    dry = run("launch", newer, "--dry-run", "--storage", files.storage)
    assert "of 12 trials of study 'older' inform the sampler (not used: " in dry.out
    launched = run("launch", newer, "--storage", files.storage, "--workers", "1")
    assert launched.status == 0, launched.err
    assert "inform the sampler (not used: " in launched.out
    count = len(Study("newer", files.storage).earlier())
    assert 0 < count < 12
    status = run("status", "newer", "--json", "--storage", files.storage).json
    assert status["earlier_trials"] == count
    table = run("trials", "newer", "--storage", files.storage).out
    assert table.count("older ") == count
    rows = run("trials", "newer", "--json", "--storage", files.storage).json
    assert len(rows) == 12
    report = (files.folder / "results" / "newer" / "report.html").read_text()
    assert f"{count} trials of an earlier study informed the sampler" in report


# ---- killed workers ----------------------------------------------------------------------


@pytest.mark.chaos
def test_killed_workers_leave_both_studies_exact(files: Files, start_sweeper: StartSweeper) -> None:
    trace = files.folder / "trace"
    options = f"options = {{ trace = '{trace}' }}"
    older = files.launch("older", trials=8, function="slow", options=options)
    path = files.write("newer", "older", WIDER, trials=10, function="slow", options=options)
    process = start_sweeper("launch", path, "--workers", 2)
    newer, killed, seen = Study("newer", files.storage), 0, 0
    while process.poll() is None:
        with suppress(SweeperError, ProcessLookupError, IndexError):
            ended = newer.progress().ended
            if ended > seen and killed < 3:
                workers = [worker.pid for worker in newer.workers() if not worker.stale]
                os.kill(workers[0], signal.SIGKILL)
                seen, killed = ended, killed + 1
        with suppress(Exception):
            process.wait(0.1)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert killed
    with closing(open_writer(files.storage)) as store:
        assert_exact(newer, store, 10)
        assert_exact(older, store, 8)
    assert len(newer.earlier()) == 8
