"""Error messages for study files: one line per wrong key, written from the JSON Schema."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from sweeper import limits
from sweeper.errors import SweeperError, suggestion
from sweeper.study.json_schema import alternatives, resolve_ref

# Tags of the forms of a hyperparameter. In pydantic's locations, they are not keys of the file.
RANGE, CHOICES, CONDITIONAL, FIXED = _TAGS = "<range>", "<choices>", "<conditional>", "<fixed>"
_LONGEST: Final = 60


class KeyErrors(ValueError):
    """Errors of a validator that checks several keys: pairs of a key and a message."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in problems))
        self.problems = problems


@contextmanager
def prefix_errors(origin: object) -> Iterator[None]:
    """Prefix each line of a `SweeperError` with its origin, for example a file."""
    try:
        yield
    except SweeperError as error:
        lines = str(error).splitlines()
        raise SweeperError("\n".join(f"{origin}: {line}" for line in lines)) from error


def errors_by_key(error: SweeperError) -> list[tuple[str, str]]:
    """Split the lines of an error about a study into pairs of a key and a message.

    A line about a key begins with it. The key is "" for other lines.
    """
    return [_split(line) for line in str(error).splitlines()]


def _split(line: str) -> tuple[str, str]:
    key, colon, text = line.partition(": ")
    return (key, text) if colon and _KEY.fullmatch(key) else ("", line)


_KEY: Final = re.compile(
    r"(study|task|space|objective|budget|sampler|pruner|confirm|resources|first)(\[\d+\])?(\.[^\s:]+)*"
)


def error_lines(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Yield one line per wrong key, with the value and what is allowed.

    At most `limits.ERROR_LINES` keys get a line.
    """
    schema = model.model_json_schema()
    errors = error.errors()
    for item in errors[: limits.ERROR_LINES]:
        loc = tuple(part for part in item["loc"] if part not in _TAGS)
        if item["type"] == "too_short" and item["input"]:
            continue  # caused by wrong items, which have their own lines
        for key, text in _texts(item, loc, schema):
            yield f"{key}: {text}" if key else text
    if len(errors) > limits.ERROR_LINES:
        yield f"and {len(errors) - limits.ERROR_LINES:,} more errors; fix these first"


def toml_value(value: Any) -> str:
    """Return a value as text, in TOML notation where possible, truncated to 60 characters."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str | int | float | list | tuple | dict):
        text = repr(value)
    else:
        text = str(value)  # TOML's dates and times
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _texts(item: Mapping[str, Any], loc: tuple[Any, ...], schema: Any) -> list[tuple[str, str]]:
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, KeyErrors):
        return [(_key(loc, key), text) for key, text in cause.problems]
    return [(_key(loc), _words(item, loc, schema, cause))]


def _key(loc: tuple[Any, ...], below: str = "") -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join([*parts, f".{below}" if below else ""]).removeprefix(".")


def _words(item: Mapping[str, Any], loc: tuple[Any, ...], schema: Any, cause: Any) -> str:
    node = _node(schema, loc, schema)
    match item["type"]:
        case "value_error":
            return str(cause)
        case "extra_forbidden":
            allowed = _keys(schema, loc[:-1])
            near = suggestion(str(loc[-1]), allowed)
            return f"unknown key{near}; allowed: {', '.join(allowed)}"
        case "missing":
            hint = _misspelling(item["input"], loc, schema)
            return f"missing; must be {_allowed(node, schema)}{hint}"
        case "string_pattern_mismatch":
            pattern = str(node["description"]).partition(". ")[0]
            return f"invalid value {toml_value(item['input'])}; allowed: {pattern}"
        case "string_too_long":
            return _too_long(item, "characters")
        case "too_long":
            return _too_long(item, "items")
        case "greater_than_equal" | "less_than_equal":
            required = _allowed(node, schema, every_bound=True)
            return f"must be {required}, got {toml_value(item['input'])}"
        case _:
            near = suggestion(str(item["input"]), node.get("enum", ()))
            return f"must be {_allowed(node, schema)}, got {toml_value(item['input'])}{near}"


