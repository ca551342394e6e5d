"""The form for a study file: fields from its JSON Schema, errors next to their keys."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import tomli_w

from sweeper import limits
from sweeper.errors import SweeperError
from sweeper.study.json_schema import alternatives, resolve_ref
from sweeper.study.load import parse_toml
from sweeper.study.schema_errors import errors_by_key
from sweeper.study.script_keys import ScriptKeys
from sweeper.study.spec import StudySpec

Kind = Literal["text", "number", "choice", "list"]
# The field for all keys without a field of their own, as TOML. They depend on the task.
REST: Final = "rest"
# The tables in the order of a study file. `first` is edited in the field `rest`.
_TABLES: Final = (
    "study",
    "task",
    "space",
    "objective",
    "budget",
    "sampler",
    "pruner",
    "confirm",
)
# Keys for scripts, which the field `rest` accepts too; the service refuses `task.command`.
_OF_SCRIPTS: Final = {f"task.{key}" for key in ScriptKeys.model_fields}
_INTEGER: Final = re.compile(rf"[+-]?\d{{1,{limits.INTEGER_DIGITS}}}")


@dataclass(frozen=True)
class Field:
    """One key of a study file; `words` is its help text, `default` the value if it is empty.

    `low` and `high` are the limits of a number; `is_integer` is True for integers.
    """

    key: str
    kind: Kind
    words: str
    default: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    is_integer: bool = False


@dataclass(frozen=True)
class FormTable:
    """A table of a study file: its name, help text and fields."""

    name: str
    words: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class FilledForm:
    """The values and errors of a form, by field; `others` are errors that belong to no field."""

    values: Mapping[str, str]
    errors: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...] = ()

    @property
    def error_count(self) -> int:
        return sum(map(len, self.errors.values())) + len(self.others)


def form() -> tuple[FormTable, ...]:
    """Return the tables of the form, built from the JSON Schema of study files."""
    schema = StudySpec.model_json_schema()
    return tuple(_table(name, schema) for name in _TABLES)


def filled_form(tables: Mapping[str, Any], error: SweeperError | None = None) -> FilledForm:
    """Return a form filled with the tables of a study file, with an error about them."""
    keys = {field.key for table in form() for field in table.fields}
    flat = dict(_leaves(tables, keys))
    rest = as_toml(_without(tables, keys))
    return _with_errors({**flat, REST: rest}, error, keys)


def resubmitted_form(fields: Mapping[str, str], error: SweeperError | None = None) -> FilledForm:
    """Return the form as it was submitted, with an error about it."""
    keys = {field.key for table in form() for field in table.fields}
    values = {key: value for key, value in fields.items() if key in keys or key == REST}
    return _with_errors(values, error, keys)


def as_toml(tables: Mapping[str, Any]) -> str:
    return tomli_w.dumps(dict(tables))


def tables_of(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the tables of a study file from a submitted form.

    Values that cannot be parsed as numbers stay text, so that the validation of the study reports
    what is allowed. Raises `SweeperError` if the field `rest` is not valid TOML.
    """
    try:
        tables = parse_toml(fields.get(REST, ""))
    except SweeperError as error:
        raise SweeperError(f"{REST}: {error}") from None
    for table in form():
        for field in table.fields:
            text = fields.get(field.key, "").strip()
            if text:
                _put(tables, field.key.split("."), _value(field, text))
    return tables


def _with_errors(
    values: Mapping[str, str], error: SweeperError | None, keys: set[str]
) -> FilledForm:
    errors: dict[str, list[str]] = {}
    others = []
    for key, text in [] if error is None else errors_by_key(error):
        field = _nearest_field(key, keys)
        if field is not None:
            message = text if key == field or (field == REST and not key) else f"{key}: {text}"
            errors.setdefault(field, []).append(message)
        else:
            others.append(f"{key}: {text}" if key else text)
    return FilledForm(values, {key: tuple(texts) for key, texts in errors.items()}, tuple(others))


def _nearest_field(key: str, keys: set[str]) -> str | None:
    """Return the field that shows an error about `key`; None if no field fits."""
    bare = re.sub(r"\[\d+\]$", "", key)
    if bare in keys:
        return bare
    nested = [field for field in sorted(keys) if field.startswith(f"{bare}.")]
    if nested and bare.count("."):
        return nested[0]
    return REST if bare.startswith(("task.", "space.", "first", REST)) else None


# ---- the schema --------------------------------------------------------------------------


def _table(name: str, schema: Any) -> FormTable:
    node = resolve_ref(schema["properties"][name], schema)
    fields = tuple(
        field
        for key, child in node["properties"].items()
        if f"{name}.{key}" not in _OF_SCRIPTS
        for field in _fields(f"{name}.{key}", child, schema, key in node.get("required", ()))
    )
    return FormTable(name, str(node.get("description", "")), fields)


def _fields(key: str, node: Any, schema: Any, required: bool) -> Iterator[Field]:
    target = resolve_ref(node, schema)
    words, default = str(node.get("description", "")), node.get("default")
    if target.get("type") == "object":
        for part, child in target.get("properties", {}).items():
            child = {**child, "default": (default or {}).get(part)}
            yield from _fields(f"{key}.{part}", child, schema, False)
        return
    forms = alternatives(target, schema)
    shown = "" if required or default is None else _text(default)
    yield _field(key, forms, words, shown)


def _field(key: str, forms: Sequence[Any], words: str, default: str) -> Field:
    if len(forms) > 1:
        is_list = any(form.get("type") == "array" for form in forms)
        return Field(key, "list" if is_list else "text", words, default)
    node = forms[0]
    if "enum" in node:
        return Field(key, "choice", words, default, tuple(map(str, node["enum"])))
    if node.get("type") == "boolean":
        return Field(key, "choice", words, default, ("true", "false"))
    if node.get("type") in ("integer", "number"):
        low, high = node.get("minimum"), node.get("maximum")
        return Field(
            key, "number", words, default, low=low, high=high, is_integer=node["type"] == "integer"
        )
    return Field(key, "list" if node.get("type") == "array" else "text", words, default)


# ---- values ------------------------------------------------------------------------------


def _leaves(
    tables: Mapping[str, Any], keys: set[str], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    for name, value in tables.items():
        key = f"{prefix}{name}"
        if key in keys:
            yield key, _text(value)
        elif isinstance(value, dict):
            yield from _leaves(value, keys, f"{key}.")


def _without(tables: Mapping[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    """Return the tables without these keys and without tables that are empty then."""
    remaining: dict[str, Any] = {}
    for name, value in tables.items():
        key = f"{prefix}{name}"
        if key in keys:
            continue
        rest = _without(value, keys, f"{key}.") if isinstance(value, dict) else value
        if rest or not isinstance(value, dict):
            remaining[name] = rest
    return remaining


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) and f"{value:g}" == str(value) else str(value)


def _value(field: Field, text: str) -> Any:
    if field.kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if field.choices == ("true", "false") and text in field.choices:
        return text == "true"
    if field.kind == "number" or (field.kind == "text" and field.key == "budget.pack"):
        return _number(text)
    return text


def _number(text: str) -> Any:
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _put(tables: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        table = tables.setdefault(name, {})
        if not isinstance(table, dict):
            raise SweeperError(f"{REST}: {name} must be a table")
        tables = table
    tables[last] = value
