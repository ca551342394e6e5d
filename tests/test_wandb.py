"""Conversion of W&B sweeps to studies of scripts."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper import api
from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.store.database import Store
from sweeper.study.dimensions import HyperparameterRange
from sweeper.study.load import parse_spec, parse_toml, read_study
from sweeper.study.registration import register
from sweeper.study.spec import StudySpec
from sweeper.study.wandb import convert_wandb
from sweeper.study.wandb_parameters import EpsilonName
from sweeper.training.messages import Start
from sweeper.training.scripts.command import command_of
from sweeper.training.scripts.config import ScriptConfig
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.studies import TASKS

RECORDED = Path(__file__).parent / "recorded" / "wandb"


def imported(name: str, tmp_path: Path) -> tuple[StudySpec, str]:
    notes = api.import_wandb(RECORDED / f"{name}.yaml", tmp_path / f"{name}.toml", classes=4)
    spec = parse_spec(parse_toml((tmp_path / f"{name}.toml").read_text()))
    return spec, "\n".join(notes)


def test_wandb_sweeps_are_converted(tmp_path: Path) -> None:
    grid, notes = imported("grid", tmp_path)
    assert grid.study.name == "Smoothing-grid"
    assert grid.sampler.name == "grid"
    assert grid.space.epsilon.high == 0.3
    assert grid.task.flags == {"epsilon": "--epsilon"}
    assert grid.task.options == {"epochs": 3}
    assert grid.space.extras == {"lr": (0.3, 0.6)}
    assert "project is ignored" in notes
    bayes, notes = imported("bayes", tmp_path)
    assert (bayes.sampler.name, bayes.budget.trials) == ("tpe", 4)
    assert (bayes.pruner.name, bayes.pruner.reduction) == ("hyperband", 2)
    assert bayes.space.epsilon.high == pytest.approx(0.15)
    assert bayes.space.extras["lr"] == HyperparameterRange(low=0.1, high=1.0, log=True)
    assert bayes.space.extras["epochs"] == HyperparameterRange(low=2, high=4, integer=True)
    assert "early_terminate: not converted: min_iter" in notes
    nested, notes = imported("nested", tmp_path)
    lr = nested.space.extras["optimizer.lr"]
    assert isinstance(lr, HyperparameterRange)
    assert lr.log
    assert [lr.low, lr.high] == pytest.approx([np.exp(-2.3), 1.0])
    assert nested.task.options == {"optimizer.schedule.warmup": 2, "epochs": 3}
    assert "nested parameter optimizer" in notes


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "not valid YAML"),
        ("[]", "not a sweep"),
        ("program: a.py\nmethod: bayes\nparameter: {}", "did you mean 'parameters'"),
        ("program: a.py\nmethod: bohb\nparameters: {a: {value: 1}}", "method: must be one of"),
        ("method: grid\nparameters: {a: {value: 1}}", "program: missing"),
        (
            "program: a.py\nmethod: grid\nparameters: {a: {distribution: normal, mu: 0}}",
            "parameters.a: needs value, values, or min and max (distribution normal)",
        ),
        (
            "program: a.py\nmethod: grid\nparameters: {label_smoothing: {min: 0, max: 0.1}}",
            "--classes N",
        ),
        ("program: [a]\nmethod: grid\nparameters: {a: {value: 1}}", "program: must be a string"),
        ("program: a\nmethod: [grid]\nparameters: {a: {value: 1}}", "method: must be one of"),
        ("program: a\nparameters: {a: {value: 1}}", "method: must be one of grid, random, bayes, "),
        ("program: a\nmethod: grid\ncommand: [a: 1]", "command: must be a list of strings"),
        ("program: a\nmethod: grid\nparameters: [a]", "parameters: must be a non-empty mapping"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [" + "*b, " * 5000 + "]", "more than 20,000 values"),
        ("a: !!timestamp x", "not valid YAML"),
        (
            "program: a.py\nmethod: grid\nparameters: {a: {value: 1}}\nearly_terminate: {type: x}",
            "early_terminate: must have type: hyperband",
        ),
    ],
)
def test_sweep_without_an_equivalent_is_refused(text: str, error: str) -> None:
    with pytest.raises(SweeperError) as refused:
        convert_wandb(text, "x")
    assert error in str(refused.value)


SWEEP = "program: a.py\nmethod: random\nrun_cap: 9\nparameters:\n  "


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        ("a:", "parameters.a: must be a mapping"),
        ("a: 3", "parameters.a: must be a mapping"),
        ("a: {}", "parameters.a: needs value, values, or min and max"),
        ("a: {value: }", "parameters.a: value is null"),
        ("a: {value: {b: }}", "task.options: a.b"),
        ("a: {value: !!binary aGk=}", "task.options: a"),
        ("a: {values: 3}", "parameters.a: values must be a non-empty list, got 3"),
        ("a: {values: []}", "parameters.a: values must be a non-empty list"),
        ("a: {values: [1, ]}", ""),
        ("a: {values: [1, null]}", "space.a[1]: must be a string"),
        ("a: {values: [[1]]}", "space.a[0]: must be a string"),
        ("a: {min: 0, max: x}", "parameters.a: max must be a number, got the text 'x'"),
        ("a: {min: '1e-5', max: 1}", "parameters.a: min must be a number, got the text '1e-5'"),
        ("a: {min: 0}", "parameters.a: max must be a number, got nothing"),
        ("a: {min: .nan, max: 1}", "parameters.a: min must be a number, got nan"),
        ("a: {min: true, max: 1}", "parameters.a: min must be a number, got true"),
        ("a: {min: 2.0, max: 1.0}", "space.a: low = 2 and high = 1; low must be below high"),
        ("a: {distribution: [b], min: 0, max: 1}", "parameters.a: distribution must be a string"),
        ("a: {distribution: beta, min: 0, max: 1}", "parameters.a: the distribution 'beta' with"),
        ("a: {distribution: constant, min: 0, max: 1}", "the distribution 'constant' with min"),
        ("a: {distribution: q_uniform, min: 0, max: 1, q: 0.5}", "only with q: 1, got q: 0.5"),
        (
            "a: {distribution: log_uniform, min: 1, max: 1e4}",
            "got 1 and 10000; for values, use log",
        ),
        ("a: {distribution: log_uniform_values, min: 0, max: 1}", "space.a: low = 0 with log"),
        ("a: {distribution: int_uniform, min: 0.5, max: 1}", "space.a: low = 0.5 and high = 1"),
        ("a: {parameters: }", "parameters.a.parameters: must be a non-empty mapping"),
        ("a.b: {value: 1}\n  a: {parameters: {b: {value: 2}}}", "parameters.a.b: is there twice"),
        ("epsilon: {value: 0.1}", "parameters.epsilon: is constant"),
        ("epsilon: {values: [0, x]}", "parameters.epsilon: must have values from 0 to 1"),
        ("epsilon: {min: 0, max: 2}", "parameters.epsilon: must have values from 0 to 1"),
        ("epsilon: {max: 1, min: 0}\n  smoothing: {max: 1, min: 0}", "so could another parameter"),
    ],
)
def test_malformed_parameter_is_refused_in_one_line(parameter: str, error: str) -> None:
    if not error:
        assert convert_wandb(SWEEP + parameter, "x").tables["space"] == {"a": [1]}
        return
    with pytest.raises(SweeperError) as refused:
        convert_wandb(SWEEP + parameter, "x")
    (line,) = str(refused.value).splitlines()
    assert error in line


@pytest.mark.parametrize(
    ("content", "dimension"),
    [
        ("values: [1e-5, 1E5, 1.e+2, '1e-5']", [1e-5, 1e5, 100.0, "1e-5"]),
        ("values: [a, b]\n    probabilities: [0.1, 0.9]", ["a", "b"]),
        ("min: 1e-5\n    max: 1", {"low": 1e-5, "high": 1.0}),
        ("min: 1\n    max: 5", {"low": 1, "high": 5, "integer": True}),
        ("distribution: uniform\n    min: 1\n    max: 5", {"low": 1.0, "high": 5.0}),
        (
            "distribution: q_uniform\n    min: 1\n    max: 5",
            {"low": 1, "high": 5, "integer": True},
        ),
        (
            "distribution: q_log_uniform_values\n    q: 1\n    min: 1\n    max: 5",
            {"low": 1, "high": 5, "integer": True, "log": True},
        ),
        (
            "distribution: inv_log_uniform_values\n    min: 1\n    max: 5",
            {"low": 1.0, "high": 5.0, "log": True},
        ),
        (
            "distribution: inv_log_uniform\n    min: -1\n    max: 2",
            {"low": math.exp(-2), "high": math.exp(1), "log": True},
        ),
    ],
)
def test_distribution_of_a_sweep_is_converted(content: str, dimension: Any) -> None:
    tables = convert_wandb(f"{SWEEP}a:\n    {content}", "x").tables
    assert tables["space"] == {"a": dimension}
    assert tables["budget"] == {"trials": 9}


def test_parameter_with_a_name_of_sweeper_stays_a_hyperparameter(tmp_path: Path) -> None:
    sweep = (
        "rate: {min: 0.1, max: 1.0}\n  schedule: {values: [cosine, step]}\n"
        "  eps: {min: 1e-9, max: 1e-6}\n  label_smoothing: {value: 3}\n"
        "  ls: {min: 0.0, max: 0.2}\n  epsilon: {min: 1e-9, max: 1e-6}"
    )
    imported = convert_wandb(SWEEP + sweep, "x", EpsilonName(label_smoothing="ls", classes=5))
    spec = parse_spec(imported.tables)
    assert spec.space.epsilon.high == pytest.approx(0.16)
    assert set(spec.space.extras) == {"script_rate", "script_schedule", "eps", "script_epsilon"}
    assert spec.space.schedule == ("fixed",)
    assert spec.task.options == {"script_label_smoothing": 3}
    assert "the parameter rate is called script_rate" in "\n".join(imported.notes)
    script = ScriptConfig(str(tmp_path), ["${args}"], "a.py", spec.task.flags, classes=5)
    script = replace(script, options=spec.task.options)
    hparams = dict.fromkeys(spec.space.extras, 0.5)
    start = Start("k", (0.08, "fixed", None), 7, 8, hparams=hparams)
    assert command_of(script, start, tmp_path) == [
        *("--label_smoothing=3", "--eps=0.5", "--epsilon=0.5", "--rate=0.5", "--schedule=0.5"),
        "--ls=0.1",
    ]


def test_missing_epsilon_of_a_sweep_is_noted() -> None:
    def notes(name: EpsilonName | None, parameter: str = "epsilon: {min: 0, max: 1}") -> str:
        return "\n".join(convert_wandb(SWEEP + parameter, "x", name).notes)

    assert "no parameter is ε" not in notes(None)
    assert "no parameter is ε" in notes(EpsilonName("none"))
    assert "no parameter is ε" in notes(None, "eps: {min: 0, max: 1}")
    assert "eps is searched as ε" in notes(EpsilonName("eps"), "eps: {min: 0, max: 1}")
    with pytest.raises(SweeperError, match="there is no 'e' for ε; there are: epsilon"):
        notes(EpsilonName("e"))
    with pytest.raises(SweeperError, match="pass only one of them"):
        notes(EpsilonName("epsilon", "epsilon"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grid", "bayes", "nested"])
def test_converted_sweep_runs(name: str, store: Store, storage: str, tmp_path: Path) -> None:
    for file in ("script.py", "softmax.py"):
        shutil.copy(TASKS / file, tmp_path / file)
    imported(name, tmp_path)
    study = read_study(tmp_path / f"{name}.toml", trials=3, confirm=False)
    register(store, study)
    options = WorkerOptions(study.name, tmp_path / "results", slots=1)
    assert work(store, options, StopRequest()) is EndReason.FINISHED
    frame = Study(study.name, storage).frame()
    assert set(frame["state"]) <= {"complete", "pruned"}, frame["failure"].tolist()
    assert len(frame) == 3
