"""All text that people read of the command line, the pages and the report, for a comparison.

Numbers, times, paths and hashes are placeholders, and the rows of tables of trials are cut short.
"""

import json
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

from plotly.offline import get_plotlyjs

from tests.support.processes import ROOT

# Lines of the progress display: how many a launch prints depends on the speed of the machine.
_PROGRESS: Final = re.compile(r"(\d+/\d+  \d+ done|confirmation: \d+/\d+ ).*")
_BLOCKS: Final = frozenset(
    (
        *("p", "h1", "h2", "h3", "li", "tr", "ul", "ol", "dl", "dt", "dd", "div", "section", "nav"),
        *("header", "footer", "main", "table", "pre", "form", "details", "summary", "label"),
        *("figure", "figcaption", "title", "select", "textarea", "br"),
    )
)
_SPACED: Final = frozenset({"a", "button", "option", "span"})
_ATTRIBUTES: Final = ("title", "aria-label", "placeholder", "data-busy")
_UNSEEN: Final = frozenset({"script", "style", "template"})
_KEPT_ROWS: Final = 2
# What differs between the hover texts of the markers of one figure.
_CONFIGURATION: Final = re.compile(r", [a-z]+\b(, rate \S+)?|rate \S+|[\d.,−+]+")


def scrubbed(text: str, folder: Path) -> str:
    """Return the text with placeholders, one space between words, and without empty lines."""
    for path, name in ((folder, "FOLDER"), (Path(sys.prefix), "PYTHON"), (ROOT, "REPOSITORY")):
        text = text.replace(str(path), name)
    text = text.replace(socket.gethostname(), "HOST")
    text = re.sub(r'File "REPOSITORY[^\n]*\n[^\n]*\n', "", text)  # lines of our code in a traceback
    for pattern, replacement in _PLACEHOLDERS:
        text = pattern.sub(replacement, text)
    text = text.replace("[#]", "")  # the full value of a rounded number
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(_short(line for line in lines if line))


_PLACEHOLDERS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"http://127\.0\.0\.1:\d+", "ADDRESS"),
        (r"swp_[\w-]{20,}", "TOKEN"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?", "TIME"),
        (r"(?<![\w.])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{12,64}\b", "HASH"),
        (r"\b(torch|numpy|optuna|sweeper|python|CPython) \d[\w.+]*", r"\1 VERSION"),
        (r"(?m)^(cpu|cpu_instructions|threads|platform)\s*\n.*$", r"\1\nMACHINE"),
        (r"\+(cpu|cu\d+)\b", ""),  # the build of torch
        (r" · \d+ (s|min) left", ""),  # there is an estimate only after some seconds
        (r"(─|━|═){2,}", "─"),
        # "ε = 0" and "95% CI" are terms. Other numbers, with their signs, are placeholders.
        (
            r"(?P<term>ε = 0(?![.,]?\d)|95% CI)|(?<![\w.])(?P<sign>(?<![^\s(>])[+−±-])?"
            r"\d+([.,]\d+)*(e[+−-]?\d+)?(?![\d])",
            lambda match: match["term"] or "#",
        ),
    )
)


def _short(lines: Iterable[str]) -> Iterator[str]:
    """Leave out the further rows of a table whose first cell is a number, and repeated lines."""
    rows, before = 0, ""
    for line in lines:
        rows = rows + 1 if re.match(r"(# \||│ # │)", line) else 0
        if rows == _KEPT_ROWS + 1:
            yield "…"
        elif rows <= _KEPT_ROWS and line != before:
            yield line
        before = line


def without_progress(text: str) -> str:
    """Return the output of a launch without what depends on the speed of the machine.

    Only the last line of the progress display is kept.
    """
    lines = [line for line in text.splitlines() if not line.startswith("packs of ")]
    progress = [index for index, line in enumerate(lines) if _PROGRESS.fullmatch(line)]
    return "\n".join(line for index, line in enumerate(lines) if index not in progress[:-1])


def page_text(html: str, *, tooltips: bool = True) -> str:
    """Return the visible text of a page, its tooltips, and the text of its figures."""
    parser = _Page(tooltips)
    parser.feed(html.replace(get_plotlyjs(), ""))
    return "".join(parser.parts)


class _Page(HTMLParser):
    """Collect the text of a page: a line per block element, cells separated by "|"."""

    def __init__(self, tooltips: bool) -> None:
        super().__init__()
        self._tooltips = tooltips
        self.parts: list[str] = []
        self._unseen = ""
        self._json = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in _UNSEEN:
            self._unseen = tag
            self._json = given.get("type") == "application/json" and given.get("id") != "themes"
        if tag in _BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th") and self.parts[-1] != "\n":
            self.parts.append(" | ")
        elif tag in _SPACED:
            self.parts.append(" ")
        # The label of a figure repeats its heading and notes.
        if self._tooltips and given.get("class") != "plot":
            self.parts += [f" [{given[name]}] " for name in _ATTRIBUTES if given.get(name)]

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen = ""
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(re.sub(r"\s+", " ", data) if "\n" not in data.strip() else data)
        elif self._json:
            self.parts += [f"\n{line}" for line in dict.fromkeys(figure_text(json.loads(data)))]


def figure_text(figure: dict[str, Any]) -> Iterator[str]:
    """Yield titles, legend entries, annotations and one hover text of each trace of a figure."""
    layout = figure["layout"]
    for key, value in layout.items():
        if key.startswith(("xaxis", "yaxis", "coloraxis", "title", "legend")):
            yield from (f"{key}: {text}" for text in _titles(value))
    for annotation in layout.get("annotations", ()):
        yield f"annotation: {_line(annotation['text'])}"
    for menu in layout.get("updatemenus", ()):
        yield from (f"button: {button['label']}" for button in menu["buttons"])
    hovers: dict[str, str] = {}
    for trace in figure["data"]:
        name = trace.get("name")
        if name and trace.get("showlegend", True):
            yield f"legend: {_line(name)}"
        yield from (f"color: {text}" for text in _titles(trace.get("marker", {}).get("colorbar")))
        value = trace.get("text")
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and re.search("[a-zε]", first):
            hovers.setdefault(_CONFIGURATION.sub("", first), first)
    yield from (f"hover: {_line(text)}" for text in hovers.values())


def _titles(value: Any) -> list[str]:
    title = value.get("title", value) if isinstance(value, dict) else None
    text = title.get("text") if isinstance(title, dict) else title
    return [_line(text)] if isinstance(text, str) and text else []


def _line(text: str) -> str:
    return re.sub(r"<[^>]*>", " ", text.replace("<br>", " / "))


def environment(storage: str = "") -> dict[str, str]:
    """Return the environment of a command whose output is recorded."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWEEPER_")}
    more = {"SWEEPER_STORAGE": storage} if storage else {}
    return {**kept, "COLUMNS": "200", "PYTHONPATH": str(ROOT), **more}
