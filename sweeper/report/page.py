"""Pages are TOML files; a page is rendered to one self-contained HTML file."""

import json
import math
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

from sweeper import formatting as fmt
from sweeper.bundled import bundled_folder
from sweeper.errors import SweeperError, UnknownName, suggestion
from sweeper.files import write_text
from sweeper.metrics import METRICS, validation_label
from sweeper.report.earlier_table import earlier_table
from sweeper.report.figures.kit import style
from sweeper.report.figures.registry import FIGURES, draw
from sweeper.report.report_input import ReportInput, prepare, with_finite_value
from sweeper.report.score_table import score_table
from sweeper.report.summary import summarize
from sweeper.report.trial_table import MAX_ROWS, trials_table
from sweeper.report.verdict_section import verdict_section
from sweeper.study import results
from sweeper.study.load import parse_toml, read_text

TEMPLATES: Final = Path(__file__).parent / "templates"
DEFAULT_PAGE: Final = "overview"
# Panels of text and tables; every other panel names a figure.
PARTS = ("verdict", "summary", "scores", "trials", "glossary")
# These panels are left out when they are empty; the others say why they are empty.
_OPTIONAL = ("importance", "isolation", "interaction", "forest", "reliability")


class Options(BaseModel):
    """Display options of a panel; None means the default of its figure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: int | None = Field(None, ge=100, le=4000)  # height of the figure in pixels
    rows: int | None = Field(None, ge=1)  # maximum number of rows in the table of trials


class Panel(BaseModel):
    """One section of a page: a figure or part, its heading, and text for the reader."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    figure: str
    heading: str
    words: str = ""
    options: Options = Options()


class Page(BaseModel):
    """A title and panels in order, as read from a TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    panels: tuple[Panel, ...] = Field(min_length=1)

    def without(self, figure: str) -> "Page":
        """Return a copy of the page without the panels that show `figure`."""
        panels = tuple(panel for panel in self.panels if panel.figure != figure)
        return self.model_copy(update={"panels": panels})


class PageSection(NamedTuple):
    """A panel with its figure as JSON and the notes; `json` is None without a figure."""

    panel: Panel
    json: Markup | None = None
    notes: tuple[str, ...] = ()
    height: int = 0
    source: str = ""


def render(report: ReportInput, page: Page | None = None) -> str:
    """Return a report as one HTML page; `page` defaults to the built-in page `overview`."""
    template = environment(TEMPLATES).get_template("page.html")
    shown = context(report, page or built_in_page(DEFAULT_PAGE))
    return template.render(**shown, themes=themes(), scripts=_scripts())


def context(report: ReportInput, page: Page) -> dict[str, Any]:
    """Return the template variables for the sections of a page."""
    report = prepare(report)
    return {
        "page": page,
        "report": report,
        "parts": PARTS,
        "splits": fmt.SPLITS,
        "verdict": verdict_section(report),
        "checks": report.checks,
        "summary": summarize(report),
        "scores": score_table(report),
        "metric": validation_label(report.metric),
        "metric_name": METRICS[report.metric].label,
        "sections": _sections(page, report),
        "table": trials_table(report.trials, _marked(report), _max_rows(page)),
        "earlier": earlier_table(report.earlier),
        "custom_schedules": sorted(set(report.trials["schedule"]) - set(style.styles(()))),
        "chance": fmt.nll(math.log(report.classes or 1)),
    }


def write_report(path: Path | str, report: ReportInput, page: Page | None = None) -> Path:
    """Write a report and return its path; raises `SweeperError` if the file cannot be written."""
    return write_text(Path(path), render(report, page))


@cache
def built_in_pages() -> Mapping[str, Page]:
    """Return the built-in pages by name, the default page first."""
    pages = {
        path.stem: read_page(path) for path in sorted(bundled_folder("dashboards").glob("*.toml"))
    }
    return {DEFAULT_PAGE: pages.pop(DEFAULT_PAGE), **pages}


def page_of(pages: Mapping[str, Page], name: str) -> Page:
    """Return a page by its name; raises `UnknownName` with a suggestion."""
    if name not in pages:
        raise UnknownName(
            f"unknown page {name[:100]!r}{suggestion(name, pages)}; available: {', '.join(pages)}"
        )
    return pages[name]


def built_in_page(name: str) -> Page:
    """Return a built-in page by its name; raises `UnknownName`."""
    return page_of(built_in_pages(), name)


def find_page(name: str) -> Page:
    """Return the page with this name or in this TOML file; raises `SweeperError`."""
    return read_page(Path(name)) if name.endswith(".toml") else built_in_page(name)


def read_page(path: Path) -> Page:
    """Read a page from a TOML file; raises `SweeperError` with the file and key."""
    try:
        page = Page.model_validate(parse_toml(read_text(path)))
    except (OSError, UnicodeDecodeError, SweeperError) as problem:
        raise SweeperError(f"{path}: {problem}") from problem
    except ValidationError as problem:
        raise SweeperError(f"{path}: {'; '.join(_lines(problem))}") from problem
    for panel in page.panels:
        _check(panel, path)
    return page


def for_script(text: str) -> Markup:
    """Return JSON with "<" escaped, so that it cannot end a script element or open a comment."""
    return Markup(text.replace("<", "\\u003c"))


def _check(panel: Panel, path: Path) -> None:
    allowed = (*PARTS, *FIGURES)
    if panel.figure not in allowed:
        raise SweeperError(
            f"{path}: panels.figure: unknown figure {panel.figure!r}"
            f"{suggestion(panel.figure, allowed)}; allowed: {', '.join(allowed)}"
        )


def _lines(problem: ValidationError) -> Iterator[str]:
    for error in problem.errors():
        yield f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


def environment(*folders: Path) -> Environment:
    """Return a Jinja environment that escapes all values and rejects undefined names."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _max_rows(page: Page) -> int:
    requested = [panel.options.rows for panel in page.panels if panel.figure == "trials"]
    return next(filter(None, requested), MAX_ROWS)


