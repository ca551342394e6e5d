"""Spaces: conditional and fixed hyperparameters, and the choice of an optimizer."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch

import sweeper
from sweeper import Smoothing
from sweeper.api import Study, replay
from sweeper.cli.outcome import status
from sweeper.errors import SweeperError
from sweeper.report.trial_table import trials_csv
from sweeper.study.importance import importance_of
from sweeper.study.load import parse_spec
from sweeper.study.plan import plan
from sweeper.study.sampler import propose
from sweeper.study.space import (
    active_point,
    canonical,
    distributions,
    inactive,
    run_hparams,
)
from sweeper.study.spec import StudySpec, identity
from sweeper.training import Optimizer, TrainingRun, train
from sweeper.training.packed.pack import Pack, train_packed
from sweeper.worker.open_study import _repeated_tickets
from tests.support.processes import run
from tests.support.studies import copy_task
from tests.tasks.small import small

SPACE: dict[str, Any] = {
    "schedule": ["fixed", "cosine"],
    "lr": 0.02,
    "optimizer": ["sgd", "adamw", "rmsprop"],
    "momentum": {"low": 0.5, "high": 0.95, "when": {"optimizer": ["sgd", "rmsprop"]}},
    "beta1": {"low": 0.8, "high": 0.95, "when": {"optimizer": "adamw"}},
    "width": {"values": [4, 8], "when": {"schedule": "cosine"}},
}
CONDITIONAL = {
    "momentum": ("optimizer", {"sgd", "rmsprop"}),
    "beta1": ("optimizer", {"adamw"}),
    "width": ("schedule", {"cosine"}),
}


def spec_of(space: Mapping[str, Any], **tables: Any) -> StudySpec:
    study = {"study": {"name": "small", "seed": 3}, "task": {"use": "small.py:small"}}
    return parse_spec({**study, "space": space, **tables})


def launched(folder: Path, space: Mapping[str, Any], **keywords: Any) -> Study:
    """Run a study of the task `small` in this process."""
    copy_task(folder, "small.py")
    tables = {
        "study": {"name": "small", "seed": 3},
        "task": {"use": "small.py:small"},
        "space": space,
        "confirm": {"enabled": False},
        "budget": {"trials": 9},
        **keywords,
    }
    path = folder / "small.toml"
    path.write_text(sweeper_toml(tables))
    return sweeper.launch(
        path, workers=0, storage=f"sqlite:///{folder}/small.db", results=folder / "results"
    )


def sweeper_toml(tables: Mapping[str, Any]) -> str:
    return "\n".join(
        line
        for name, table in tables.items()
        for line in (f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items()))
    )


def toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def assert_conditions(frame: pd.DataFrame) -> None:
    """Check that exactly the active hyperparameters of each trial have a value."""
    for name, (parent, values) in CONDITIONAL.items():
        column = frame["schedule" if parent == "schedule" else f"hp_{parent}"]
        assert (frame[f"hp_{name}"].notna() == column.isin(values)).all(), name
        assert 0 < frame[f"hp_{name}"].notna().sum() < len(frame), name


# ---- the study file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"optimizer": ["sgd"], "momentum": {"low": 0, "high": 1, "when": {"optimizr": "sgd"}}},
            "space.momentum.when.optimizr: unknown hyperparameter (did you mean 'optimizer'?); "
            "allowed: optimizer, schedule",
        ),
        (
            {"optimizer": ["sgd", "adam"], "m": {"values": [1], "when": {"optimizer": "sdg"}}},
            "space.m.when.optimizer: must be 'sgd' or 'adam' (space.optimizer), got 'sdg' "
            "(did you mean 'sgd'?)",
        ),
        (
            {"optimizer": "adam", "m": {"values": [1], "when": {"optimizer": "sgd"}}},
            "space.m.when.optimizer: must be 'adam' (space.optimizer), got 'sgd'",
        ),
        (
            {
                "depth": {"low": 1, "high": 3, "integer": True},
                "m": {"values": [1], "when": {"depth": 4}},
            },
            "space.m.when.depth: must be an integer from 1 to 3 (space.depth), got 4",
        ),
        (
            {"schedule": ["fixed"], "m": {"values": [1], "when": {"schedule": "cosine"}}},
            "space.m.when.schedule: must be 'fixed' (space.schedule), got 'cosine'",
        ),
        (
            {"m": {"values": [1], "when": {"epsilon": 0}}},
            "space.m.when.epsilon: is a range of numbers, and a condition needs single values; "
            "allowed: m, schedule",
        ),
        (
            {
                "a": {"values": [1, 2], "when": {"b": 1}},
                "b": {"values": [1, 2], "when": {"c": 1}},
                "c": {"values": [1, 2], "when": {"a": [1, 2]}},
            },
            "space.a.when: is a cycle: a depends on b, which depends on c, which depends on a",
        ),
        ({"a": {"values": [1], "when": {}}}, "space.a.when: must be a table, got {}"),
        (
            {"epsilon": {"low": 0, "high": 0.3, "when": {"a": 1}}, "a": [1, 2]},
            "space.epsilon.when: unknown key; allowed: low, high, log, integer",
        ),
    ],
)
def test_impossible_conditions_are_refused(space: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SweeperError) as error:
        spec_of(space)
    assert str(error.value) == message


def test_one_value_and_a_list_are_the_same_study() -> None:
    one, several = (
        spec_of({**SPACE, "beta1": {**SPACE["beta1"], "when": {"optimizer": optimizer}}})
        for optimizer in ("adamw", ["adamw"])
    )
    assert identity(one) == identity(several)
    assert parse_spec(json.loads(one.canonical_json())) == one


def test_a_fixed_value_identifies_a_study_and_is_not_a_dimension() -> None:
    spec, other = (spec_of({**SPACE, "lr": lr}) for lr in (0.02, 0.03))
    assert identity(spec) != identity(other)
    assert spec.space.fixed == {"lr": 0.02}
    assert "lr" not in spec.space.dimensions
    assert spec_of({"schedule": "cosine"}) == spec_of({"schedule": ["cosine"]})


def test_a_space_without_conditions_has_the_identity_that_it_had() -> None:
    dumped = spec_of({"lr": {"low": 0.1, "high": 1.0}}).model_dump(mode="json")
    assert dumped["space"]["lr"] == {"low": 0.1, "high": 1.0, "log": False, "integer": False}
    assert dumped["study"] == {"name": "small", "seed": 3}


# ---- active hyperparameters --------------------------------------------------------------


def test_inactive_parents_make_their_children_inactive() -> None:
    space = spec_of(
        {
            "kind": ["a", "b"],
            "depth": {"low": 1, "high": 3, "integer": True, "when": {"kind": "b"}},
            "deepest": {"values": [True, False], "when": {"depth": [2, 3]}},
            "both": {"values": [1, 2], "when": {"kind": "b", "depth": 3}},
        }
    ).space
    point = {"epsilon": 0.1, "schedule": "fixed", "rate": 1.0}
    point |= {"kind": "b", "depth": 3, "deepest": True, "both": 1}
    assert inactive(point, space) == set()
    assert inactive({**point, "depth": 2}, space) == {"both"}
    assert inactive({**point, "depth": 1}, space) == {"both", "deepest"}
    assert inactive({**point, "kind": "a"}, space) == {"both", "deepest", "depth"}
    assert active_point({**point, "kind": "a"}, space)["kind"] == "a"


def test_the_schedule_of_a_condition_is_fixed_at_epsilon_0() -> None:
    space = spec_of(SPACE).space
    point = {"epsilon": 0.0, "schedule": "cosine", "rate": 1.0, "optimizer": "sgd"}
    point |= {"momentum": 0.5, "beta1": 0.9, "width": 4}
    assert inactive(point, space) == {"beta1", "width"}
    assert inactive({**point, "epsilon": 0.1}, space) == {"beta1"}


def test_points_that_differ_only_in_inactive_values_are_one_configuration() -> None:
    space = spec_of(SPACE).space
    point = {"epsilon": 0.1, "schedule": "cosine", "rate": 1.0, "optimizer": "adamw"}
    point |= {"momentum": 0.5, "beta1": 0.9, "width": 4}
    assert canonical({**point, "momentum": 0.9}, space) == canonical(point, space)
    assert canonical({**point, "beta1": 0.85}, space) != canonical(point, space)
    repeated = _repeated_tickets({0: point, 1: {**point, "momentum": 0.9}, 2: point}, space)
    assert repeated == {1, 2}


def test_a_run_gets_fixed_and_active_hyperparameters() -> None:
    space = spec_of(SPACE).space
    point = {"epsilon": 0.1, "schedule": "fixed", "rate": 1.0, "optimizer": "sgd"}
    point |= {"momentum": 0.5, "beta1": 0.9, "width": 4}
    assert run_hparams(point, space) == {"lr": 0.02, "optimizer": "sgd", "momentum": 0.5}


# ---- plans and samplers ------------------------------------------------------------------


def test_a_grid_does_not_multiply_over_inactive_values() -> None:
    sampler = {"name": "grid", "points": 3}
    space = {
        "epsilon": {"low": 0, "high": 0.2},
        "schedule": "fixed",
        "optimizer": ["sgd", "adamw", "rmsprop"],
        "momentum": {"low": 0.5, "high": 0.95, "when": {"optimizer": ["sgd", "rmsprop"]}},
        "beta1": {"values": [0.8, 0.9], "when": {"optimizer": "adamw"}},
    }
    spec = spec_of(space, sampler=sampler, budget={"trials": 10_000})
    planned = plan(spec, {})
    points = {canonical(point, spec.space) for point in planned if point is not None}
    # 3 values of ε, times 3 of momentum for each of 2 optimizers and 2 of beta1.
    assert len(points) == len(planned) == 3 * (2 * 3 + 2)
    used = Counter(point["optimizer"] for point in planned if point is not None)
    assert used == {"sgd": 9, "rmsprop": 9, "adamw": 6}


def test_a_large_conditional_grid_is_counted_without_building_it() -> None:
    choices = {
        f"p{n}": {"low": 0, "high": 1, "when": {"kind": n}} for n in range(20)
    }  # 10,000**20 points without conditions
    space = {"schedule": "fixed", "kind": list(range(20)), **choices}
    sampler = {"name": "grid", "points": 10_000}
    spec = spec_of(space, sampler=sampler, budget={"trials": 50})
    assert len(plan(spec, {})) == 50


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc"])
def test_every_trial_samples_every_hyperparameter(sampler: str) -> None:
    spec = spec_of(SPACE, sampler={"name": sampler, "startup": 4}, budget={"trials": 8})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    for ticket, planned in enumerate(plan(spec, small.defaults())):
        point = planned or propose(study, spec, ticket)
        assert point.keys() == spec.space.dimensions.keys()
        trial = optuna.create_trial(
            params=dict(point), distributions=distributions(spec.space), value=point["epsilon"]
        )
        study.add_trial(trial)
    joint = optuna.search_space.IntersectionSearchSpace().calculate(study)
    assert joint.keys() == spec.space.dimensions.keys()


def test_importance_ignores_inactive_values() -> None:
    """The stored inactive values of momentum are related to the result like those of depth."""
    space = spec_of(
        {
            "schedule": "fixed",
            "optimizer": ["sgd", "adamw"],
            "momentum": {"low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
            "depth": {"low": 0.0, "high": 1.0},
        }
    ).space
    trials = [
        optuna.create_trial(
            params={
                "epsilon": 0.3 * (n % 7) / 6,
                "schedule": "fixed",
                "rate": 1.0 + n % 5,
                "optimizer": "adamw",
                "momentum": 0.9 * n / 63,
                "depth": n / 63,
            },
            distributions=distributions(space),
            value=float(n),
        )
        for n in range(64)
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    assert importance_of(trials, space)["momentum"] < 0.1
    always = spec_of({"optimizer": ["sgd", "adamw"], "momentum": {"low": 0.0, "high": 0.9}}).space
    assert importance_of(trials, always)["momentum"] > 0.2


# ---- studies -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_study_shows_and_exports_only_active_hyperparameters(
    sampler: str, tmp_path: Path
) -> None:
    study = launched(tmp_path, SPACE, sampler={"name": sampler, "startup": 6, "points": 2})
    frame = study.frame()
    assert_conditions(frame)
    assert set(frame["state"]) <= {"complete", "pruned"}
    stored = optuna.load_study(study_name="small", storage=f"sqlite:///{tmp_path}/small.db")
    for trial in stored.trials:  # Optuna has all values of all trials
        assert trial.params.keys() == spec_of(SPACE).space.dimensions.keys()
    lines = trials_csv(frame).splitlines()
    column = lines[0].split(",").index("hp_momentum")
    assert {line.split(",")[column] == "" for line in lines[1:]} == {True, False}
    document = study.document()
    best = frame.loc[frame["number"] == document["trial"]].iloc[0]
    names = {"lr", "optimizer", "momentum" if best["hp_optimizer"] != "adamw" else "beta1"}
    assert document["hparams"].keys() - {"width"} == names
    assert ("width" in document["hparams"]) == (best["schedule"] == "cosine")
    assert document["hparams"]["lr"] == 0.02
    pages = (tmp_path / "results" / "small" / "report.html").read_text()
    assert "Fixed in all trials: lr = 0.02." in pages


@pytest.mark.slow
def test_trials_of_each_optimizer_are_replayed_bit_by_bit(tmp_path: Path) -> None:
    study = launched(tmp_path, SPACE, sampler={"name": "random"}, pruner={"name": "none"})
    frame = study.frame()
    assert set(frame["hp_optimizer"]) == {"sgd", "adamw", "rmsprop"}
    for _, row in frame.drop_duplicates("hp_optimizer").iterrows():
        replayed = replay("small", int(row["number"]), study.storage)
        assert replayed.same
        assert ("beta1" in replayed.point) == (row["hp_optimizer"] == "adamw")


@pytest.mark.slow
def test_sorting_by_a_hyperparameter_puts_inactive_trials_last(tmp_path: Path) -> None:
    study = launched(tmp_path, SPACE, sampler={"name": "random"})
    for name in ("hp_momentum", "hp_width"):
        for descending in (False, True):
            column = study.page(sort=name, descending=descending).frame[name]
            values = column[column.notna()]
            assert column.isna().tolist() == sorted(column.isna().tolist())
            assert values.tolist() == sorted(values, reverse=descending)
            assert 0 < len(values) < len(column)


@pytest.mark.slow
def test_a_duplicate_in_active_values_reuses_the_result(tmp_path: Path) -> None:
    space = {
        "schedule": "fixed",
        "optimizer": ["sgd", "adamw"],
        "momentum": {"low": 0.5, "high": 0.95, "when": {"optimizer": "sgd"}},
    }
    first = "\n".join(
        f'[[first]]\nepsilon = 0.1\noptimizer = "adamw"\nmomentum = {momentum}'
        for momentum in (0.6, 0.7)
    )
    copy_task(tmp_path, "small.py")
    tables = {
        "study": {"name": "small"},
        "task": {"use": "small.py:small"},
        "space": space,
        "budget": {"trials": 3},
        "confirm": {"enabled": False},
    }
    path = tmp_path / "small.toml"
    path.write_text(f"{sweeper_toml(tables)}\n{first}\n")
    study = sweeper.launch(
        path, workers=0, storage=f"sqlite:///{tmp_path}/s.db", results=tmp_path / "results"
    )
    assert study.frame()["copied_from"].tolist()[1:] == [pd.NA, 1]


@pytest.mark.slow
def test_the_confirmation_uses_active_hyperparameters(tmp_path: Path) -> None:
    study = launched(
        tmp_path, SPACE, confirm={"replicates": 2, "shortlist": 2}, sampler={"name": "random"}
    )
    evidence = study.evidence()
    assert evidence is not None
    assert evidence.complete
    space = study.spec.space
    for candidate in evidence.candidates:
        assert not inactive(candidate.point, space) & candidate.point.keys()
    pick, base = (evidence.candidates[n].point for n in (evidence.pick, 0))
    assert "width" not in base  # ε = 0 has the schedule fixed
    assert base["optimizer"] == pick["optimizer"]
    assert status(study.snapshot(), [])["earlier_trials"] == 0


def test_the_command_line_shows_what_is_not_set(own_folder: None, tmp_path: Path) -> None:
    study = launched(tmp_path, SPACE, sampler={"name": "random"})
    text = run("trials", "small", "--storage", study.storage).out
    assert "–" in text
    rows = run("trials", "small", "--storage", study.storage, "--json").json
    for row in rows:
        assert (row["hparams"]["momentum"] is None) == (row["hparams"]["optimizer"] == "adamw")


# ---- optimizers --------------------------------------------------------------------------


def test_torch_has_the_same_rmsprop() -> None:
    settings = Optimizer("rmsprop", lr=0.01, momentum=0.5, weight_decay=0.1, decay="constant")
    from sweeper.training.updates import ModelOptimizer

    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    mine = ModelOptimizer(settings, [ours])
    torchs = torch.optim.RMSprop([theirs], 0.01, momentum=0.5, weight_decay=0.1)
    for step in range(5):
        for parameter in (ours, theirs):
            parameter.grad = torch.cos(parameter.detach() * (step + 1))
        mine.step(0.0)
        torchs.step()
    assert torch.equal(ours, theirs)


def test_a_new_optimizer_does_not_keep_settings_of_the_old_one() -> None:
    own = Optimizer("sgd", momentum=0.9, weight_decay=0.1)
    assert own.updated({"optimizer": "adam"}) == Optimizer("adam", weight_decay=0.1)
    assert own.updated({"optimizer": "rmsprop"}).momentum == 0.9
    assert own.updated({"optimizer": "adamw", "beta1": 0.8}).beta1 == 0.8
    with pytest.raises(ValueError, match="adam has no momentum; use sgd or rmsprop"):
        own.updated({"optimizer": "adam", "momentum": 0.5})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"optimizer": ["sgd", "adam"], "momentum": {"low": 0.1, "high": 0.9}},
            "space.optimizer: a setting that only some optimizers have needs a condition, as when "
            '= { optimizer = "sgd" }',
        ),
        (
            {"optimizer": ["sgd", "adan"]},
            "space.optimizer: 'adan': unknown optimizer 'adan' (did you mean 'adam'?); allowed: "
            "adam, adamw, sgd, rmsprop",
        ),
        ({"lr": -0.1}, "space.lr: lr must be a finite number > 0, got -0.1"),
        (
            {"lrr": 0.1},
            "space.lrr: unknown hyperparameter of the task (did you mean 'lr'?); allowed: "
            "epsilon, schedule, rate, beta1, beta2, l1, lr, momentum, optimizer, weight_decay, "
            "width",
        ),
    ],
)
def test_hyperparameters_are_checked_with_each_optimizer(
    space: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SweeperError) as error:
        launched(tmp_path, space)
    assert str(error.value).endswith(message)


RUNS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "rmsprop", "momentum": 0.5, "lr": 0.001},
    {"optimizer": "adamw", "beta1": 0.8, "weight_decay": 0.1},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "adam", "beta2": 0.9},
    {"optimizer": "rmsprop", "lr": 0.002},
]


def run_of(number: int, **state: Any) -> TrainingRun:
    smoothing = Smoothing(0.1, "cosine", 1.0)
    return TrainingRun(smoothing, 5, 1, torch.device("cpu"), RUNS[number], **state)


def test_members_with_different_optimizers_are_trained_as_if_alone(one_thread: None) -> None:
    pack = Pack(small, 16)
    members = [pack.join(run_of(number)) for number in range(len(RUNS))]
    for _ in range(small.epochs):
        outcomes = {id(member): outcome for member, outcome in pack.epoch()}
    for number, member in enumerate(members):
        [*_, alone] = train_packed(small, run_of(number))
        together = outcomes[id(member)]
        assert not isinstance(together, Exception)
        assert torch.equal(together.logits, alone.logits), RUNS[number]


@pytest.mark.parametrize("number", range(len(RUNS)))
@pytest.mark.parametrize("how", [train, train_packed])
def test_a_run_resumes_with_its_optimizer(number: int, how: Any, one_thread: None) -> None:
    whole = list(how(small, run_of(number)))
    state = next(e.state() for e in how(small, run_of(number)) if e.progress == 0.5)
    rest = list(how(small, run_of(number, state=state)))
    assert len(rest) == 3
    assert torch.equal(rest[-1].logits, whole[-1].logits)
