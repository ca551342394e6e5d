"""The pages as a program reads them: what they hold, and what they say to mistakes."""

import json
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper import Study, SweeperError
from sweeper import formatting as fmt
from sweeper.report import Page, built_in_page, built_in_pages
from sweeper.report.page import Panel
from sweeper.service.pages import figure_cache
from sweeper.service.pages.forms import filled_form, form, resubmitted_form, tables_of
from sweeper.study.examples import example_studies
from sweeper.study.load import parse_spec, parse_toml
from sweeper.study.space import effective_smoothing
from tests.support.service_world import World, copied
from tests.support.serving import Answer, Site, database, serve
from tests.support.studies import STUDY


@pytest.fixture
def fresh_world(template: World, tmp_path: Path) -> World:
    return copied(template, tmp_path)


def text_of(answer: Answer) -> str:
    """Return what a person reads of a page, in one line."""
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", answer.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def csrf(answer: Answer) -> dict[str, str]:
    [first, *_] = re.findall(r'name="csrf" value="([0-9a-f]+)"', answer.text)
    cookie = str(answer.headers["Set-Cookie"]).split(";")[0]
    return {"csrf": first, "Cookie": cookie}


def post(site: Site, path: str, form: dict[str, str]) -> Answer:
    """Send a form as the browser that was given it."""
    mine = csrf(site.page("/new"))
    sent = {**form, "csrf": mine["csrf"]}
    return site.page(path, method="POST", form=sent, headers={"Cookie": mine["Cookie"]})


# ---- lists -------------------------------------------------------------------------------


def test_empty_database_shows_instructions(tmp_path: Path) -> None:
    seen = text_of(serve(database(tmp_path)).page("/studies"))
    assert "No studies in this database yet" in seen
    assert "sweeper launch digits" in seen
    assert not (tmp_path / "sweeper.db").exists()  # looking makes nothing


def test_studies_are_listed_with_results(template: World) -> None:
    seen = text_of(template.site.page("/studies"))
    progress = template.study.progress()
    assert progress.best is not None
    assert f"finished 12 of 12 trials confirmation {progress.confirmed}" in seen
    recommended = template.study.recommended()
    assert recommended is not None
    smoothing = fmt.smoothing(*effective_smoothing(recommended.point))
    assert f"quick {smoothing} {progress.best:.3f}" in seen
    assert f"{progress.best:.3f}" in seen


def test_search_without_match_is_reported(template: World) -> None:
    seen = text_of(template.site.page("/studies?search=zebra"))
    assert "No study name contains “zebra”. Show all studies" in seen


@pytest.mark.slow
def test_hundreds_of_studies_are_paged(fresh_world: World) -> None:
    for index in range(60):
        spec = STUDY.replace('"quick"', f'"s{index:02d}"').replace("trials = 12", "trials = 2")
        assert fresh_world.site.ask("/v1/studies", "POST", {"toml": spec}).status == 201
    first = fresh_world.site.page("/studies").text
    assert re.findall(r'studies/(s\d\d)"', first) == [f"s{n:02d}" for n in range(59, 34, -1)]
    assert "61 studies" in first
    last = fresh_world.site.page("/studies?page=3").text
    assert re.findall(r'studies/(\w+)"', last)[-1] == "quick"
    assert 'rel="next"' not in last
    assert "There are no studies on page 9" in text_of(fresh_world.site.page("/studies?page=9"))


# ---- one study ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(built_in_pages()))
def test_every_built_in_page_is_shown_with_its_figures(template: World, name: str) -> None:
    answer = template.site.page_with_figures(f"/studies/quick?shown={name}")
    assert answer.status == 200
    page = built_in_page(name).without("trials")
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", answer.text)
    wanted = [panel.heading for panel in page.panels]
    assert set(map(unescape, headings)) <= set(wanted)
    assert len(headings) >= 2
    drawn = re.findall(r'<script type="application/json">(.*?)</script>', answer.text)
    assert drawn
    for figure in drawn:
        assert json.loads(figure)["data"]


