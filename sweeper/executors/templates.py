"""Jinja templates of job scripts and manifests, which are filled in at launch."""

import json
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
from jinja2 import meta, nodes

from sweeper.errors import SweeperError, suggestion

TEMPLATES: Final = Path(__file__).parent / "templates"
_MEANINGS: Final = {
    "command": "the worker's command line",
    "log": "the worker's log file",
    "count": "the number of workers",
    "name": "the name of the job",
}


@dataclass(frozen=True)
class Template:
    """A Jinja template file; `settings` are the user's values for its placeholders."""

    path: Path
    settings: Mapping[str, str]

    def check(self) -> None:
        """Raise `SweeperError` if the file cannot be read or is not a Jinja template."""
        self._parse(self._read())

    def render(self, needed: Collection[str], **values: Any) -> str:
        """Return the rendered template.

        `needed` are placeholders that the template must contain. Raises `SweeperError` if one is
        missing, if a placeholder has no value, or if the template does not use a setting.
        """
        text = self._read()
        placeholders = meta.find_undeclared_variables(self._parse(text))
        self._check_placeholders(placeholders, needed, values)
        try:
            return _environment().from_string(text).render(**values, **self.settings)
        except jinja2.UndefinedError as error:
            raise SweeperError(
                f"{self.path}: {_missing_value_advice(str(error), values)}"
            ) from None

    def _parse(self, text: str) -> nodes.Template:
        try:
            return _environment().parse(text)
        except jinja2.TemplateSyntaxError as error:
            raise SweeperError(f"{self.path}, line {error.lineno}: {error.message}") from None

    def _read(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise SweeperError(f"template: {self.path} cannot be read: {reason}") from None

    def _check_placeholders(
        self, placeholders: set[str], needed: Collection[str], values: Mapping[str, Any]
    ) -> None:
        for name in needed:
            if name not in placeholders:
                raise SweeperError(
                    f"{self.path}: {{{{ {name} }}}} is missing; put it where "
                    f"{_MEANINGS[name]} belongs"
                )
        for name, value in self.settings.items():
            if name in values:
                raise SweeperError(
                    f"--set {name}: cannot be set, because the study and the launch define it"
                )
            if name not in placeholders:
                raise SweeperError(
                    f"--set {name}: {self.path} has no such placeholder"
                    f"{suggestion(name, placeholders)}"
                )
            if not value.isprintable():
                raise SweeperError(
                    f"--set {name}: must be one line of printable text, got {value!r}"
                )


def _missing_value_advice(message: str, values: Mapping[str, Any]) -> str:
    """Return advice for a placeholder without a value, given Jinja's message."""
    match = re.match(r"'(\w+)' is undefined", message)
    if match is None:
        return message
    name = match[1]
    return (
        f"{{{{ {name} }}}} has no value{suggestion(name, values)}; set it with --set {name}=VALUE, "
        f"or remove it; placeholders with a value: {', '.join(values)}"
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.clear()  # Jinja's global `namespace` conflicts with our placeholder
    # Not Jinja's tojson, which escapes for HTML. JSON is also valid YAML.
    environment.filters["json"] = _json
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    return environment


def _json(value: Any) -> str:
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises
    return json.dumps(value)
