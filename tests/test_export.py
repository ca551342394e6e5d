"""The export: its keys, its numbers, and the same loss in a training script as in the search."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch.nn import functional

import sweeper
from sweeper import Smoothing, SmoothingLoss, Study
from sweeper.errors import SweeperError
from sweeper.export import FORMATS, StudyFacts, best_document, digest_of, render
from sweeper.files import write_text
from sweeper.smoothing import to_uniform
from sweeper.smoothing.usage import usage
from sweeper.study.dimensions import Space
from sweeper.study.results import TRIAL_COLUMNS
from sweeper.study.space import effective_smoothing
from tests.support.studies import STUDY

Write = Callable[..., Path]
KEYS = {
    *("study", "spec_hash", "trial", "metric", "convention", "epsilon", "recommended", "lowest"),
    *(
        "schedule",
        "rate",
        "classes",
        "evidence",
        "scores",
        "baseline",
        "seed",
        "versions",
        "created",
    ),
}
FACTS = StudyFacts(
    space=Space(),
    name="tiny",
    spec_hash="0" * 64,
    metric="nll",
    seed=1,
    classes=10,
    versions={"torch": "2"},
    created="2026-01-01T00:00:00Z",
)
CONFIGURATIONS = [
    (0.1, "fixed", None),
    (0.3, "linear", 0.7),
    (0.2, "cosine", 1.3),
    (0.4, "exponential", 3.0),
    (0.25, "step", 1.0),
    (0.3, "confidence", 2.0),
    (0.35, "error", 0.5),
    (0.0, "fixed", None),
]


def trials(*rows: tuple[float, str, float | None, float], **columns: Any) -> pd.DataFrame:
    """Return complete trials of (epsilon, schedule, rate, value)."""
    found = [
        {
            **dict.fromkeys(TRIAL_COLUMNS, math.nan),
            "number": number,
            "ticket": number,
            "state": "complete",
            "epsilon": epsilon,
            "schedule": schedule,
            "rate": math.nan if rate is None else rate,
            "value": value,
            "label_smoothing": to_uniform(epsilon, 10),
            "nll": value,
            "accuracy": 0.9,
            "code": 1,
            **columns,
        }
        for number, (epsilon, schedule, rate, value) in enumerate(rows)
    ]
    return pd.DataFrame(found)


# Most exports of these tests have no verdict.
pytestmark = pytest.mark.filterwarnings("ignore:.*no recommendation:UserWarning")


def document(epsilon: float, schedule: str, rate: float | None, **columns: Any) -> dict[str, Any]:
    """Return the export of a study in which a configuration is the best."""
    base = (0.0, "fixed", None, 0.5)
    return best_document(FACTS, trials(base, (epsilon, schedule, rate, 0.25), **columns))


def rows(classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (32,), generator=generator)


def losses(loss: SmoothingLoss) -> list[float]:
    """Return a loss's values over the training."""
    found = []
    for progress in (0.0, 0.2, 0.5, 0.8, 1.0):
        loss.progress = progress
        found.append(loss(*rows()).item())
    return found


# ---- a study that ran --------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    from tests.support.studies import copy_task

    folder = tmp_path_factory.mktemp("exported")
    copy_task(folder)
    (folder / "quick.toml").write_text(STUDY + "[space]\nlr = { low = 0.1, high = 1.0 }\n")
    storage = f"sqlite:///{folder}/sweeper.db"
    return sweeper.launch(
        folder / "quick.toml", workers=0, storage=storage, results=folder / "results"
    )


def test_an_export_has_every_key(study: Study, tmp_path: Path) -> None:
    found = json.loads(study.export(tmp_path / "best.json").read_text())
    assert set(found) >= KEYS
    frame = study.frame()
    row = frame.iloc[frame["value"].argmin()]
    assert found["study"] == "quick"
    assert len(found["spec_hash"]) == 64
    assert found["trial"] == row["number"]
    assert found["convention"] == "others"
    assert found["epsilon"] == row["epsilon"]
    fixed = to_uniform(row["epsilon"], 12) if row["schedule"] == "fixed" else None
    assert found.get("label_smoothing") == fixed
    assert ("label_smoothing_omitted" in found) == (fixed is None)
    assert found["schedule"] == row["schedule"]
    assert found["classes"] == 12
    assert found["seed"] == 3
    assert found["scores"]["nll"] == row["nll"]
    assert found["baseline"]["nll"] == frame["nll"][0]
    assert set(found["baseline"]) == set(found["scores"])
    assert found["hparams"] == {"lr": row["hp_lr"]}
    assert found["scores"]["quality"] == row["extra_quality"]
    assert {"python", "torch", "optuna", "sweeper"} <= set(found["versions"])
    assert found["created"].endswith("Z")


