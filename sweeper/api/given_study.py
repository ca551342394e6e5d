"""Studies that are given to `launch` as a function or a task with keywords, without a file."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from sweeper.errors import SweeperError, suggestion
from sweeper.study.section import Section
from sweeper.study.spec import StudySpec

if TYPE_CHECKING:
    from sweeper.api.worker_pool import RunOptions

_SECTIONS: Final = tuple(StudySpec.model_fields)


def split_keywords(
    keywords: Mapping[str, Any], options: type
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the keywords of `launch` into fields of `options` and the tables of a study file.

    Raises `SweeperError` for an unknown keyword or a key that is given twice.
    """
    names, keys = [field.name for field in fields(options)], _keys_of_sections()
    of_options, tables, flat = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    for name, value in keywords.items():
        if name in _SECTIONS and (isinstance(value, Mapping) or name not in names):
            tables[name] = _plain(value)
        elif name in names:
            of_options[name] = value
        elif name in keys:
            flat[name] = _plain(value)
        else:
            allowed = sorted({*names, *keys, *_SECTIONS})
            raise SweeperError(
                f"launch: unknown keyword {name!r}{suggestion(name, allowed)}; "
                f"allowed: {', '.join(allowed)}"
            )
    for name, value in flat.items():
        table = tables.setdefault(keys[name], {})
        if isinstance(table, dict):  # otherwise the check of the study reports it
            if name in table:
                raise SweeperError(
                    f"launch: {name} is given twice, also in {keys[name]}; remove one of them"
                )
            table[name] = value
    return of_options, tables


Options = TypeVar("Options", bound="RunOptions")


def with_keywords(options: Options, keywords: Mapping[str, Any]) -> Options:
    """Return options with other values; raises `SweeperError` for an unknown keyword."""
    names = [field.name for field in fields(options)]
    for name in keywords:
        if name in (*_SECTIONS, *_keys_of_sections()) and name not in names:
            raise SweeperError(
                f"{name} is a setting of the study, not of its launch; set it in the study file "
                "(only a function or a Task is launched with settings as keywords)"
            )
        if name not in names:
            raise SweeperError(
                f"unknown keyword {name!r}{suggestion(name, names)}; allowed: {', '.join(names)}"
            )
    return replace(options, **keywords)


def _keys_of_sections() -> dict[str, str]:
    """Return the section of each key that only one section has; `name` is that of the study."""
    sections: dict[str, list[str]] = {}
    for section, field in StudySpec.model_fields.items():
        kind = field.annotation
        if section != "space" and isinstance(kind, type) and issubclass(kind, Section):
            for key in kind.model_fields:
                sections.setdefault(key, []).append(section)
    unique = {key: names[0] for key, names in sections.items() if len(names) == 1}
    return {key: section for key, section in unique.items() if key != "use"} | {"name": "study"}


def _plain(value: Any) -> Any:
    """Return a value with the types of TOML."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
        case np.generic():
            return value.item()
    return value