def test_the_verdict_is_on_the_page(template: World) -> None:
    verdict = template.study.verdict()
    assert verdict is not None
    assert (
        verdict.word
        in text_of(template.site.page_with_figures("/studies/quick?shown=overview")).lower()
    )


def test_unknown_figures_page_is_reported(template: World) -> None:
    answer = template.site.page("/studies/quick?shown=schedule")
    assert answer.status == 404
    seen = text_of(answer)
    assert "unknown page 'schedule' (did you mean 'schedules'?)" in seen
    assert "overview" in seen


@pytest.mark.parametrize("path", ["", "/trials", "/trials/0", "/spec"])
def test_unknown_study_shows_an_error_page(template: World, path: str) -> None:
    answer = template.site.page(f"/studies/quikc{path}")
    assert answer.status == 404
    assert "no study 'quikc'" in text_of(answer)
    assert "quick" in text_of(answer)


def test_the_table_is_sorted_filtered_and_paged_by_links(fresh_world: World) -> None:
    frame = fresh_world.study.frame()
    seen = fresh_world.site.page("/studies/quick/trials?sort=nll&order=descending").text
    numbers = [int(one) for one in re.findall(r'/trials/(\d+)"', seen)]
    ordered = frame.sort_values("nll", ascending=False)
    assert numbers == ordered["number"].tolist()
    assert 'aria-sort="descending"' in seen
    assert "sort=nll&amp;order=ascending" in seen
    complete = fresh_world.site.page("/studies/quick/trials?state=complete&schedule=cosine")
    wanted = frame[(frame["state"] == "complete") & (frame["schedule"] == "cosine")]["number"]
    found = [int(one) for one in re.findall(r'/trials/(\d+)"', complete.text)]
    assert sorted(found) == sorted(wanted)
    none = fresh_world.site.page("/studies/quick/trials?state=running")
    assert "No trials match. Show all trials" in text_of(none)
    wrong = fresh_world.site.page("/studies/quick/trials?sort=color")
    assert (wrong.status, "sort: unknown value 'color'; allowed: number" in text_of(wrong)) == (
        422,
        True,
    )


def test_trial_page_shows_curves_parameters_output_and_replay(template: World) -> None:
    best = template.study.best
    assert best is not None
    seen = text_of(template.site.page(f"/studies/quick/trials/{best['number']}"))
    assert f"sweeper replay quick {best['number']}" in seen
    assert "quick training begins" in seen
    assert "extra" not in seen
    assert f"{best['nll']:.3f}" in seen
    assert "All evaluations (8)" in seen


def test_displayed_study_file_can_be_launched(template: World) -> None:
    page = template.site.page("/studies/quick/spec").text
    [text] = re.findall(r"<pre[^>]*>(.*?)</pre>", page, flags=re.DOTALL)
    assert parse_spec(parse_toml(unescape(text))) == template.study.spec


def test_events_contain_progress_and_figure_version(fresh_world: World) -> None:
    news = next(news for news in events(fresh_world.site, "/studies/quick/events?shown=running"))
    assert "12 of 12 trials" in news["html"]["progress"]
    versions = (
        news["version"] for news in events(fresh_world.site, "/studies/quick/events?shown=running")
    )
    version = next(filter(None, versions))  # "" while they are being drawn
    page = fresh_world.site.page_with_figures("/studies/quick?shown=running").text
    assert f'data-version="{version}"' in page