def test_loss_from_export_equals_best_trial_loss(study: Study, tmp_path: Path) -> None:
    frame = study.frame()
    best = frame.iloc[frame["value"].argmin()].to_dict()
    searched = SmoothingLoss(
        Smoothing(*effective_smoothing({str(key): value for key, value in best.items()}))
    )
    exported = SmoothingLoss.from_file(study.export(tmp_path / "best.json"))
    assert exported.smoothing == searched.smoothing
    assert losses(exported) == losses(searched)


def test_launch_writes_export_and_report(study: Study) -> None:
    folder = Path(study.storage.removeprefix("sqlite:///")).parent
    left = json.loads((folder / "results" / "quick" / "best.json").read_text())
    now = study.document()
    # The digest covers the moment of writing: the two agree when written within one second.
    assert left["digest"] == digest_of(left)
    assert {**left, "created": "", "digest": ""} == {**now, "created": "", "digest": ""}


# ---- the three forms ---------------------------------------------------------------------


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_configuration_trains_the_same_from_json(
    configuration: tuple[float, str, float | None], tmp_path: Path
) -> None:
    path = write_text(tmp_path / "best.json", render(document(*configuration), "json"))
    expected = SmoothingLoss(Smoothing(*configuration))
    assert losses(SmoothingLoss.from_file(path)) == losses(expected)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_configuration_trains_the_same_from_python(
    configuration: tuple[float, str, float | None],
) -> None:
    module: dict[str, Any] = {}
    exec(compile(render(document(*configuration), "python"), "best.py", "exec"), module)
    assert module["SMOOTHING"] == Smoothing(*configuration)
    assert losses(module["make_loss"]()) == losses(SmoothingLoss(Smoothing(*configuration)))
    fixed = to_uniform(configuration[0], 10) if configuration[1] == "fixed" else None
    assert module.get("LABEL_SMOOTHING") == fixed


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_json_and_yaml_are_equal(configuration: tuple[float, str, float | None]) -> None:
    whole = document(*configuration)
    assert json.loads(render(whole, "json")) == whole
    assert yaml.safe_load(render(whole, "yaml")) == whole


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_ends_with_newline(form: Any) -> None:
    text = render(document(0.1, "fixed", None), form)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_json_has_null_for_missing_values() -> None:
    text = render(document(0.1, "fixed", None), "json")

    def fail(name: str) -> float:
        raise AssertionError(name)

    found = json.loads(text, parse_constant=fail)
    assert found["rate"] is None
    assert found["scores"]["ece"] is None


def test_formats_reject_non_json_values() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render({"epsilon": math.inf}, "json")


def test_python_format_with_failed_baseline() -> None:
    frame = trials((0.0, "fixed", None, 0.5), (0.1, "fixed", None, 0.25))
    frame.loc[0, "state"] = "failed"
    found = best_document(FACTS, frame)
    assert found["baseline"] is None
    text = render(found, "python")
    assert "at epsilon 0: not available" in text
    exec(compile(text, "best.py", "exec"), {})


def test_python_format_contains_hyperparameters() -> None:
    given = {"hp_lr": 0.125, "hp_layers": 3, "hp_name": '"""\n\\ é', "hp_wide": True}
    found = document(0.1, "fixed", None, **given)
    found["verdict"] = {"sentences": ['labels: """ \\']}
    module: dict[str, Any] = {}
    text = render(found, "python")
    exec(compile(text.encode("ascii"), "best.py", "exec"), module)
    assert module["HPARAMS"] == {key.removeprefix("hp_"): given[key] for key in given}
    assert module["HPARAMS"] == found["hparams"]
    assert '""" \\' in module["__doc__"]
    assert "HPARAMS" not in render(document(0.1, "fixed", None), "python")


def test_python_format_names_the_metric() -> None:
    facts = StudyFacts(**{**vars(FACTS), "metric": "nll_calibrated"})
    frame = trials((0.0, "fixed", None, 0.5), (0.1, "fixed", None, 0.25), nll_calibrated=0.125)
    assert "Validation NLL after temperature scaling: 0.125" in render(
        best_document(facts, frame), "python"
    )


# ---- torch's own argument ----------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.1, 0.4, 0.9])
def test_label_smoothing_is_torchs_for_a_fixed_schedule(epsilon: float, tmp_path: Path) -> None:
    found = document(epsilon, "fixed", None)
    path = write_text(tmp_path / "best.json", render(found, "json"))
    logits, labels = rows()
    ours = SmoothingLoss.from_file(path)(logits, labels)
    torchs = functional.cross_entropy(logits, labels, label_smoothing=found["label_smoothing"])
    # the loss holds epsilon in float32, as it holds progress
    torch.testing.assert_close(ours, torchs, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("configuration", "classes", "reason"),
    [
        ((0.2, "cosine", 1.3), 10, "the cosine schedule changes ε during training"),
        ((0.3, "confidence", 2.0), 10, "the confidence schedule gives each example its own ε"),
        ((0.1, "fixed", None), None, "the number of classes, which is not known"),
        ((0.95, "fixed", None), 10, "must be at most 1"),
    ],
)
def test_an_export_says_why_it_has_no_label_smoothing(
    configuration: tuple[float, str, float | None], classes: int | None, reason: str
) -> None:
    facts = StudyFacts(**{**vars(FACTS), "classes": classes})
    found = best_document(facts, trials((0.0, "fixed", None, 0.5), (*configuration, 0.25)))
    assert "label_smoothing" not in found
    assert reason in found["label_smoothing_omitted"]
    text = render(found, "python")
    assert "LABEL_SMOOTHING =" not in text
    assert reason.replace("ε", "epsilon") in " ".join(text.replace("\n# ", " ").split())


