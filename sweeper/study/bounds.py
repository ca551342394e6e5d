"""Limits for all values of a study file, checked before the file is validated."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sweeper import limits
from sweeper.errors import SweeperError
from sweeper.study.schema_errors import toml_value

# Strings and comments of TOML. Each alternative also matches an unclosed string, so that matching
# takes linear time.
_TEXTS: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)'
    r"|'''(?:[^']|'(?!''))*+(?:'''|\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)
_DOTTED: Final = re.compile(r"[^\s=,\[\]{}][^\n=,\[\]{}]*+")
_LONGEST_PATH: Final = 100
_LONGEST_REASON: Final = 200


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; raises `SweeperError` if the text is not valid TOML or exceeds a limit.

    This takes linear time, unlike tomllib for some inputs.
    """
    if len(text) > limits.STUDY_FILE_LENGTH:
        raise SweeperError(
            f"a study file must have at most {limits.STUDY_FILE_LENGTH:,} characters, got "
            f"{len(text):,}"
        )
    # tomllib takes quadratic time in the number of parts of a dotted key.
    for match in _DOTTED.finditer(_TEXTS.sub('""', text)):
        if match[0].count(".") >= limits.NESTING_DEPTH:
            raise SweeperError(
                f"not valid TOML: {toml_value(match[0])} is nested too deeply; "
                f"allowed: {limits.NESTING_DEPTH} levels"
            )
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise SweeperError(
            f"not valid TOML: values are nested too deeply; allowed: {limits.NESTING_DEPTH} levels"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SweeperError(f"not valid TOML: {str(error)[:_LONGEST_REASON]}") from None
    except ValueError:  # int() refuses to parse thousands of digits
        raise SweeperError(
            "not valid TOML: an integer has thousands of digits; allowed: at most "
            f"{limits.INTEGER_DIGITS}"
        ) from None
    check_size_limits(tables)
    return tables


def check_size_limits(tables: Mapping[str, Any]) -> None:
    """Raise `SweeperError` if a value is too long or too deeply nested, or there are too many."""
    for count, (key, depth, value) in enumerate(_values("", 0, tables)):
        if count > limits.VALUES_PER_FILE:
            raise SweeperError(
                f"more than {limits.VALUES_PER_FILE:,} values; allowed: at most "
                f"{limits.VALUES_PER_FILE:,}"
            )
        problem = _problem(value, depth)
        if problem:
            place = key if len(key) <= _LONGEST_PATH else f"{key[:_LONGEST_PATH]}…"
            raise SweeperError(f"{place}: {problem}" if key else problem)


def _values(key: str, depth: int, value: Any) -> Iterator[tuple[str, int, Any]]:
    yield key, depth, value
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _values(f"{key}.{name}" if key else str(name), depth + 1, child)
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from _values(f"{key}[{index}]", depth + 1, child)


def _problem(value: Any, depth: int) -> str:
    """Return the error message for a value, "" if it is valid; its children are not checked."""
    if isinstance(value, Mapping | list | tuple):
        is_table = isinstance(value, Mapping)
        unit, most = (
            ("keys", limits.KEYS_PER_TABLE) if is_table else ("items", limits.ITEMS_PER_LIST)
        )
        if depth >= limits.NESTING_DEPTH:
            return f"nested too deeply; allowed: {limits.NESTING_DEPTH} levels"
        if len(value) > most:
            return f"{len(value):,} {unit}; allowed: at most {most:,}"
        keys = value if isinstance(value, Mapping) else ()
        return next((problem for name in keys if (problem := _key_problem(str(name)))), "")
    if isinstance(value, int) and abs(value) >= 10**limits.INTEGER_DIGITS:
        return (
            f"an integer has more than {limits.INTEGER_DIGITS} digits; allowed: at most "
            f"{limits.INTEGER_DIGITS}"
        )
    return _text_problem(value) if isinstance(value, str) else ""


def _key_problem(key: str) -> str:
    if len(key) > limits.KEY_LENGTH:
        return (
            f"the key {toml_value(key)} has {len(key):,} characters; allowed: at most "
            f"{limits.KEY_LENGTH}"
        )
    return "" if key.isprintable() else f"the key {toml_value(key)} has unprintable characters"


def _text_problem(text: str) -> str:
    if len(text) > limits.TEXT_LENGTH:
        return (
            f"{toml_value(text)} has {len(text):,} characters; allowed: at most "
            f"{limits.TEXT_LENGTH:,}"
        )
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        return f"must be valid UTF-8 without NUL characters, got {toml_value(text)}"
    return ""
