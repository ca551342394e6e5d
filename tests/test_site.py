"""The site of the documentation: its reference pages follow the code, and it builds offline."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, BigInteger, Double, Integer, LargeBinary
from typer.main import get_command

import sweeper
from sweeper.cli.app import app
from sweeper.store.schema import metadata
from sweeper.study.spec import json_schema
from tests.support.processes import ROOT

REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def column_type(column: Any) -> str:
    """Return the type of a column as docs/reference/database.md writes it."""
    names = {
        JSON: "JSON",
        Double: "float",
        Integer: "integer",
        BigInteger: "integer",
        LargeBinary: "bytes",
    }
    name = names.get(type(column.type), "text")
    ending = ", key" if column.primary_key else ", may be null" if column.nullable else ""
    return name + ending


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_every_column_of_a_table_is_documented(table: Any) -> None:
    _, found, section = page("database.md").partition(f"### {table.name}\n")
    assert found
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section.partition("\n### ")[0], re.MULTILINE)
    assert rows == [(column.name, column_type(column)) for column in table.columns]


def test_no_other_table_is_documented() -> None:
    named = set(re.findall(r"^### (sweeper_\w+)$", page("database.md"), re.MULTILINE))
    assert named == {table.name for table in metadata.sorted_tables}


def test_every_public_name_is_in_the_api_reference() -> None:
    shown = set(re.findall(r"^::: sweeper\.(\w+)$", page("api.md"), re.MULTILINE))
    assert shown == set(sweeper.__all__) - {"__version__"}


def test_every_adapter_is_in_the_api_reference() -> None:
    functions = {
        f"sweeper.training.adapters.{path.stem}.{node.name}"
        for path in (ROOT / "sweeper" / "training" / "adapters").glob("*.py")
        if path.stem != "ranks"  # used by the adapters only
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and [each.arg for each in node.args.args][:1] == ["run"]
    }
    pattern = r"^::: (sweeper\.training\.adapters\.\w+\.\w+)$"
    assert set(re.findall(pattern, page("api.md"), re.MULTILINE)) == functions != set()


# ---- generated pages ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def hooks() -> Any:
    return pytest.importorskip("docs.hooks", reason="mkdocs is not installed")


def test_every_command_and_option_is_generated(hooks: Any) -> None:
    text = hooks.insert_generated(page("command-line.md"))
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        below = {f"{name} {key}": one for key, one in getattr(command, "commands", {}).items()}
        for path, one in (below or {name: command}).items():
            _, found, section = text.partition(f"### sweeper {path}\n")
            assert found
            options = [option.opts[0] for option in one.params if not option.hidden]
            assert all(option in section.partition("\n### ")[0] for option in options)


def test_every_route_and_schema_is_generated(hooks: Any) -> None:
    text = hooks.insert_generated(page("json-api.md"))
    document = hooks.openapi()
    assert len(document["paths"]) > 10
    for path, methods in document["paths"].items():
        assert all(f"### `{method.upper()} {path}`" in text for method in methods)
    anchors = {name.lower() for name in document["components"]["schemas"]}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= anchors


def test_every_key_of_a_study_file_is_generated(hooks: Any) -> None:
    text = hooks.insert_generated(page("study-file.md"))
    for name, value in json_schema()["properties"].items():
        heading = f"### `[[{name}]]`" if value.get("type") == "array" else f"### `[{name}]`"
        assert heading in text


def test_no_page_has_an_unknown_generated_part(hooks: Any) -> None:
    named = {
        name
        for path in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"<!-- generated: (\w+) -->", path.read_text(encoding="utf-8"))
    }
    assert named == set(hooks.GENERATED)


# ---- the build ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_builds_in_strict_mode_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [*tmp_path.rglob("*.html")]
    assert len(pages) > 25
    loads = r'(?:<script[^>]+src|<img[^>]+src|<link[^>]+rel="stylesheet"[^>]+href)="(https?:[^"]+)'
    for built in pages:
        assert re.findall(loads, built.read_text(encoding="utf-8")) == []