@pytest.mark.parametrize(
    "configuration", [(0.2, "cosine", 1.3), (0.25, "step", 1.0), (0.3, "confidence", 2.0)]
)
def test_the_exported_module_and_the_snippet_train_as_the_search_did(
    configuration: tuple[float, str, float | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant label_smoothing would be right only at the start of an annealed schedule."""
    found = document(*configuration)
    write_text(tmp_path / "best.json", render(found, "json"))
    monkeypatch.chdir(tmp_path)
    smoothing = Smoothing(*configuration)
    expected = losses(SmoothingLoss(smoothing))
    logits, labels = rows()
    snippet: dict[str, Any] = {"logits": logits, "labels": labels}
    exec(usage(*configuration[:2], 10).code, snippet)
    assert snippet["value"].item() == expected[0]
    assert losses(snippet["loss"]) == expected
    module: dict[str, Any] = {}
    exec(render(found, "python"), module)
    assert losses(module["make_loss"]()) == expected
    if configuration[1] != "confidence":
        constant = functional.cross_entropy(
            logits, labels, label_smoothing=to_uniform(configuration[0], 10)
        )
        assert constant.item() == pytest.approx(expected[0])
        assert abs(constant.item() - expected[-1]) > 0.01


def test_the_snippet_of_a_fixed_schedule_is_torchs_own_loss() -> None:
    logits, labels = rows()
    snippet: dict[str, Any] = {"logits": logits, "labels": labels}
    exec(usage(0.09, "fixed", 10).code, snippet)
    assert snippet["value"].item() == pytest.approx(losses(SmoothingLoss(0.09))[0])


# ---- which trial -------------------------------------------------------------------------


def test_export_without_benefit() -> None:
    found = best_document(
        FACTS, trials((0.0, "fixed", None, 0.25), (0.1, "linear", 1.0, 0.5), (0.2, "step", 1, 0.3))
    )
    assert found["trial"] == 0
    assert found["recommended"] is False
    assert found["lowest"]["trial"] == 0
    assert "optimistic" in found["lowest"]["note"]
    assert found["epsilon"] == 0.0
    assert found["label_smoothing"] == 0.0
    assert found["scores"] == found["baseline"]
    module: dict[str, Any] = {}
    exec(compile(render(found, "python"), "best.py", "exec"), module)
    logits, labels = rows()
    plain = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(module["make_loss"]()(logits, labels), plain)


def test_pruned_and_running_trials_are_not_exported() -> None:
    frame = trials(*[(0.1 * n, "fixed", None, 0.5 - 0.1 * n) for n in range(4)])
    frame.loc[2, "state"] = "pruned"
    frame.loc[3, "state"] = "running"
    assert best_document(FACTS, frame)["trial"] == 1


def test_ties_prefer_the_lower_trial_number() -> None:
    frame = trials((0.0, "fixed", None, 0.3), (0.1, "fixed", None, 0.3))
    assert best_document(FACTS, frame)["trial"] == 0


def test_without_a_finished_trial_there_is_no_export() -> None:
    frame = trials((0.0, "fixed", None, 0.5))
    frame["state"] = "failed"
    with pytest.raises(SweeperError, match=r"^study 'tiny' has no finished trial to export yet$"):
        best_document(FACTS, frame)


def test_hyperparameters_keep_their_types() -> None:
    found = document(0.1, "fixed", None, hp_width=64, hp_lr=0.5, hp_act="relu", hp_norm=True)
    assert found["hparams"] == {"width": 64, "lr": 0.5, "act": "relu", "norm": True}
    assert [type(value) for value in found["hparams"].values()] == [int, float, str, bool]
    assert json.loads(render(found, "json"))["hparams"] == found["hparams"]


# ---- writing -----------------------------------------------------------------------------


def test_file_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "best.json", "old")

    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeper.files.os.replace", full)
    with pytest.raises(SweeperError, match=r"best\.json cannot be written: No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_output_path_must_be_a_file() -> None:
    with pytest.raises(SweeperError, match="cannot be written"):
        write_text(Path("."), "text")
