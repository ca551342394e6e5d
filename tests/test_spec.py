"""The study file: its schema, what its hash covers, and points that come from an export."""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import sweeper
from sweeper import api
from sweeper.errors import SweeperError
from sweeper.smoothing import SCHEDULES
from sweeper.study.load import example_studies
from sweeper.study.spec import StudySpec, differences, json_schema
from tests.support.studies import STUDY, read_here

Write = Callable[..., Path]
DIGITS = example_studies()["digits"]


@pytest.fixture(autouse=True)
def no_leftover_schedules() -> Iterator[None]:
    yield
    for name in [name for name in SCHEDULES if ":" in name]:
        del SCHEDULES[name]


# ---- the schema --------------------------------------------------------------------------


def tables(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: node["properties"] for name, node in schema["$defs"].items()}


def test_the_schema_is_plain_json_of_the_draft_it_names() -> None:
    schema = json.loads(json.dumps(json_schema(), allow_nan=False))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["type"] == "object"
    assert schema["required"] == ["study", "task"]
    assert schema["additionalProperties"] is False


def test_every_schema_reference_resolves() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    references = {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}
    assert references <= set(schema["$defs"])
    assert len(references) >= 9


@pytest.mark.parametrize("table", sorted(tables(json_schema())))
def test_every_key_of_the_schema_is_described(table: str) -> None:
    for key, node in tables(json_schema())[table].items():
        assert node.get("description"), f"{table}.{key}"
    assert json_schema()["$defs"][table]["description"]


def test_the_schema_has_every_key_that_a_study_file_may_have() -> None:
    assert set(json_schema()["properties"]) == set(StudySpec.model_fields)
    found = tables(json_schema())
    fields = StudySpec.model_fields.values()
    models = [f.annotation for f in fields if isinstance(f.annotation, type)]
    assert len(models) == 9
    for model in models:
        assert issubclass(model, BaseModel)
        assert set(found[model.__name__]) == set(model.model_fields)


def test_the_schema_lets_a_first_point_come_from_a_file_alone() -> None:
    first = json_schema()["$defs"]["FirstPoint"]
    assert "from" in first["properties"]
    assert {"required": ["from"]} in first["anyOf"]


def test_the_schema_tells_editors_of_ranges_and_lists_for_hyperparameters() -> None:
    forms = json_schema()["$defs"]["Space"]["additionalProperties"]
    assert {form.get("$ref", form.get("type")) for form in forms["oneOf"]} == {
        "#/$defs/HyperparameterRange",
        "#/$defs/ConditionalChoices",
        "array",
        None,  # a fixed value: a string, a number or a boolean
    }


@pytest.mark.parametrize("path", sorted(Path("studies").resolve().glob("*.toml")))
def test_example_studies_are_valid(path: Path) -> None:
    spec = StudySpec.model_validate(tomllib.loads(path.read_text()))
    assert spec == StudySpec.model_validate(json.loads(spec.canonical_json()))


# ---- the hash ----------------------------------------------------------------------------

FULL = """
[study]
name = "full"
seed = 4
[task]
use = "quick.py:train"
options = { depth = 2, mix = [1, 2.5] }
[space]
epsilon = { low = 0.0, high = 0.3 }
schedule = ["fixed", "linear"]
lr = { low = 0.1, high = 1.0, log = true }
act = ["relu", "tanh"]
[objective]
metric = "nll"
[budget]
trials = 9
[sampler]
name = "random"
[pruner]
name = "none"
[[first]]
epsilon = 0.2
"""


def hashed(write_study: Write, text: str) -> str:
    return read_here(write_study(text, "full.toml")).hash()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed = 4", "seed = 5"),
        ("quick.py:train", "quick.py:diverge"),
        ("depth = 2", "depth = 3"),
        ("high = 0.3", "high = 0.4"),
        ('"fixed", "linear"]', '"linear", "fixed"]'),
        ('"relu", "tanh"', '"relu", "gelu"'),
        ('metric = "nll"', 'metric = "nll_calibrated"'),
        ('name = "random"', 'name = "qmc"'),
        ("epsilon = 0.2", "epsilon = 0.1"),
    ],
)
def test_the_hash_covers(write_study: Write, old: str, new: str) -> None:
    assert old in FULL
    assert hashed(write_study, FULL) != hashed(write_study, FULL.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "full"', 'name = "other"'),
        ("trials = 9", "trials = 99\ntimeout = 5\npatience = 3"),
        ('name = "none"', 'name = "percentile"\npercentile = 20'),
        ("high = 0.3", "high = 3e-1"),
        ("low = 0.0", "low = 0"),
        ("seed = 4", "seed = 4  # four"),
        ("[objective]\n", "[objective]\n\n\n"),
    ],
)
def test_the_hash_does_not_cover(write_study: Write, old: str, new: str) -> None:
    assert old in FULL
    assert hashed(write_study, FULL) == hashed(write_study, FULL.replace(old, new))


