"""What is wrong with a study file, in words: a line for each key, from the file's own schema."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from sweeper.errors import SweeperError, nearest

# The tags of a dimension's two forms; in a location they are no keys of the file.
RANGE, CHOICES = "<range>", "<choices>"
_LONGEST: Final = 60


class KeyErrors(ValueError):
    """What a check of several keys found: pairs of a key and what is wrong with it."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in problems))
        self.problems = problems


@contextmanager
def found_in(origin: object) -> Iterator[None]:
    """Name the file that an error came from, in each of its lines."""
    try:
        yield
    except SweeperError as error:
        lines = str(error).splitlines()
        raise SweeperError("\n".join(f"{origin}: {line}" for line in lines)) from error


def by_key(error: SweeperError) -> list[tuple[str, str]]:
    """Return each line of an error about a study as the key that it names ("" for none) and text.

    Lines about a key begin with it, as `problems` and the loader write them.
    """
    return [_split(line) for line in str(error).splitlines()]


def _split(line: str) -> tuple[str, str]:
    key, colon, text = line.partition(": ")
    return (key, text) if colon and _KEY.fullmatch(key) else ("", line)


_KEY: Final = re.compile(
    r"(study|task|space|objective|budget|sampler|pruner|confirm|resources|first)(\[\d+\])?(\.[^\s:]+)*"
)


def problems(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Yield a line for each wrong key: what was given, and what is allowed."""
    schema = model.model_json_schema()
    for item in error.errors():
        loc = tuple(part for part in item["loc"] if part not in (RANGE, CHOICES))
        if item["type"] == "too_short" and item["input"]:
            continue  # its items are wrong, and each of them has a line of its own
        for key, text in _texts(item, loc, schema):
            yield f"{key}: {text}" if key else text


def shown(value: Any) -> str:
    """Return a value as a study file would have it, cut where it is long."""
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
            near = nearest(str(loc[-1]), allowed)
            return f"unknown key{near}; allowed: {', '.join(allowed)}"
        case "missing":
            return f"missing; give {_allowed(node, schema)}{_misspelt(item['input'], loc, schema)}"
        case "string_pattern_mismatch":
            return f"{shown(item['input'])}; allowed: {node['description']}"
        case _:
            near = nearest(str(item["input"]), node.get("enum", ()))
            return f"{shown(item['input'])}{near}; allowed: {_allowed(node, schema)}"


def _misspelt(given: Any, loc: tuple[Any, ...], schema: Any) -> str:
    known = _keys(schema, loc[:-1])
    others = [key for key in given if key not in known] if isinstance(given, dict) else []
    near = nearest(str(loc[-1]), others).removeprefix(" (did you mean ").removesuffix("?)")
    return f" (is {near} it, misspelt?)" if near else ""


# ---- the schema --------------------------------------------------------------------------


def _node(node: Any, loc: tuple[Any, ...], root: Any) -> Mapping[str, Any]:
    """Return what the schema says of the key at a location; empty where it says nothing."""
    forms = [_resolved(form, root) for form in _forms(_resolved(node, root))]
    if not loc:
        return forms[0] if len(forms) == 1 else {"anyOf": forms}
    for form in forms:
        below = form.get("items") if isinstance(loc[0], int) else _under(form, loc[0])
        if isinstance(below, dict):
            return _node(below, loc[1:], root)
    return {}


def _keys(root: Any, loc: tuple[Any, ...]) -> list[str]:
    """Return the keys that the table at a location may have."""
    forms = _forms(_node(root, loc, root))
    return [key for form in forms for key in form.get("properties", {})]


def _under(form: Mapping[str, Any], key: str) -> Any:
    return form.get("properties", {}).get(key, form.get("additionalProperties"))


def _forms(node: Mapping[str, Any]) -> list[Any]:
    forms = node.get("anyOf") or node.get("oneOf") or [node]
    return [form for form in forms if form.get("type") != "null"]


def _resolved(node: Any, root: Any) -> Any:
    while "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        node = {**root["$defs"][node["$ref"].rsplit("/", 1)[-1]], **rest}
    return node


def _allowed(node: Mapping[str, Any], root: Any) -> str:
    """Return in words what a schema allows."""
    if "enum" in node:
        return ", ".join(map(str, node["enum"]))
    forms = [_resolved(form, root) for form in _forms(node)]
    if len(forms) > 1:
        return " or ".join(dict.fromkeys(_allowed(form, root) for form in forms))
    match forms[0].get("type"):
        case "object":
            keys = list(forms[0].get("properties", {}))
            return f"a table {{ {', '.join(keys)} }}" if keys else "a table"
        case "array":
            some = ", at least one" if forms[0].get("minItems") else ""
            return f"a list of {_plural(_resolved(forms[0]['items'], root))}{some}"
        case "integer":
            return f"a whole number{_bounds(forms[0])}"
        case "number":
            return f"a finite number{_bounds(forms[0])}"
        case "boolean":
            return "true or false"
        case _:
            return "text in quotes"


def _plural(node: Mapping[str, Any]) -> str:
    match node.get("type"):
        case "object":
            return f"tables with {', '.join(node['properties'])}"
        case "string":
            return "texts in quotes"
        case _:
            return "values: texts, numbers, true or false"


def _bounds(node: Mapping[str, Any]) -> str:
    words = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "to",
        "exclusiveMaximum": "below",
    }
    given = [f" {word} {node[key]:,}" for key, word in words.items() if key in node]
    return ",".join(given) if any("above" in g or "below" in g for g in given) else "".join(given)
