"""Pages as TOML, rendered to one HTML file that opens without a network."""

import json
import math
import os
import secrets
import tomllib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sweeper.bundled import bundled_folder
from sweeper.confirmation.diagnostics import health
from sweeper.confirmation.verdict import METRICS
from sweeper.errors import SweeperError, UnknownName, nearest
from sweeper.report import wording
from sweeper.report.figures import style
from sweeper.report.figures.registry import FIGURES, draw
from sweeper.report.report_input import ReportInput, prepared, usable
from sweeper.report.score_table import sides
from sweeper.report.summary import summarise
from sweeper.report.trial_table import MOST_ROWS, trials_table
from sweeper.report.verdict_section import confirmed
from sweeper.study import results

TEMPLATES: Final = Path(__file__).parent / "templates"
DEFAULT_PAGE: Final = "trade-offs"
# Panels that are words and tables; every other one names a figure.
PARTS = ("verdict", "summary", "sides", "trials", "glossary")
# A panel that is left out where it is empty; the others say why they are.
_OPTIONAL = ("importance", "interaction", "forest", "reliability")


class Options(BaseModel):
    """How a panel is shown, where that is not as its figure has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: int | None = Field(None, ge=100, le=4000)  # of a figure, in pixels
    rows: int | None = Field(None, ge=1)  # of the table of trials


class Panel(BaseModel):
    """One section of a page: what it shows, its heading, and words for the reader."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    figure: str
    heading: str
    words: str = ""
    options: Options = Options()


class Page(BaseModel):
    """What people look at, as code: a title and panels in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    panels: tuple[Panel, ...] = Field(min_length=1)

    def without(self, figure: str) -> "Page":
        """Return the page without the panels of a figure."""
        kept = tuple(panel for panel in self.panels if panel.figure != figure)
        return self.model_copy(update={"panels": kept})


class Section(NamedTuple):
    """A panel with what was computed for it; `json` is None where nothing can be drawn."""

    panel: Panel
    json: Markup | None = None
    notes: tuple[str, ...] = ()
    height: int = 0
    source: str = ""


def render(report: ReportInput, page: Page | None = None) -> str:
    """Return a report as one HTML page; without a page, the trade-offs."""
    template = environment(TEMPLATES).get_template("page.html")
    shown = context(report, page or ready_page(DEFAULT_PAGE))
    return template.render(**shown, themes=themes(), scripts=_scripts())


def context(report: ReportInput, page: Page) -> dict[str, Any]:
    """Return what the templates of a page's sections are rendered with."""
    ready = prepared(report)
    best = results.best(usable(ready.trials))
    return {
        "page": page,
        "report": ready,
        "parts": PARTS,
        "splits": wording.SPLITS,
        "verdict": confirmed(ready),
        "checks": health(ready.trials, ready.space, ready.evidence, ready.verdict),
        "summary": summarise(ready),
        "sides": sides(ready),
        "metric": wording.METRICS[ready.metric],
        "metric_name": METRICS[ready.metric],
        "sections": _sections(page, ready),
        "table": trials_table(
            ready.trials, None if best is None else int(best["number"]), _pick(ready), _rows(page)
        ),
        "own": sorted(set(ready.trials["schedule"]) - set(style.styles(()))),
        "chance": wording.nll(math.log(ready.classes or 1)),
    }


def write_report(path: Path | str, report: ReportInput, page: Page | None = None) -> Path:
    """Write a report in one step: the file is the old one or the new one, never half of it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = render(report, page).encode("utf-8", errors="replace")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        draft.write_bytes(text)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


@cache
def ready_pages() -> Mapping[str, Page]:
    """Return the pages that ship with the package, by name, the default one first."""
    found = {
        path.stem: read_page(path) for path in sorted(bundled_folder("dashboards").glob("*.toml"))
    }
    return {DEFAULT_PAGE: found.pop(DEFAULT_PAGE), **found}


def page_of(pages: Mapping[str, Page], name: str) -> Page:
    """Return a page by its name; raises `UnknownName` with the nearest one."""
    if name not in pages:
        raise UnknownName(
            f"no page {name[:100]!r}{nearest(name, pages)}; there are: {', '.join(pages)}"
        )
    return pages[name]


def ready_page(name: str) -> Page:
    """Return a page that ships with the package; raises `UnknownName`."""
    return page_of(ready_pages(), name)


def find_page(given: str) -> Page:
    """Return a page by its name or its file; raises `SweeperError`."""
    return read_page(Path(given)) if given.endswith(".toml") else ready_page(given)


def read_page(path: Path) -> Page:
    """Return a page from its file; raises SweeperError with the file and key."""
    try:
        page = Page.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise SweeperError(f"{path}: {problem}") from problem
    except ValidationError as problem:
        raise SweeperError(f"{path}: {'; '.join(_lines(problem))}") from problem
    for panel in page.panels:
        _check(panel, path)
    return page


def for_script(text: str) -> Markup:
    """Return JSON that may stand in a script element: only "<" can end one or open a comment."""
    return Markup(text.replace("<", "\\u003c"))


def _check(panel: Panel, path: Path) -> None:
    allowed = (*PARTS, *FIGURES)
    if panel.figure not in allowed:
        raise SweeperError(
            f"{path}: panels.figure is {panel.figure!r}{nearest(panel.figure, allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )


def _lines(problem: ValidationError) -> Iterator[str]:
    for error in problem.errors():
        yield f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


def environment(*folders: Path) -> Environment:
    """Return the templates of folders: nothing is shown unescaped, and no name may be missing."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _rows(page: Page) -> int:
    """Return how many rows a page's table of trials has at most."""
    asked = [panel.options.rows for panel in page.panels if panel.figure == "trials"]
    return next(filter(None, asked), MOST_ROWS)


def _pick(report: ReportInput) -> int | None:
    evidence = report.evidence
    return None if evidence is None else evidence.candidates[evidence.pick].trial


def _sections(page: Page, report: ReportInput) -> list[Section]:
    hidden = _OPTIONAL if report.confirmed else (*_OPTIONAL, "sides")
    sections = (_section(panel, report) for panel in page.panels)
    return [section for section in sections if section.json or section.panel.figure not in hidden]


def _section(panel: Panel, report: ReportInput) -> Section:
    if panel.figure in PARTS:
        return Section(panel)
    drawing, recipe = draw(panel.figure, report), FIGURES[panel.figure]
    if drawing.figure is None:
        return Section(panel)
    if panel.options.height is not None:
        drawing.figure.update_layout(height=panel.options.height)
    source = report.source(recipe.split, recipe.scaled)
    figure = drawing.figure
    return Section(panel, figure_json(figure), drawing.notes, figure.layout.height, source)


def figure_json(figure: go.Figure) -> Markup:
    """Return a figure as it may stand in a script element of a page."""
    return for_script(plotly.io.to_json(figure, engine="json"))


def themes() -> Markup:
    """Return what page.js needs to draw figures on light and on dark ground, as JSON."""
    both = {"light": style.template(), "dark": style.template(dark=True)}
    return for_script(json.dumps({**both, "colours": style.dark_colours()}))


@cache
def _scripts() -> list[tuple[Markup, str]]:
    texts = (get_plotlyjs(), (TEMPLATES / "page.js").read_text("utf-8"))
    return [(Markup(text), _hash(text)) for text in texts]


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
