"""A study file as a form: its fields are the schema's, its errors stand beside their keys."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import tomli_w

from sweeper.errors import SweeperError
from sweeper.study.load import parse_toml
from sweeper.study.schema_errors import by_key
from sweeper.study.spec import StudySpec

Kind = Literal["text", "number", "choice", "list"]
# What the form has no field for, as TOML: what is there depends on the task.
REST: Final = "rest"
# The order of a study file's tables; `first` is in the rest.
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
_INTEGER: Final = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Field:
    """One key of a study file that a form can show; `default` is what it is when left empty."""

    key: str
    kind: Kind
    words: str
    default: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a study file: its name, what it is, and its fields."""

    name: str
    words: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Filled:
    """A form as a person sees it: what each field holds, and what is wrong with it.

    `others` are errors that belong to no field and not to the rest.
    """

    values: Mapping[str, str]
    errors: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...] = ()

    @property
    def wrong(self) -> int:
        """How many errors there are."""
        return sum(map(len, self.errors.values())) + len(self.others)


def form() -> tuple[Table, ...]:
    """Return the form of a study file, made from its JSON Schema."""
    schema = StudySpec.model_json_schema()
    return tuple(_table(name, schema) for name in _TABLES)


def filled(tables: Mapping[str, Any], error: SweeperError | None = None) -> Filled:
    """Return the form that shows these tables of a study file, and an error about them."""
    known = {field.key for table in form() for field in table.fields}
    flat = dict(_leaves(tables, known))
    rest = as_toml(_without(tables, known))
    return _with_errors({**flat, REST: rest}, error, known)


def refilled(given: Mapping[str, str], error: SweeperError | None = None) -> Filled:
    """Return the form as it was sent, with an error about it."""
    known = {field.key for table in form() for field in table.fields}
    kept = {key: value for key, value in given.items() if key in known or key == REST}
    return _with_errors(kept, error, known)


def as_toml(tables: Mapping[str, Any]) -> str:
    """Return tables as the text of a study file."""
    return tomli_w.dumps(dict(tables))


def tables_of(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the tables of a study file that a form was filled in with.

    What does not look like the number that is wanted is kept as text, so that the study's own
    check says what is allowed. Raises `SweeperError` where the rest is no TOML.
    """
    try:
        tables = parse_toml(given.get(REST, ""))
    except SweeperError as error:
        raise SweeperError(f"{REST}: {error}") from None
    for table in form():
        for field in table.fields:
            text = given.get(field.key, "").strip()
            if text:
                _put(tables, field.key.split("."), _value(field, text))
    return tables


def _with_errors(values: Mapping[str, str], error: SweeperError | None, known: set[str]) -> Filled:
    errors: dict[str, list[str]] = {}
    others = []
    for key, text in [] if error is None else by_key(error):
        field = _nearest_field(key, known)
        if field is not None:
            said = text if key == field or (field == REST and not key) else f"{key}: {text}"
            errors.setdefault(field, []).append(said)
        else:
            others.append(f"{key}: {text}" if key else text)
    return Filled(values, {key: tuple(texts) for key, texts in errors.items()}, tuple(others))


def _nearest_field(key: str, known: set[str]) -> str | None:
    """Return the field that an error stands beside: the rest for keys that have none."""
    plain = re.sub(r"\[\d+\]$", "", key)
    if plain in known:
        return plain
    inside = [field for field in sorted(known) if field.startswith(f"{plain}.")]
    if inside and plain.count("."):
        return inside[0]
    return REST if plain.startswith(("task.", "space.", "first", REST)) else None


# ---- the schema --------------------------------------------------------------------------


def _table(name: str, schema: Any) -> Table:
    node = _resolved(schema["properties"][name], schema)
    fields = tuple(
        field
        for key, below in node["properties"].items()
        for field in _fields(f"{name}.{key}", below, schema, key in node.get("required", ()))
    )
    return Table(name, str(node.get("description", "")), fields)


def _fields(key: str, node: Any, schema: Any, required: bool) -> Iterator[Field]:
    resolved = _resolved(node, schema)
    words, default = str(node.get("description", "")), node.get("default")
    if resolved.get("type") == "object":
        for part, below in resolved.get("properties", {}).items():
            inner = {**below, "default": (default or {}).get(part)}
            yield from _fields(f"{key}.{part}", inner, schema, False)
        return
    forms = [form for form in _forms(resolved) if form.get("type") != "null"]
    shown = "" if required or default is None else _text(default)
    yield _field(key, forms, words, shown)


def _field(key: str, forms: Sequence[Any], words: str, default: str) -> Field:
    if len(forms) > 1:
        return Field(key, "text", words, default)
    node = forms[0]
    if "enum" in node:
        return Field(key, "choice", words, default, tuple(map(str, node["enum"])))
    if node.get("type") == "boolean":
        return Field(key, "choice", words, default, ("true", "false"))
    if node.get("type") in ("integer", "number"):
        low, high = node.get("minimum"), node.get("maximum")
        return Field(
            key, "number", words, default, low=low, high=high, whole=node["type"] == "integer"
        )
    return Field(key, "list" if node.get("type") == "array" else "text", words, default)


def _resolved(node: Any, schema: Any) -> Any:
    while "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        node = {**schema["$defs"][node["$ref"].rsplit("/", 1)[-1]], **rest}
    return node


def _forms(node: Any) -> list[Any]:
    return list(node.get("anyOf") or node.get("oneOf") or [node])


# ---- values ------------------------------------------------------------------------------


def _leaves(
    tables: Mapping[str, Any], known: set[str], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    for name, value in tables.items():
        key = f"{prefix}{name}"
        if key in known:
            yield key, _text(value)
        elif isinstance(value, dict):
            yield from _leaves(value, known, f"{key}.")


def _without(tables: Mapping[str, Any], known: set[str], prefix: str = "") -> dict[str, Any]:
    """Return the tables without what the form has fields for; nothing empty is left."""
    kept: dict[str, Any] = {}
    for name, value in tables.items():
        key = f"{prefix}{name}"
        if key in known:
            continue
        rest = _without(value, known, f"{key}.") if isinstance(value, dict) else value
        if rest or not isinstance(value, dict):
            kept[name] = rest
    return kept


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
    *above, last = path
    for name in above:
        below = tables.setdefault(name, {})
        if not isinstance(below, dict):
            raise SweeperError(f"{REST}: {name} has to be a table")
        tables = below
    tables[last] = value
