"""The service as a person uses it, in a real browser: from signing in to a best.json in use."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from sweeper import Study, api
from sweeper.smoothing import SmoothingLoss
from tests.support.browser import ARGUMENTS, CHROMIUM, needs_chromium
from tests.support.processes import StartSweeper
from tests.support.service_world import World, copied
from tests.support.serving import Site, database, serve
from tests.support.studies import STUDY, copy_task

pytestmark = [pytest.mark.browser, needs_chromium]

# Looked at by people: in a folder that git ignores.
SHOTS = Path(__file__).parent.parent / "results" / "screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Seen(NamedTuple):
    """A page of a browser, and everything that went wrong in it."""

    page: Any
    problems: list[str]

    def shoot(self, name: str) -> None:
        """Take a picture of the whole page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Any]:
    """Return a function that opens a page of its own; what it complains about is kept."""
    contexts = []

    def open_page(**options: Any) -> Seen:
        options = {"viewport": DESKTOP, "locale": "en-GB", "timezone_id": "Asia/Tokyo", **options}
        context = chromium.new_context(**options)
        contexts.append(context)
        seen = Seen(context.new_page(), [])
        seen.page.set_default_timeout(60_000)
        seen.page.on("pageerror", lambda error: seen.problems.append(str(error)))
        seen.page.on(
            "console",
            lambda said: (
                seen.problems.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        seen.page.on("request", lambda asked: seen.problems.extend(_outside(asked.url)))
        return seen

    yield open_page
    for context in contexts:
        context.close()


def _outside(url: str) -> list[str]:
    """Return an address that is not this machine's: pages work without a network."""
    return [] if re.match(r"(http://127\.0\.0\.1|data:|blob:)", url) else [f"asked for {url}"]


@pytest.mark.filterwarnings("ignore:.*best.json:UserWarning")  # the study may have any verdict
def test_from_sign_in_to_exported_configuration(
    open_page: Any, start_sweeper: StartSweeper, tmp_path: Path
) -> None:
    """The whole way of an operator, with a worker on this machine."""
    from playwright.sync_api import expect

    storage = database(tmp_path)
    token = api.create_token("ann", "operator", storage)
    site = serve(storage, sign_in=True)
    seen = open_page(accept_downloads=True)
    page = seen.page

    # Signed in, by keyboard alone.
    page.goto(site.address)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    seen.shoot("sign-in")
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    expect(page.get_by_text("No studies in this database yet")).to_be_visible()
    seen.shoot("no-studies")

    # The digits study, with fewer trials.
    page.get_by_role("link", name="Launch one here").click()
    page.get_by_role("link", name="digits", exact=True).click()
    page.get_by_label("trials", exact=True).fill("a dozen")
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_text("Not launched: fix 1 error below.")).to_be_visible()
    expect(page.get_by_label("trials", exact=True)).to_have_value("a dozen")
    seen.shoot("form-with-an-error")
    seen.problems.clear()  # Chromium notes the status 422 of the page
    page.get_by_label("trials", exact=True).fill("12")
    page.get_by_label("replicates", exact=True).fill("3")
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_role("heading", name="Study digits")).to_be_visible()
    progress = page.locator("#progress")
    expect(progress).to_contain_text("0 of 12 trials")
    expect(progress).to_contain_text("No workers are running")
    seen.shoot("launched")

    # Watched to its end, without a reload.
    page.evaluate("window.sameDocument = true")
    worker = start_sweeper("worker", "--idle", 2, url=storage)
    expect(progress).to_contain_text("1 worker", timeout=60_000)
    seen.shoot("running")
    expect(progress).to_contain_text("12 of 12 trials", timeout=120_000)
    expect(progress.get_by_text("finished", exact=True)).to_be_visible(timeout=120_000)
    expect(page.locator("#figures .plot .main-svg").first).to_be_visible()
    expect(page.locator("#figures")).to_contain_text("Search progress")  # still the same tab
    assert page.evaluate("window.sameDocument") is True
    assert worker.wait(timeout=60) == 0

    # The overview, with its figures and verdict.
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="Verdict")).to_be_visible()
    expect(page.get_by_text("Confirmation under way")).to_have_count(0)
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    assert page.locator(".plot").count() >= 5
    seen.shoot("overview")

    # The table, filtered and sorted; a trial.
    page.get_by_role("navigation", name="Study").get_by_role("link", name="Trials").click()
    page.get_by_label("State").select_option("complete")
    page.get_by_role("button", name="Filter").click()
    complete = Study("digits", storage).progress().complete
    expect(page.locator("output")).to_have_text(f"{complete} trials")
    page.get_by_role("columnheader", name="NLL", exact=True).get_by_role("link").click()
    best = Study("digits", storage).best
    assert best is not None
    first = page.locator("tbody tr").first
    expect(first).to_contain_text(f"{best['nll']:.3f}")
    seen.shoot("trials")
    first.get_by_role("link").click()
    expect(page.get_by_text(f"sweeper replay digits {best['number']}")).to_be_visible()
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    seen.shoot("trial")

    # best.json, and a training with it.
    page.get_by_role("navigation", name="Study").get_by_role("link", name="Running").click()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="best.json").click()
    file = tmp_path / "best.json"
    waiting.value.save_as(file)
    loss = SmoothingLoss.from_file(file)
    logits = torch.zeros(8, 10, requires_grad=True)
    loss.progress = 0.5
    loss(logits, torch.arange(8)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert loss.smoothing.epsilon == Study("digits", storage).document()["epsilon"]

    assert seen.problems == []

    # optuna-dashboard, which reads and deletes nothing.
    page.get_by_role("link", name="optuna-dashboard").click()
    expect(page.get_by_text("digits").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    seen.shoot("optuna-dashboard")
    refused = page.evaluate(
        "async () => (await fetch('/api/studies/1', { method: 'DELETE' })).status"
    )
    assert refused == 405
    assert Study("digits", storage).progress().ended == 12


def test_viewer_cannot_delete(open_page: Any, template: World, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    own = copied(template, tmp_path)
    token = api.create_token("eve", "viewer", own.study.storage)
    seen = open_page()
    page = seen.page
    page.goto(serve(own.study.storage, sign_in=True).address)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="quick", exact=True).click()
    expect(page.get_by_text("12 of 12 trials")).to_be_visible()
    assert page.get_by_text("Delete this study").count() == 0
    assert seen.problems == []
    refused = page.evaluate(
        "async () => (await fetch('/v1/studies/quick', { method: 'DELETE' })).status"
    )
    assert refused == 403
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto(page.url.replace("/sign-in", "/studies/quick"))
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.fixture
def local(template: World) -> Site:
    return template.site


PAGES = {
    "studies": "/studies",
    "running": "/studies/quick?shown=running",
    "overview": "/studies/quick?shown=overview",
    "schedules": "/studies/quick?shown=schedules",
    "calibration": "/studies/quick?shown=calibration",
    "trials": "/studies/quick/trials",
    "trial": "/studies/quick/trials/1",
    "spec": "/studies/quick/spec",
    "compare": "/compare?item=quick/0&item=quick/1",
    "new": "/new",
    "form": "/new?example=digits-regularizers",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_pages_fit_the_screen_without_console_errors(
    open_page: Any, local: Site, size: str, scheme: str
) -> None:
    viewport = DESKTOP if size == "desktop" else PHONE
    seen = open_page(viewport=viewport, color_scheme=scheme)
    for name, path in PAGES.items():
        seen.page.goto(f"{local.address.rstrip('/')}{path}")
        for plot in seen.page.locator(".plot").all():
            plot.locator(".main-svg").first.wait_for()
        wide = seen.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= viewport["width"], name
        seen.shoot(f"{size}-{scheme}-{name}")
        assert seen.problems == [], name


def test_times_are_local_and_name_their_zone(open_page: Any, template: World) -> None:
    seen = open_page(timezone_id="Asia/Tokyo")
    seen.page.goto(f"{template.site.address}studies")
    time = seen.page.locator("time").first
    assert time.get_attribute("datetime").endswith("+00:00")
    assert re.search(r"(GMT\+9|JST)", time.text_content())


def test_pages_are_keyboard_accessible(open_page: Any, template: World) -> None:
    seen = open_page()
    page = seen.page
    page.goto(f"{template.site.address}studies/quick/trials")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(() => { const one = document.activeElement, style = getComputedStyle(one);"
                " return [one.textContent.trim(), style.outlineStyle]; })()"
            )
        )
    names = [name for name, _ in reached]
    assert "Filter" in names
    assert any(name.startswith("NLL") for name in names)
    assert all(outline != "none" for name, outline in reached if name in ("Filter", "trial"))


def test_lost_live_connection_is_shown_and_restored(
    open_page: Any, template: World, tmp_path: Path
) -> None:
    """The database goes away under a page that is open, and comes back."""
    from playwright.sync_api import expect

    own = copied(template, tmp_path)
    seen = open_page()
    seen.page.goto(f"{own.site.address}studies/quick")
    problem = seen.page.locator("#problem")
    expect(seen.page.locator("#progress")).to_contain_text("12 of 12 trials")
    expect(problem).to_be_hidden()
    file = own.folder / "sweeper.db"
    kept = own.folder / "kept.db"
    shutil.copy(file, kept)
    file.write_text("no database any more " * 500)
    expect(problem).to_contain_text("sweeper.db")
    other = own.folder / "other.db"
    shutil.copy(kept, other)
    os.replace(other, file)
    expect(problem).to_be_hidden()
    assert seen.problems == []


def test_opened_details_stay_open_after_updates(
    open_page: Any, start_sweeper: Any, tmp_path: Path
) -> None:
    """News do not close what is open, nor take the focus away."""
    from playwright.sync_api import expect

    copy_task(tmp_path)
    spec = STUDY.replace("quick.py:train", "quick.py:slow")
    trace = f"[task.options]\ntrace = '{tmp_path}/trace'\npause = 0.2\n"
    (tmp_path / "quick.toml").write_text(spec + trace)
    storage = database(tmp_path)
    worker = start_sweeper("launch", "quick.toml", "--workers", 1, url=storage)
    while not (tmp_path / "trace").exists():
        assert worker.poll() is None
        threading.Event().wait(0.1)
    seen = open_page()
    seen.page.goto(f"{serve(storage).address}studies/quick")
    summary = seen.page.locator("#progress summary")
    expect(summary).to_have_text("1 worker")
    summary.focus()
    seen.page.keyboard.press("Enter")
    before = seen.page.locator("#progress").inner_text()
    seen.page.wait_for_function(
        "before => document.getElementById('progress').innerText !== before", arg=before
    )
    assert seen.page.locator("#progress details").get_attribute("open") is not None
    assert seen.page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert seen.problems == []