def _too_long(item: Mapping[str, Any], unit: str) -> str:
    value, most = item["input"], item["ctx"]["max_length"]
    return f"must have at most {most:,} {unit}, got {len(value):,}: {toml_value(value)}"


def _misspelling(table: Any, loc: tuple[Any, ...], schema: Any) -> str:
    known = _keys(schema, loc[:-1])
    others = [key for key in table if key not in known] if isinstance(table, dict) else []
    near = suggestion(str(loc[-1]), others).removeprefix(" (did you mean ").removesuffix("?)")
    return f" (is {near} a misspelling of it?)" if near else ""


# ---- the schema --------------------------------------------------------------------------


def _node(node: Any, loc: tuple[Any, ...], root: Any) -> Mapping[str, Any]:
    """Return the schema of the key at a location; empty if there is none."""
    forms = alternatives(node, root)
    if not loc:
        return forms[0] if len(forms) == 1 else {"anyOf": forms}
    for form in forms:
        child = form.get("items") if isinstance(loc[0], int) else _property(form, loc[0])
        if isinstance(child, dict):
            return _node(child, loc[1:], root)
    return {}


def _keys(root: Any, loc: tuple[Any, ...]) -> list[str]:
    """Return the known keys of the table at a location."""
    forms = alternatives(_node(root, loc, root), root)
    return list(dict.fromkeys(key for form in forms for key in form.get("properties", {})))


def _property(form: Mapping[str, Any], key: str) -> Any:
    return form.get("properties", {}).get(key, form.get("additionalProperties"))


def _allowed(node: Mapping[str, Any], root: Any, *, every_bound: bool = False) -> str:
    """Describe the values that a schema allows.

    Bounds of numbers that only keep them finite are left out, unless `every_bound` is set.
    """
    if "enum" in node:
        return join_alternatives([str(value) for value in node["enum"]])
    forms = alternatives(node, root)
    if len(forms) > 1:
        return " or ".join(dict.fromkeys(_allowed(form, root) for form in forms))
    match forms[0].get("type"):
        case "object":
            keys = list(forms[0].get("properties", {}))
            return f"a table {{ {', '.join(keys)} }}" if keys else "a table"
        case "array":
            kind = "a non-empty list" if forms[0].get("minItems") else "a list"
            return f"{kind} of {_plural(resolve_ref(forms[0]['items'], root))}"
        case "integer":
            below = math.inf if every_bound else limits.LARGEST_INTEGER
            return f"an integer{_bounds(forms[0], below)}"
        case "number":
            below = math.inf if every_bound else limits.LARGEST_NUMBER
            return f"a finite number{_bounds(forms[0], below)}"
        case "boolean":
            return "true or false"
        case _:
            return "a string"


def _plural(node: Mapping[str, Any]) -> str:
    match node.get("type"):
        case "object":
            return f"tables {{ {', '.join(node['properties'])} }}"
        case "string":
            return "strings"
        case _:
            return "values (strings, numbers, true or false)"


def _bounds(node: Mapping[str, Any], below: float = math.inf) -> str:
    """Return the bounds whose absolute value is less than `below`, as " from 1 to 9" or " > 0"."""
    signs = {
        "minimum": ">=",
        "exclusiveMinimum": ">",
        "maximum": "<=",
        "exclusiveMaximum": "<",
    }
    bounds = {key: node[key] for key in signs if key in node and abs(node[key]) < below}
    if bounds.keys() == {"minimum", "maximum"}:
        return f" from {bounds['minimum']:,} to {bounds['maximum']:,}"
    return " and".join(f" {signs[key]} {bound:,}" for key, bound in bounds.items())


def join_alternatives(words: Sequence[str]) -> str:
    """Return alternatives as "a", "a or b" or "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
