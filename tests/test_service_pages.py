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
from sweeper.report import Page, ready_page, ready_pages
from sweeper.report.page import Panel
from sweeper.service.pages import figure_cache
from sweeper.service.pages.forms import filled, form, refilled, tables_of
from sweeper.study.load import parse_spec, parse_toml
from sweeper.study.ready import ready_studies
from tests.support.service_world import World, copied
from tests.support.serving import Answer, Site, database, serve
from tests.support.studies import STUDY


@pytest.fixture
def own(template: World, tmp_path: Path) -> World:
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


def test_an_empty_database_says_what_to_do(tmp_path: Path) -> None:
    seen = text_of(serve(database(tmp_path)).page("/studies"))
    assert "No study has been launched in this database yet" in seen
    assert "sweeper launch digits" in seen
    assert not (tmp_path / "sweeper.db").exists()  # looking makes nothing


def test_studies_are_listed_with_what_they_found(template: World) -> None:
    seen = text_of(template.site.page("/studies"))
    progress = template.study.progress()
    assert progress.best is not None
    assert f"quick finished 12 of 12 trials confirmation {progress.confirmed}" in seen
    assert f"{progress.best:.3f}" in seen


def test_a_search_without_a_find_says_so(template: World) -> None:
    seen = text_of(template.site.page("/studies?search=zebra"))
    assert "No study has “zebra” in its name. Show all studies" in seen


@pytest.mark.slow
def test_hundreds_of_studies_are_paged(own: World) -> None:
    for index in range(60):
        spec = STUDY.replace('"quick"', f'"s{index:02d}"').replace("trials = 12", "trials = 2")
        assert own.site.ask("/v1/studies", "POST", {"toml": spec}).status == 201
    first = own.site.page("/studies").text
    assert re.findall(r'studies/(s\d\d)"', first) == [f"s{n:02d}" for n in range(59, 34, -1)]
    assert "61 studies" in first
    last = own.site.page("/studies?page=3").text
    assert re.findall(r'studies/(\w+)"', last)[-1] == "quick"
    assert 'rel="next"' not in last
    assert "There are no studies on page 9" in text_of(own.site.page("/studies?page=9"))


# ---- one study ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ready_pages()))
def test_every_ready_page_is_shown_with_its_figures(template: World, name: str) -> None:
    answer = template.site.page(f"/studies/quick?shown={name}")
    assert answer.status == 200
    page = ready_page(name).without("trials")
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
    assert verdict.word in text_of(template.site.page("/studies/quick?shown=trade-offs")).lower()


def test_a_figures_page_that_there_is_not_is_named(template: World) -> None:
    answer = template.site.page("/studies/quick?shown=schedule")
    assert answer.status == 404
    seen = text_of(answer)
    assert "no page 'schedule' (did you mean 'schedules'?)" in seen
    assert "trade-offs" in seen


@pytest.mark.parametrize("path", ["", "/trials", "/trials/0", "/spec"])
def test_a_study_that_there_is_not_is_a_page_that_says_so(template: World, path: str) -> None:
    answer = template.site.page(f"/studies/quikc{path}")
    assert answer.status == 404
    assert "no study 'quikc'" in text_of(answer)
    assert "quick" in text_of(answer)


def test_the_table_is_sorted_filtered_and_paged_by_links(own: World) -> None:
    frame = own.study.frame()
    seen = own.site.page("/studies/quick/trials?sort=nll&order=descending").text
    numbers = [int(one) for one in re.findall(r'/trials/(\d+)"', seen)]
    ordered = frame.sort_values("nll", ascending=False)
    assert numbers == ordered["number"].tolist()
    assert 'aria-sort="descending"' in seen
    assert "sort=nll&amp;order=ascending" in seen
    complete = own.site.page("/studies/quick/trials?state=complete&schedule=cosine")
    wanted = frame[(frame["state"] == "complete") & (frame["schedule"] == "cosine")]["number"]
    found = [int(one) for one in re.findall(r'/trials/(\d+)"', complete.text)]
    assert sorted(found) == sorted(wanted)
    none = own.site.page("/studies/quick/trials?state=running")
    assert "No trial is like that. Show all trials" in text_of(none)
    wrong = own.site.page("/studies/quick/trials?sort=colour")
    assert (wrong.status, "sort: 'colour'; allowed: number" in text_of(wrong)) == (422, True)