def _marked(report: ReportInput) -> dict[str, int | None]:
    """Return the numbers of the trials that the table marks, by badge."""
    evidence, recommended = report.evidence, report.recommended
    pick = None if evidence is None else evidence.candidates[evidence.pick]
    lowest = results.best(with_finite_value(report.trials))
    return {
        "recommended": None if recommended is None else recommended.trial,
        "pick": None if pick is None or pick is recommended else pick.trial,
        "lowest": None if lowest is None else int(lowest["number"]),
    }


def _sections(page: Page, report: ReportInput) -> list[PageSection]:
    hidden = _OPTIONAL if report.confirmed else (*_OPTIONAL, "scores")
    sections = (_section(panel, report) for panel in page.panels)
    return [section for section in sections if section.json or section.panel.figure not in hidden]


def _section(panel: Panel, report: ReportInput) -> PageSection:
    if panel.figure in PARTS:
        return PageSection(panel)
    drawing, recipe = draw(panel.figure, report), FIGURES[panel.figure]
    if drawing.figure is None:
        return PageSection(panel)
    if panel.options.height is not None:
        drawing.figure.update_layout(height=panel.options.height)
    source = report.source(recipe.split, recipe.scaled)
    figure = drawing.figure
    return PageSection(panel, figure_json(figure), drawing.notes, figure.layout.height, source)


def figure_json(figure: go.Figure) -> Markup:
    """Return a figure as JSON that is safe in a script element."""
    return for_script(plotly.io.to_json(figure, engine="json"))


def themes() -> Markup:
    """Return the light and dark plotly templates and the color map for page.js, as JSON."""
    templates = {"light": style.template(), "dark": style.template(dark=True)}
    return for_script(json.dumps({**templates, "colors": style.dark_colors()}))


@cache
def _scripts() -> list[tuple[Markup, str]]:
    texts = (get_plotlyjs(), (TEMPLATES / "page.js").read_text("utf-8"))
    return [(Markup(text), _hash(text)) for text in texts]


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