def test_the_hash_covers_the_bytes_of_the_task_file(write_study: Write, tmp_path: Path) -> None:
    path = write_study(FULL, "full.toml")
    before = read_here(path).hash()
    with (tmp_path / "quick.py").open("a") as stream:
        stream.write("# another line\n")
    assert read_here(path).hash() != before


def test_the_hash_covers_the_bytes_of_a_schedules_file(write_study: Write, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def half(u, r):\n    return (1 - u / 2)\n")
    path = write_study(FULL.replace('"linear"', '"own.py:half"'), "full.toml")
    before = read_here(path)
    own.write_text("def half(u, r):\n    return (1 - u / 3)\n")
    assert read_here(path).hash() != before.hash()
    assert set(before.code.sources) == {"quick.py", "own.py"}


def test_the_order_of_lines_and_tables_changes_neither_hash_nor_plan(write_study: Write) -> None:
    head, space = FULL.split("[space]")
    lines, rest = space.split("[objective]")
    turned = "[objective]" + rest.split("[[first]]")[0] + "[space]\n"
    turned += "\n".join(reversed(lines.strip().splitlines())) + "\n" + head
    turned += "[[first]]" + rest.split("[[first]]")[1]
    assert hashed(write_study, FULL) == hashed(write_study, turned)
    plans = [
        api.plan_launch(write_study(text, "full.toml"), storage="nowhere.db")
        for text in (FULL, turned)
    ]
    assert plans[0].points == plans[1].points


def test_differences_name_the_key_and_both_values() -> None:
    ours = {"space": {"epsilon": {"high": 0.4}}, "task": {"options": {}}}
    theirs = {
        "space": {"epsilon": {"high": 0.3}},
        "task": {"options": {"noise": True}},
    }
    assert differences(ours, theirs) == [
        "space.epsilon.high: 0.3 -> 0.4",
        "task.options.noise: true -> not set",
    ]


def test_an_options_table_reaches_the_loop_as_it_was_written(write_study: Write) -> None:
    options = read_here(write_study(FULL, "full.toml")).spec.task.options
    assert options == {"depth": 2, "mix": [1, 2.5]}
    assert isinstance(options["depth"], int)


def test_a_file_with_a_byte_order_mark_is_read(write_study: Write) -> None:
    path = write_study(STUDY)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_here(path).name == "quick"


# ---- first points from an export ---------------------------------------------------------


def export_of(write_study: Write, storage: str, text: str, tmp_path: Path) -> dict[str, Any]:
    path = write_study(text, "full.toml")
    study = sweeper.launch(path, workers=0, storage=storage, results=tmp_path / "results")
    study.export(tmp_path / "best.json")
    exported: dict[str, Any] = json.loads((tmp_path / "best.json").read_text())
    return exported


@pytest.mark.slow
def test_a_first_point_comes_from_the_export_of_a_study(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    best = export_of(write_study, storage, FULL, tmp_path)
    text = FULL.replace('"full"', '"again"').replace("epsilon = 0.2", 'from = "best.json"')
    first = read_here(write_study(text, "again.toml")).spec.first[0]
    assert (first.epsilon, first.schedule, first.rate) == (
        best["epsilon"],
        best["schedule"],
        best["rate"],
    )
    assert first.model_dump()["lr"] == best["hparams"]["lr"]
    assert set(best["hparams"]) == {"lr", "act"}
    plan = api.plan_launch(tmp_path / "again.toml", storage=storage)
    assert plan.points[1] is not None
    assert plan.points[1]["epsilon"] == best["epsilon"]
    again = sweeper.launch(
        tmp_path / "again.toml", workers=0, storage=storage, results=tmp_path / "results"
    ).frame()
    assert again["epsilon"][1] == best["epsilon"]
    assert again["hp_act"][1] == best["hparams"]["act"]
    assert again["value"][1] == pytest.approx(best["scores"]["nll"])


def test_keys_beside_from_override_the_export(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    export_of(write_study, storage, FULL, tmp_path)
    text = FULL.replace("epsilon = 0.2", 'from = "best.json"\nepsilon = 0.25\nlr = 0.5')
    first = read_here(write_study(text, "full.toml")).spec.first[0]
    assert first.epsilon == 0.25
    assert first.model_dump()["lr"] == 0.5


def test_imported_export_must_be_in_the_space(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    export_of(write_study, storage, FULL, tmp_path)
    text = STUDY + '[[first]]\nfrom = "best.json"\n'
    with pytest.raises(SweeperError, match=r"first\[0\]\.(act|lr): is not a key of \[space\]"):
        read_here(write_study(text))