def test_a_trial_has_curves_parameters_output_and_its_replay(template: World) -> None:
    best = template.study.best
    assert best is not None
    seen = text_of(template.site.page(f"/studies/quick/trials/{best['number']}"))
    assert f"sweeper replay quick {best['number']}" in seen
    assert "quick training begins" in seen
    assert "extra" not in seen
    assert f"{best['nll']:.3f}" in seen
    assert "Every evaluation (8)" in seen


def test_the_study_file_is_one_that_can_be_launched_again(template: World) -> None:
    page = template.site.page("/studies/quick/spec").text
    [text] = re.findall(r"<pre[^>]*>(.*?)</pre>", page, flags=re.DOTALL)
    assert parse_spec(parse_toml(unescape(text))) == template.study.spec


def test_events_bring_the_numbers_and_the_figures_version(own: World) -> None:
    news = next(news for news in events(own.site, "/studies/quick/events?shown=running"))
    assert "12 of 12 trials" in news["html"]["progress"]
    versions = (news["version"] for news in events(own.site, "/studies/quick/events?shown=running"))
    version = next(filter(None, versions))  # "" while they are being drawn
    page = own.site.page("/studies/quick?shown=running").text
    assert f'data-version="{version}"' in page


def events(site: Site, path: str) -> Iterator[dict[str, Any]]:
    """Listen to a page's events."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode())
        got = line.makefile("rb")
        head = list(iter(got.readline, b"\r\n"))
        assert any(b"text/event-stream" in header for header in head)
        for said in got:
            if said.startswith(b"data: "):
                yield json.loads(said.removeprefix(b"data: "))


@pytest.mark.slow
def test_figures_are_drawn_anew_when_a_study_has_changed_and_not_before(own: World) -> None:
    def version(path: str = "/studies/fresh?shown=running") -> str:
        [found] = re.findall(r'data-version="(\w+)"', own.site.page(path).text)
        return str(found)

    own.site.ask("/v1/studies", "POST", {"toml": STUDY.replace('"quick"', '"fresh"')})
    before = version()
    assert version() == before
    assert version("/studies/fresh?shown=schedules") != before
    terms = sweeper.api.Terms("fresh", own.folder, trials=6)
    sweeper.api.run_worker(terms, own.study.storage)
    deadline = time.monotonic() + 30
    while version() == before:
        assert time.monotonic() < deadline
    assert "trial" in text_of(own.site.page("/studies/fresh?shown=running"))


def test_a_page_is_fetched_again_as_the_one_that_it_was(template: World) -> None:
    page = template.site.page("/studies/quick").text
    assert 'data-page="/studies/quick?shown=trade-offs"' in page
    assert 'data-live="/studies/quick/events?shown=trade-offs"' in page


@pytest.mark.slow
def test_figures_of_a_finished_study_are_drawn_without_waiting_their_turn(
    own: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure_cache, "SECONDS", 1e9)

    def version() -> str:
        page = own.site.page("/studies/fresh?shown=running").text
        [found] = re.findall(r'data-version="(\w+)"', page)
        return str(found)

    own.site.ask("/v1/studies", "POST", {"toml": STUDY.replace('"quick"', '"fresh"')})
    before = version()
    sweeper.api.run_worker(sweeper.api.Terms("fresh", own.folder), own.study.storage)
    deadline = time.monotonic() + 60
    while version() == before:
        assert time.monotonic() < deadline
    assert own.site.ask("/v1/studies/fresh").json["state"] == "finished"


def test_a_page_of_ones_own_is_a_tab_with_its_words(own: World) -> None:
    page = Page(
        title="Mine",
        panels=(Panel(figure="response", heading="What ε does", words="As <b>we</b> like it."),),
    )
    site = serve(own.study.storage, pages={**ready_pages(), "my & page": page})
    shown = site.page("/studies/quick?shown=my+%26+page")
    assert 'href="/studies/quick?shown=my+%26+page" aria-current="page"' in shown.text
    assert "What ε does" in text_of(shown)
    assert "As &lt;b&gt;we&lt;/b&gt; like it." in shown.text
    assert shown.text.count('class="plot"') == 1


def test_events_of_a_page_that_there_is_not_are_refused(template: World) -> None:
    answer = template.site.ask("/studies/quick/events?shown=nope")
    assert said_in(answer, 404, "no page 'nope'")
    assert said_in(template.site.ask("/studies/nope/events"), 404, "no study 'nope'")


def said_in(answer: Answer, status: int, words: str) -> bool:
    return answer.status == status and words in answer.text


# ---- comparing ---------------------------------------------------------------------------


def test_trials_are_compared_cell_by_cell(template: World) -> None:
    answer = template.site.page("/compare?item=quick/0&item=quick/3")
    frame = template.study.frame().set_index("number")
    seen = text_of(answer)
    assert f"NLL {frame['nll'][0]:.3f} {frame['nll'][3]:.3f}" in seen
    assert "schedule fixed" in seen


def test_studies_are_compared_with_what_differs_in_their_files(own: World) -> None:
    text = STUDY.replace('"quick"', '"other"').replace("trials = 12", "trials = 20")
    own.site.ask("/v1/studies", "POST", {"toml": text})
    seen = text_of(own.site.page("/compare?item=quick&item=other"))
    assert "budget.trials 12 20" in seen
    assert "trials ended 12 of 12 0 of 20" in seen
    assert "study.seed" not in seen  # the same in both


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 200, "Name two or more"),
        ("item=quick", 200, "Name two or more"),
        ("item=quick&item=nope", 404, "no study 'nope'"),
        ("item=quick&item=quick/1", 422, "studies and trials do not compare"),
        ("item=quick/x&item=quick/1", 422, "'quick/x'; allowed"),
        ("item=quick/99&item=quick/1", 404, "no trial 99"),
        ("&".join(["item=quick"] * 5), 422, "allowed: 2 to 4"),
        ("&".join(["item=quick"] * 9), 422, "at most"),
    ],
)
def test_what_cannot_be_compared_is_said(
    template: World, query: str, status: int, words: str
) -> None:
    answer = template.site.page(f"/compare?{query}")
    assert answer.status == status
    assert words in text_of(answer)


# ---- a new study -------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ready_studies()))
def test_a_form_holds_the_whole_of_a_study(name: str) -> None:
    """What a ready study becomes in the form, and back, is the study."""
    tables = parse_toml(ready_studies()[name].read_text())
    back = tables_of(filled(tables).values)
    assert parse_spec(back) == parse_spec(tables)


def test_the_form_has_a_field_for_every_number_of_the_schema() -> None:
    keys = {field.key for table in form() for field in table.fields}
    assert {"budget.trials", "space.epsilon.high", "sampler.name", "confirm.replicates"} <= keys
    assert len(keys) > 30


def test_a_ready_study_is_changed_and_launched(own: World) -> None:
    page = own.site.page("/new?ready=digits").text
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
    answer = post(own.site, "/new", {key: unescape(value) for key, value in sent.items()})
    assert (answer.status, answer.headers["Location"]) == (303, "/studies/mine")
    ready = parse_spec(parse_toml(ready_studies()["digits"].read_text()))
    mine = Study("mine", own.study.storage).spec
    assert mine.budget.trials == 9
    assert mine.space == ready.space
    assert mine.sampler == ready.sampler


def test_three_errors_stand_beside_their_keys_and_nothing_is_launched(own: World) -> None:
    answer = post(
        own.site,
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
    assert "3 things are not right yet; nothing was launched" in text_of(answer)
    for key, words in (
        ("study.name", "'no good'; allowed"),
        ("budget.trials", "'many'; allowed"),
        ("space.epsilon", "epsilon lies in [0, 1]"),
    ):
        beside = re.findall(
            rf'id="w-{re.escape(key)}[^"]*">(.*?)</div>', answer.text, flags=re.DOTALL
        )
        assert any(words in unescape(one) for one in beside), (key, beside)
    assert re.search(r'name="budget.trials" value="many"[^>]*aria-invalid="true"', answer.text)
    assert [study.name for study in sweeper.api.studies(own.study.storage)] == ["quick"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pasted": "x ="}, "not valid TOML"),
        ({"pasted": ""}, "study"),
        ({"study.name": "x", "rest": "a ="}, "not valid TOML"),
        ({"study.name": "x", "rest": "study = 1"}, "study has to be a table"),
        ({"study.name": "x", "task.use": "digit", "rest": ""}, "did you mean 'digits'"),
        ({"study.name": "x", "task.use": "/etc/x.py:y", "rest": ""}, "without a folder"),
        ({"study.name": "x", "task.use": "digits", "rest": "[tsk]"}, "tsk"),
        ({"study.name": "x", "task.use": "digits", "rest": "[task.options]\nmodl = 1"}, "modl"),
        ({"study.name": "quick", "task.use": "digits", "rest": ""}, "quick"),
        ({}, "missing"),
    ],
)
def test_a_wrong_form_says_what_is_wrong(own: World, given: dict[str, str], words: str) -> None:
    answer = post(own.site, "/new", given)
    if "pasted" in given and not given["pasted"]:
        assert answer.status == 200  # an empty file is an empty form
    else:
        assert answer.status in (409, 422)
    assert words in text_of(answer)
    assert [study.name for study in sweeper.api.studies(own.study.storage)] == ["quick"]


def test_a_ready_study_that_there_is_not_is_named(template: World) -> None:
    answer = template.site.page("/new?ready=../../etc/passwd")
    assert answer.status == 404
    assert "digits-noisy" in text_of(answer)


# ---- what is done to a study -------------------------------------------------------------


def test_a_study_is_paused_resumed_stopped_and_deleted_with_buttons(own: World) -> None:
    own.site.ask("/v1/studies", "POST", {"toml": STUDY.replace('"quick"', '"fresh"')})
    for action, state, offered in (
        ("pause", "paused", "Resume"),
        ("resume", "unfinished", "Pause"),
        ("stop", "stopped", "Resume"),
    ):
        answer = post(own.site, f"/studies/fresh/{action}", {})
        assert (answer.status, answer.headers["Location"]) == (303, "/studies/fresh")
        seen = text_of(own.site.page("/studies/fresh"))
        assert state in seen
        assert offered in seen
    wrong = post(own.site, "/studies/fresh/delete", {"confirmed": "fresch"})
    assert (wrong.status, "type the study's name" in text_of(wrong)) == (422, True)
    assert post(own.site, "/studies/fresh/delete", {"confirmed": "fresh"}).status == 303
    assert own.site.page("/studies/fresh").status == 404


def test_a_finished_study_cannot_be_paused(own: World) -> None:
    assert "Pause" not in text_of(own.site.page("/studies/quick"))
    answer = post(own.site, "/studies/quick/pause", {})
    assert answer.status == 409
    assert "is finished" in text_of(answer)


# ---- below a path, behind a proxy --------------------------------------------------------


def test_below_a_path_every_link_begins_with_it(template: World) -> None:
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
    own = site.page("/dashboard", host="optuna.example")
    assert own.status == 200
    assert b"bundle.js" in own.body
    assert 'href="/studies"' in site.page("/studies", host="optuna.example").text


# ---- the database ------------------------------------------------------------------------


def test_a_database_of_a_newer_version_is_said_and_not_touched(own: World) -> None:
    file = own.folder / "sweeper.db"
    with sqlite3.connect(file) as connection:
        connection.execute("update sweeper_alembic_version set version_num = '9999_future'")
    connection.close()
    before = file.read_bytes()
    site = serve(own.study.storage)
    health = site.ask("/v1/health")
    assert health.status == 503
    assert "newer" in health.json["detail"]
    for path in ("/studies", "/studies/quick", "/dashboard"):
        answer = site.page(path)
        assert answer.status == 503
        assert "newer" in text_of(answer)
    assert file.read_bytes() == before


def test_a_database_that_comes_and_goes_is_served_again(template: World, tmp_path: Path) -> None:
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
    assert "This page works again by itself" in text_of(answer)
    assert site.ask("/v1/health").status == 503
    file.unlink()
    file.write_bytes((template.folder / "sweeper.db").read_bytes())
    assert site.ask("/v1/studies/quick").json["complete"] > 0
    assert site.ask("/v1/health").status == 200


def test_the_form_of_a_bad_study_keeps_what_was_typed() -> None:
    given = {"study.name": "a b", "budget.trials": "12", "rest": "[task.options]\nx = 1"}
    with pytest.raises(SweeperError) as caught:
        parse_spec(tables_of(given))
    shown = refilled(given, caught.value)
    assert shown.values == given
    assert any("allowed" in text for text in shown.errors["study.name"])
