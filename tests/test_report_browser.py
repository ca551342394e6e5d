"""The page in a real browser, without a network."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sweeper.report import ReportInput, write_report
from tests.support.browser import ARGUMENTS, CHROMIUM, needs_chromium
from tests.support.report_evidence import confirmed_report, make_evidence
from tests.support.report_frames import make_report, make_trials
from tests.support.report_pages import HOSTILE, NAMES, ODD, renamed

WIDTHS = (1280, 400)

pytestmark = [
    pytest.mark.browser,
    needs_chromium,
]


class Opened(NamedTuple):
    """A page, with what it complained about and what it asked for."""

    page: Page
    complaints: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


def opened(browser: Browser, path: Path, report: ReportInput, width: int = 1280) -> Opened:
    """Write a report and open it offline."""
    write_report(path, report)
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    return Opened(page, complaints, requests)


def check_quiet(seen: Opened, path: Path) -> None:
    """Check that the page asked for nothing but itself and had nothing to say."""
    asked = [url for url in seen.requests if not url.startswith("data:")]
    assert (asked, seen.complaints) == ([path.as_uri()], [])


def column(page: Page, number: int) -> list[str]:
    """Return what a column of the visible rows shows, from the top."""
    script = (
        "number => [...document.querySelectorAll('#trials-table tbody tr:not([hidden])')]"
        ".map(row => row.cells[number].dataset.value)"
    )
    found: list[str] = page.evaluate(script, number)
    return found


@pytest.fixture(scope="module")
def usual(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opened(browser, tmp_path_factory.mktemp("report") / "report.html", make_report())


def test_the_snippet_is_copied_with_mouse_and_keyboard(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path / "page.html", confirmed_report(make_evidence())).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    snippet = page.locator(".snippet code").inner_text()
    assert "SmoothingLoss.from_file" in snippet or "label_smoothing" in snippet
    button = page.locator("button.copy")
    for key in ("", "Enter"):
        page.evaluate("navigator.clipboard.writeText('')")
        button.press(key) if key else button.click()
        expect(page.locator(".copied")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == snippet


@pytest.mark.parametrize("width", [*WIDTHS, 1000])
def test_report_opens_offline_without_errors(browser: Browser, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    seen = opened(browser, path, confirmed_report(make_evidence()), width)
    for name in (*NAMES, "forest", "reliability"):
        assert seen.page.locator(f"#{name} .plot svg.main-svg").count(), name
        assert seen.page.locator(f"#{name} :is(.point, .js-line)").count() > 2, name
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    if width >= 1000:  # tables of a few columns fit; on a narrower page they scroll
        assert seen.page.evaluate(
            "[...document.querySelectorAll('.scroll:has(.short)')]"
            ".every(box => box.scrollWidth <= box.clientWidth)"
        )
    table = seen.page.locator(".scroll", has=seen.page.locator(".scores"))
    assert table.evaluate("box => box.scrollWidth <= box.clientWidth")
    # On a narrow page the difference stands in the row below.
    assert table.get_by_text("−0.04").filter(visible=True).count() >= 2
    check_quiet(seen, path)


@pytest.mark.parametrize("width", WIDTHS)
def test_isolation_plots_fit_on_the_page(browser: Browser, tmp_path: Path, width: int) -> None:
    rng = np.random.default_rng(0)
    trials = make_trials().assign(
        hp_dropout=rng.uniform(0, 0.5, 64),
        hp_optimizer=rng.choice(["sgd", "a name that is far too long"], 64),
    )
    path = tmp_path / "report.html"
    seen = opened(browser, path, make_report(trials), width)
    plot = seen.page.locator("#isolation .plot")
    for number in ("", "2", "3"):
        assert plot.locator(f".subplot.x{number}y{number} .point").count() > 2
    names = plot.locator(".annotation-text").all_text_contents()
    assert names == ["lowest NLL (nats)", "dropout", "optimizer"]
    assert "a name that…" in plot.locator(".y3tick text").all_text_contents()
    # Plotly would cut off text that is outside the drawing.
    left, right = plot.evaluate(
        "box => [box.getBoundingClientRect()].flatMap(b => [b.left, b.right])"
    )
    for text in plot.locator("text:visible").all():
        box = text.bounding_box()
        assert box is None or left <= box["x"] <= box["x"] + box["width"] <= right
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    check_quiet(seen, path)


@pytest.mark.parametrize("case", ODD)
def test_report_of_every_state_opens_without_errors(
    browser: Browser, tmp_path: Path, case: str
) -> None:
    path = tmp_path / "report.html"
    seen = opened(browser, path, ODD[case][0])
    assert seen.page.locator(".plot svg.main-svg").count() == 3 * seen.page.locator(".plot").count()
    check_quiet(seen, path)


def test_hostile_text_is_displayed_as_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    trials = renamed(HOSTILE)
    trials.loc[2, ["state", "failure"]] = ["failed", HOSTILE]
    seen = opened(browser, path, make_report(trials, name=HOSTILE))
    assert HOSTILE in seen.page.title()
    assert seen.page.locator("h1 .name").inner_text() == HOSTILE
    assert seen.page.locator("img").count() == 0
    legend = seen.page.locator("#response .legendtext").all_text_contents()
    assert f"{HOSTILE[:27]}…" in legend
    check_quiet(seen, path)


def test_foreign_scripts_do_not_run(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    seen = opened(browser, path, make_report())
    seen.page.evaluate(
        "() => { const script = document.createElement('script');"
        " script.textContent = 'window.ran = true'; document.body.append(script); }"
    )
    assert seen.page.evaluate("window.ran") is None
    assert "Content Security Policy" in seen.complaints[0]


@pytest.mark.parametrize("heading", ["NLL", "ε", "rate", "state", "NLL scaled"])
def test_headings_sort_with_missing_values_last(usual: Opened, heading: str) -> None:
    page = usual.page
    button = page.get_by_role("button", name=heading, exact=True)
    header = page.locator("#trials-table th").filter(has=button)
    number = int(header.evaluate("cell => cell.cellIndex"))
    button.click()
    assert header.get_attribute("aria-sort") == "ascending"
    first = column(page, number)
    button.click()
    assert header.get_attribute("aria-sort") == "descending"
    check_sorted(first, column(page, number))


def check_sorted(ascending: list[str], descending: list[str]) -> None:
    """Check both orders of a column; "" stands for a missing value."""
    known = [value for value in ascending if value]
    keys = [(float(v), "") if v[0] in "-0123456789" else (math.inf, v) for v in known]
    assert keys == sorted(keys)
    assert ascending == known + [""] * (len(ascending) - len(known))
    assert [value for value in descending if value] == known[::-1]
    assert descending[len(known) :] == ascending[len(known) :]


def test_headings_are_keyboard_accessible(usual: Opened) -> None:
    button = usual.page.get_by_role("button", name="accuracy", exact=True)
    button.focus()
    usual.page.keyboard.press("Enter")
    header = usual.page.locator("#trials-table th[aria-sort]")
    assert header.all_text_contents() == ["accuracy"]


@pytest.mark.parametrize("width", WIDTHS)
def test_figure_texts_are_not_clipped(browser: Browser, tmp_path: Path, width: int) -> None:
    report = confirmed_report(make_evidence())
    page = opened(browser, tmp_path / "report.html", report, width).page
    cut = page.evaluate(
        "() => [...document.querySelectorAll('.plot')].flatMap(plot => {"
        " const box = plot.getBoundingClientRect();"
        " return [...plot.querySelectorAll('text')].filter(text => {"
        "  const own = text.getBoundingClientRect();"
        "  return own.width && (own.left < box.left - 1 || own.right > box.right + 1"
        "   || own.top < box.top - 1 || own.bottom > box.bottom + 1); })"
        " .map(text => text.textContent); })"
    )
    assert cut == []


def test_rows_are_filtered_by_text_state_and_schedule_together(usual: Opened) -> None:
    page = usual.page
    page.locator("#filter-state").select_option("complete")
    page.locator("#filter-schedule").select_option("step")
    trials = make_trials()
    kept = trials[(trials["state"] == "complete") & (trials["schedule"] == "step")]
    assert sorted(map(float, column(page, 0))) == list(kept["number"])
    assert page.locator("#filter-count").inner_text() == f"{len(kept)} of 64 trials"
    page.locator("#filter-state").select_option("")
    page.locator("#filter-schedule").select_option("")
    page.locator("#filter-text").fill("DIVERGED nan")
    assert column(page, 1) == ["failed"]
    page.locator("#filter-text").fill("")
    assert page.locator("#filter-count").inner_text() == "64 trials"


def test_figures_follow_the_color_scheme(usual: Opened) -> None:
    page = usual.page
    tick = page.locator("#history .xtick text").first
    page.emulate_media(color_scheme="dark")
    expect(tick).to_have_css("fill", "rgb(232, 234, 237)")
    page.emulate_media(color_scheme="light")
    expect(tick).to_have_css("fill", "rgb(27, 31, 36)")


def test_sorting_1000_trials(browser: Browser, tmp_path: Path) -> None:
    seen = opened(browser, tmp_path / "report.html", make_report(make_trials(1000)))
    took = seen.page.evaluate(
        "() => { const start = performance.now();"
        " document.querySelectorAll('#trials-table button')[6].click();"
        " document.body.offsetHeight; return performance.now() - start; }"
    )
    assert len(column(seen.page, 0)) == 1000
    assert took < 3000
