"""Files that say how an engine is to run a command, with places for what is known at a launch."""

import json
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
from jinja2 import meta

from sweeper.errors import SweeperError, nearest

OURS: Final = Path(__file__).parent / "templates"
_MEANINGS: Final = {
    "command": "the worker's command line",
    "log": "the file of what the worker prints",
    "count": "the number of workers",
    "name": "the name of the job",
}


@dataclass(frozen=True)
class Template:
    """A file in Jinja's language; `settings` are a user's own values for places in it."""

    path: Path
    settings: Mapping[str, str]

    def render(self, needed: Collection[str], **values: Any) -> str:
        """Return the file with its places filled; those `needed` have to be in it.

        Raises `SweeperError`, one line, where one of them is missing, where a place has no
        value, or a setting no place.
        """
        text = self._read()
        environment = _environment()
        try:
            places = meta.find_undeclared_variables(environment.parse(text))
            self._check(places, needed, values)
            return environment.from_string(text).render(**values, **self.settings)
        except jinja2.TemplateSyntaxError as error:
            raise SweeperError(f"{self.path}, line {error.lineno}: {error.message}") from None
        except jinja2.UndefinedError as error:
            raise SweeperError(f"{self.path}: {_no_value(str(error), values)}") from None

    def _read(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise SweeperError(f"template: {self.path} cannot be read: {reason}") from None

    def _check(self, places: set[str], needed: Collection[str], values: Mapping[str, Any]) -> None:
        for name in needed:
            if name not in places:
                raise SweeperError(
                    f"{self.path}: {{{{ {name} }}}} is missing; put it where "
                    f"{_MEANINGS[name]} belongs"
                )
        for name, value in self.settings.items():
            if name in values:
                raise SweeperError(f"--set {name}: the study and the launch say what that is")
            if name not in places:
                raise SweeperError(
                    f"--set {name}: {self.path} has no place for it{nearest(name, places)}"
                )
            if not value.isprintable():
                raise SweeperError(f"--set {name}: {value!r}; allowed: one line of plain text")


def _no_value(said: str, values: Mapping[str, Any]) -> str:
    """Return what to do about a place without a value, from what Jinja says of it."""
    found = re.match(r"'(\w+)' is undefined", said)
    if found is None:
        return said
    name = found[1]
    return (
        f"{{{{ {name} }}}} has no value{nearest(name, values)}; give one with --set {name}=VALUE, "
        f"or take it out. Known: {', '.join(values)}"
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.clear()  # `namespace` is one, and a place of ours
    # Not Jinja's own, which writes for HTML; JSON is YAML too.
    environment.filters["json"] = _json
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment


def _json(value: Any) -> str:
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises
    return json.dumps(value)