def events(site: Site, path: str) -> Iterator[dict[str, Any]]:
    """Listen to a page's events."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode())
        got = line.makefile("rb")
        head = list(iter(got.readline, b"\r\n"))
        assert any(b"text/event-stream" in header for header in head)
        for output in got:
            if output.startswith(b"data: "):
                yield json.loads(output.removeprefix(b"data: "))


@pytest.mark.slow
def test_figures_are_redrawn_only_after_changes(fresh_world: World) -> None:
    def version(path: str = "/studies/fresh?shown=running") -> str:
        [found] = re.findall(r'data-version="(\w+)"', fresh_world.site.page_with_figures(path).text)
        return str(found)

    fresh_world.site.ask("/v1/studies", "POST", {"toml": STUDY.replace('"quick"', '"fresh"')})
    before = version()
    assert version() == before
    assert version("/studies/fresh?shown=schedules") != before
    options = sweeper.api.WorkerOptions("fresh", fresh_world.folder, trials=6)
    sweeper.api.run_worker(options, fresh_world.study.storage)
    deadline = time.monotonic() + 30
    while version() == before:
        assert time.monotonic() < deadline
    assert "trial" in text_of(fresh_world.site.page("/studies/fresh?shown=running"))


def test_trial_without_a_worker_is_waiting(fresh_world: World) -> None:
    site = fresh_world.site
    site.ask("/v1/studies", "POST", {"toml": STUDY.replace('"quick"', '"fresh"')})
    [trial] = site.ask("/v1/studies/fresh/trials").json["trials"]
    assert (trial["number"], trial["state"]) == (0, "waiting")
    assert "Trial 0 waiting" in text_of(site.page("/studies/fresh/trials/0"))
    for state, found in (("waiting", [0]), ("running", [])):
        matching = site.ask(f"/v1/studies/fresh/trials?state={state}").json["trials"]
        assert [trial["number"] for trial in matching] == found


@pytest.mark.parametrize(
    ("number", "links"), [(0, ["next 1"]), (5, ["prev 4", "next 6"]), (11, ["prev 10"])]
)
def test_trial_links_only_to_existing_trials(
    template: World, number: int, links: list[str]
) -> None:
    page = template.site.page(f"/studies/quick/trials/{number}").text
    found = re.findall(r'<a rel="(prev|next)" href="/studies/quick/trials/(-?\d+)"', page)
    assert [" ".join(link) for link in found] == links


def test_recommended_trial_has_a_badge(template: World) -> None:
    recommended = template.study.recommended()
    assert recommended is not None
    page = template.site.page("/studies/quick/trials").text
    badges = re.findall(r'<a href="[^"]*">(\d+)</a> <span class="badge">([^<]*)<', page)
    assert [int(trial) for trial, badge in badges if "recommended" in badge] == [recommended.trial]


def test_failed_study_offers_only_to_retry(fresh_world: World) -> None:
    text = STUDY.replace('"quick"', '"broken"').replace("quick.py:train", "quick.py:broken")
    assert fresh_world.site.ask("/v1/studies", "POST", {"toml": text}).status == 201
    options = sweeper.api.WorkerOptions("broken", fresh_world.folder, slots=0)
    sweeper.api.run_worker(options, fresh_world.study.storage)
    # A second service, because the first one may have cached the state of the study.
    page = serve(fresh_world.study.storage).page("/studies/broken")
    assert Study("broken", fresh_world.study.storage).state == "failed"
    assert Study("broken", fresh_world.study.storage).progress().waiting
    buttons = re.findall(r'formaction="/studies/broken/(\w+)"', page.text)
    assert buttons == ["retry"]


def test_live_update_keeps_the_page(template: World) -> None:
    page = template.site.page("/studies/quick").text
    assert 'data-page="/studies/quick?shown=overview"' in page
    assert 'data-live="/studies/quick/events?shown=overview"' in page


@pytest.mark.slow
def test_figures_of_finished_study_are_drawn_immediately(
    fresh_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure_cache, "SECONDS", 1e9)

    def version() -> str:
        page = fresh_world.site.page_with_figures("/studies/fresh?shown=running").text
        [found] = re.findall(r'data-version="(\w+)"', page)
        return str(found)

    fresh_world.site.ask("/v1/studies", "POST", {"toml": STUDY.replace('"quick"', '"fresh"')})
    before = version()
    sweeper.api.run_worker(
        sweeper.api.WorkerOptions("fresh", fresh_world.folder), fresh_world.study.storage
    )
    deadline = time.monotonic() + 60
    while version() == before:
        assert time.monotonic() < deadline
    assert fresh_world.site.ask("/v1/studies/fresh").json["state"] == "finished"


def test_custom_page_is_a_tab(fresh_world: World) -> None:
    page = Page(
        title="Mine",
        panels=(Panel(figure="response", heading="What ε does", words="As <b>we</b> like it."),),
    )
    site = serve(fresh_world.study.storage, pages={**built_in_pages(), "my & page": page})
    shown = site.page_with_figures("/studies/quick?shown=my+%26+page")
    assert 'href="/studies/quick?shown=my+%26+page" aria-current="page"' in shown.text
    assert "What ε does" in text_of(shown)
    assert "As &lt;b&gt;we&lt;/b&gt; like it." in shown.text
    assert shown.text.count('class="plot"') == 1


def test_events_of_unknown_page_are_rejected(template: World) -> None:
    answer = template.site.ask("/studies/quick/events?shown=nope")
    assert text_in(answer, 404, "unknown page 'nope'")
    assert text_in(template.site.ask("/studies/nope/events"), 404, "no study 'nope'")


def text_in(answer: Answer, status: int, words: str) -> bool:
    return answer.status == status and words in answer.text


# ---- comparing ---------------------------------------------------------------------------


def test_trials_are_compared_cell_by_cell(template: World) -> None:
    answer = template.site.page("/compare?item=quick/0&item=quick/3")
    frame = template.study.frame().set_index("number")
    seen = text_of(answer)
    assert f"NLL {frame['nll'][0]:.3f} {frame['nll'][3]:.3f}" in seen
    assert "schedule fixed" in seen


def test_study_comparison_shows_differences_of_files(fresh_world: World) -> None:
    text = STUDY.replace('"quick"', '"other"').replace("trials = 12", "trials = 20")
    fresh_world.site.ask("/v1/studies", "POST", {"toml": text})
    seen = text_of(fresh_world.site.page("/compare?item=quick&item=other"))
    assert "budget.trials 12 20" in seen
    assert "trials ended 12 of 12 0 of 20" in seen
    assert "study.seed" not in seen  # the same in both


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 200, "Enter two or more names"),
        ("item=quick", 200, "Enter two or more names"),
        ("item=quick&item=nope", 404, "no study 'nope'"),
        ("item=quick&item=quick/1", 422, "studies and trials cannot be mixed"),
        ("item=quick/x&item=quick/1", 422, "'quick/x' is not valid"),
        ("item=quick/99&item=quick/1", 404, "trial 99 does not exist"),
        ("&".join(["item=quick"] * 5), 422, "allowed: 2 to 4"),
        ("&".join(["item=quick"] * 9), 422, "at most"),
    ],
)
def test_invalid_comparison_is_an_error(
    template: World, query: str, status: int, words: str
) -> None:
    answer = template.site.page(f"/compare?{query}")
    assert answer.status == status
    assert words in text_of(answer)


# ---- a new study -------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(example_studies()))
def test_form_round_trips_a_study(name: str) -> None:
    """An example study that is loaded into the form and read back is the same study."""
    tables = parse_toml(example_studies()[name].read_text())
    back = tables_of(filled_form(tables).values)
    assert parse_spec(back) == parse_spec(tables)


def test_the_form_has_a_field_for_every_number_of_the_schema() -> None:
    keys = {field.key for table in form() for field in table.fields}
    assert {"budget.trials", "space.epsilon.high", "sampler.name", "confirm.replicates"} <= keys
    assert len(keys) > 30


def test_an_example_study_is_changed_and_launched(fresh_world: World) -> None:
    page = fresh_world.site.page("/new?example=digits").text
    fields = dict(re.findall(r'<input id="f-[^"]*" name="([^"]*)" value="([^"]*)"', page))
    choices = {
        name: chosen
        for name, chosen in re.findall(
            r'<select id="f-[^"]*" name="([^"]*)".*?(?:<option selected>(.*?)</option>|</select>)',
            page,
            flags=re.DOTALL,
        )
        if chosen
    }
    [rest] = re.findall(r'name="rest"[^>]*>(.*?)</textarea>', page, flags=re.DOTALL)
    sent = {**fields, **choices, "rest": unescape(rest), "budget.trials": "9"}
    sent["study.name"] = "mine"
    answer = post(fresh_world.site, "/new", {key: unescape(value) for key, value in sent.items()})
    assert (answer.status, answer.headers["Location"]) == (303, "/studies/mine")
    ready = parse_spec(parse_toml(example_studies()["digits"].read_text()))
    mine = Study("mine", fresh_world.study.storage).spec
    assert mine.budget.trials == 9
    assert mine.space == ready.space
    assert mine.sampler == ready.sampler


def test_form_errors_are_shown_at_their_fields(fresh_world: World) -> None:
    answer = post(
        fresh_world.site,
        "/new",
        {
            "study.name": "no good",
            "task.use": "quick.py:train",
            "budget.trials": "many",
            "space.epsilon.low": "0",
            "space.epsilon.high": "2",
            "rest": "",
        },
    )
    assert answer.status == 422
    assert "Not launched: fix 3 errors below" in text_of(answer)
    for key, words in (
        ("study.name", "invalid value 'no good'; allowed"),
        ("budget.trials", "got 'many'"),
        ("space.epsilon", "high must be <= 1, got"),
    ):
        beside = re.findall(
            rf'id="w-{re.escape(key)}[^"]*">(.*?)</div>', answer.text, flags=re.DOTALL
        )
        assert any(words in unescape(one) for one in beside), (key, beside)
    assert re.search(r'name="budget.trials" value="many"[^>]*aria-invalid="true"', answer.text)
    assert [study.name for study in sweeper.api.studies(fresh_world.study.storage)] == ["quick"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pasted": "x ="}, "not valid TOML"),
        ({"pasted": ""}, "study"),
        ({"study.name": "x", "rest": "a ="}, "not valid TOML"),
        ({"study.name": "x", "rest": "study = 1"}, "study must be a table"),
        ({"study.name": "x", "task.use": "digit", "rest": ""}, "did you mean 'digits'"),
        ({"study.name": "x", "task.use": "/etc/x.py:y", "rest": ""}, "without a folder"),
        ({"study.name": "x", "task.use": "digits", "rest": "[tsk]"}, "tsk"),
        ({"study.name": "x", "task.use": "digits", "rest": "[task.options]\nmodl = 1"}, "modl"),
        ({"study.name": "quick", "task.use": "digits", "rest": ""}, "quick"),
        ({}, "missing"),
    ],
)
def test_invalid_form_is_explained(fresh_world: World, given: dict[str, str], words: str) -> None:
    answer = post(fresh_world.site, "/new", given)
    if "pasted" in given and not given["pasted"]:
        assert answer.status == 200  # an empty file is an empty form
    else:
        assert answer.status in (409, 422)
    assert words in text_of(answer)
    assert [study.name for study in sweeper.api.studies(fresh_world.study.storage)] == ["quick"]


def test_an_unknown_example_study_is_an_error(template: World) -> None:
    answer = template.site.page("/new?example=../../etc/passwd")
    assert answer.status == 404
    assert "digits-noisy" in text_of(answer)


# ---- what is done to a study -------------------------------------------------------------


def test_a_study_is_paused_resumed_stopped_and_deleted_with_buttons(fresh_world: World) -> None:
    fresh_world.site.ask("/v1/studies", "POST", {"toml": STUDY.replace('"quick"', '"fresh"')})
    for action, state, offered in (
        ("pause", "paused", "Resume"),
        ("resume", "unfinished", "Pause"),
        ("stop", "stopped", "Resume"),
    ):
        answer = post(fresh_world.site, f"/studies/fresh/{action}", {})
        assert (answer.status, answer.headers["Location"]) == (303, "/studies/fresh")
        seen = text_of(fresh_world.site.page("/studies/fresh"))
        assert state in seen
        assert offered in seen
    wrong = post(fresh_world.site, "/studies/fresh/delete", {"confirmed": "fresch"})
    assert (wrong.status, "the study was not deleted" in text_of(wrong)) == (422, True)
    assert post(fresh_world.site, "/studies/fresh/delete", {"confirmed": "fresh"}).status == 303
    assert fresh_world.site.page("/studies/fresh").status == 404


def test_a_finished_study_cannot_be_paused(fresh_world: World) -> None:
    assert "Pause" not in text_of(fresh_world.site.page("/studies/quick"))
    answer = post(fresh_world.site, "/studies/quick/pause", {})
    assert answer.status == 409
    assert "is already finished" in text_of(answer)


# ---- below a path, behind a proxy --------------------------------------------------------


def test_links_start_with_the_root_path(template: World) -> None:
    site = serve(
        template.study.storage,
        root_path="/sweeps",
        hosts=frozenset({"127.0.0.1", "optuna.example"}),
        dashboard_host="optuna.example",
    )
    for stripped in (False, True):  # some proxies take the path away, others leave it
        prefix = "" if stripped else "/sweeps"
        for path in ("/studies", "/studies/quick", "/studies/quick/trials", "/new", "/compare"):
            answer = site.page(prefix + path)
            assert answer.status == 200
            links = re.findall(r'(?:href|src|action|data-live)="(/[^"]*)"', answer.text)
            assert len(links) > 5
            assert all(link.startswith("/sweeps/") for link in links), links
        assert site.page(prefix + "/dashboard").status == 404
    assert "http://optuna.example/dashboard" in site.page("/sweeps/studies").text
    fresh_world = site.page("/dashboard", host="optuna.example")
    assert fresh_world.status == 200
    assert b"bundle.js" in fresh_world.body
    assert 'href="/studies"' in site.page("/studies", host="optuna.example").text


# ---- the database ------------------------------------------------------------------------


def test_newer_database_is_reported_and_not_changed(fresh_world: World) -> None:
    file = fresh_world.folder / "sweeper.db"
    with sqlite3.connect(file) as connection:
        connection.execute("update sweeper_alembic_version set version_num = '9999_future'")
    connection.close()
    before = file.read_bytes()
    site = serve(fresh_world.study.storage)
    health = site.ask("/v1/health")
    assert health.status == 503
    assert "newer" in health.json["detail"]
    for path in ("/studies", "/studies/quick", "/dashboard"):
        answer = site.page(path)
        assert answer.status == 503
        assert "newer" in text_of(answer)
    assert file.read_bytes() == before


def test_service_recovers_after_database_outage(template: World, tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    site = serve(database(folder))
    assert site.ask("/v1/health").status == 200
    file = folder / "sweeper.db"
    file.write_bytes((template.folder / "sweeper.db").read_bytes())
    assert site.ask("/v1/studies").json["total"] == 1
    file.write_text("half a disk, and what is left of it is no database at all " * 100)
    answer = site.page("/studies/quick")
    assert answer.status == 503
    assert "reconnects when the database is available again" in text_of(answer)
    assert site.ask("/v1/health").status == 503
    file.unlink()
    file.write_bytes((template.folder / "sweeper.db").read_bytes())
    assert site.ask("/v1/studies/quick").json["complete"] > 0
    assert site.ask("/v1/health").status == 200


def test_form_with_errors_keeps_its_input() -> None:
    given = {"study.name": "a b", "budget.trials": "12", "rest": "[task.options]\nx = 1"}
    with pytest.raises(SweeperError) as caught:
        parse_spec(tables_of(given))
    shown = resubmitted_form(given, caught.value)
    assert shown.values == given
    assert any("allowed" in text for text in shown.errors["study.name"])
