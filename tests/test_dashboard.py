"""optuna-dashboard behind the filter, over real HTTP: everything reads, nothing writes."""

import json
import re
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna_dashboard._app import create_app

import sweeper
from sweeper import Study, SweeperError, api, service
from sweeper import formatting as fmt
from sweeper.report.optuna_dashboard import note
from sweeper.store.database import open_reader
from tests.support.browser import ARGUMENTS, CHROMIUM, needs_chromium
from tests.support.serving import Answer, Site, database, serve
from tests.support.studies import STUDY, copy_task


class Quick(NamedTuple):
    """A service, and the finished study behind it."""

    site: Site
    study: Study

    @property
    def ask(self) -> Callable[..., Answer]:
        return self.site.ask

    @property
    def port(self) -> int:
        return self.site.port

    def content(self) -> list[str]:
        """Return all that the database holds, as SQL."""
        store = open_reader(self.study.storage)
        try:
            connection: Any = store.engine.raw_connection().driver_connection
            return list(connection.iterdump())
        finally:
            store.close()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    folder = tmp_path_factory.mktemp("dashboard")
    copy_task(folder)
    (folder / "quick.toml").write_text(STUDY)
    storage = database(folder)
    study = sweeper.launch(folder / "quick.toml", workers=0, storage=storage, results=folder)
    return Quick(serve(storage), study)


# ---- what can be read --------------------------------------------------------------------


def test_dashboard_serves_studies_on_loopback(quick: Quick) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", quick.site.address)
    first = quick.ask("/")
    assert first.status == 307
    assert first.headers["Location"] == "/studies"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/dashboard", "text/html"),
        ("/dashboard/studies/1", "text/html"),
        ("/static/bundle.js", "javascript"),
        ("/favicon.ico", "image"),
        ("/api/meta", "application/json"),
        ("/api/studies", "application/json"),
        ("/api/studies/1", "application/json"),
        ("/api/studies/1?after=3", "application/json"),
        ("/api/studies/1/param_importances", "application/json"),
        ("/api/studies/1/plot/contour", "application/json"),
        ("/csv/1", "text/csv"),
    ],
)
def test_dashboard_read_routes_exist(quick: Quick, path: str, kind: str) -> None:
    answer = quick.ask(path)
    assert answer.status == 200, answer.body
    assert kind in answer.headers["Content-Type"]
    assert answer.body


def test_head_requests_are_allowed(quick: Quick) -> None:
    assert quick.ask("/dashboard", "HEAD").status == 200


def test_dashboard_shows_trials_and_note(quick: Quick) -> None:
    [listed] = json.loads(quick.ask("/api/studies").body)["study_summaries"]
    assert listed["study_name"] == "quick"
    detail = json.loads(quick.ask("/api/studies/1").body)
    assert [trial["number"] for trial in detail["trials"]] == list(range(12))
    best = quick.study.best
    assert best is not None
    assert [trial["number"] for trial in detail["best_trials"]] == [best["number"]]
    assert detail["note"]["body"] == note(quick.study.snapshot())
    assert fmt.nll(best["value"]) in detail["note"]["body"]


def test_dashboard_shows_report_figures(quick: Quick) -> None:
    detail = json.loads(quick.ask("/api/studies/1").body)
    figures = {one["id"]: one["graph_object"] for one in detail["plotly_graph_objects"]}
    assert sorted(figures) == ["schedules", "trade_off"]
    for name, text in figures.items():
        assert len(text) < 12_000, name
        figure = json.loads(text)
        assert figure["layout"]["title"]["text"]
        assert any(trace.get("x") for trace in figure["data"])
        assert not any("text" in trace for trace in figure["data"])
    shown = {trace.get("name") for trace in json.loads(figures["schedules"])["data"]}
    assert {"ε = 0 (baseline)", "cosine"} <= shown


def test_worker_writes_dashboard_note_and_figures(tmp_path: Path) -> None:
    """A study that no launch waits for, as one from the browser: its last worker shows it."""
    copy_task(tmp_path)
    storage = database(tmp_path)
    spec = tomllib.loads(STUDY.replace("quick.py:train", "quick.py:with_test_split"))
    api.submit(spec, [tmp_path], storage=storage)
    assert (
        api.run_worker(api.WorkerOptions("quick", tmp_path), storage)[0] == "the study is finished"
    )
    detail = serve(storage).ask("/api/studies/1").json
    assert "Verdict:" in detail["note"]["body"]
    ids = sorted(one["id"] for one in detail["plotly_graph_objects"])
    assert ids == ["forest", "schedules", "trade_off"]


def test_dashboard_reads_do_not_change_the_database(quick: Quick) -> None:
    before = quick.content()
    for path in ("/dashboard", "/api/studies", "/api/studies/1", "/csv/1"):
        quick.ask(path)
    assert quick.content() == before


# ---- what cannot be written --------------------------------------------------------------

WRITING = sorted(
    {
        (route.method, re.sub(r"<[^>]*>", "1", route.rule))
        for route in create_app(optuna.storages.InMemoryStorage()).routes
        if route.method != "GET"
    }
)
BODIES: list[dict[str, Any]] = [
    {"state": "Complete", "values": [-99]},
    {"study_name": "taken", "directions": ["minimize"]},
    {"dst_study_name": "renamed"},
    {"version": 99, "body": "overwritten", "user_attrs": {"a": 1}},
]


def test_the_writing_routes_are_known() -> None:
    assert len(WRITING) >= 15
    assert ("DELETE", "/api/studies/1") in WRITING


@pytest.mark.parametrize(("method", "path"), WRITING)
def test_a_writing_route_is_closed(quick: Quick, method: str, path: str) -> None:
    before = quick.content()
    for body in BODIES:
        answer = quick.ask(path, method, body)
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"
    assert quick.content() == before


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "MERGE"])
def test_any_other_method_is_refused_everywhere(quick: Quick, method: str) -> None:
    for path in ("/", "/dashboard", "/api/studies", "/nowhere"):
        assert quick.ask(path, method).status in (405, 501)


def test_method_override_is_ignored(quick: Quick) -> None:
    before = quick.content()
    quick.ask("/api/studies/1?_method=DELETE")
    headers = {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE"}
    assert quick.ask("/api/studies/1", headers=headers).status == 200
    assert quick.content() == before


def test_the_storage_itself_refuses_to_write(quick: Quick) -> None:
    store = open_reader(quick.study.storage)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        optuna.delete_study(study_name="quick", storage=store.storage)
    store.close()
    assert len(quick.study.frame()) == 12


# ---- who may ask, and for what -----------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "localhost:{port}", "[::1]:8"])
def test_own_host_names_are_accepted(quick: Quick, host: str) -> None:
    assert quick.ask("/api/meta", host=host.format(port=quick.port)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "evil.example:127.0.0.1",
        "localhost@evil.example",
        "0.0.0.0",
        "127.0.0.2",
        " ",
    ],
)
def test_unknown_host_gets_421(quick: Quick, host: str) -> None:
    answer = quick.ask("/api/studies", host=host.format(port=quick.port))
    assert answer.status == 421
    assert b"quick" not in answer.body


def test_rejected_host_error_names_the_option(quick: Quick) -> None:
    assert b"sweeper serve --allow-host" in quick.ask("/", host="evil.example").body
    assert b"read-only" in quick.ask("/api/studies/1", "DELETE").body


LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


@pytest.mark.parametrize(
    ("host", "others", "names"),
    [
        ("127.0.0.1", [], set()),
        ("0.0.0.0", [], set()),
        ("::", [], set()),
        ("[0:0::0]", [], set()),
        ("10.0.0.7", [], {"10.0.0.7"}),
        ("FD00::7", [], {"[fd00::7]"}),
        ("gpu1", ["Sweeps.Example.org", "fd00::7"], {"gpu1", "sweeps.example.org", "[fd00::7]"}),
    ],
)
def test_accepted_host_names(host: str, others: list[str], names: set[str]) -> None:
    assert service.host_names(host, others) == LOOPBACK | names


@pytest.mark.parametrize(
    "name", ["", "*", "http://gpu1", "gpu1:80", "gpu1/", "a b", "a..b", "[::1]:80", "x" * 64]
)
def test_invalid_host_name_is_rejected(name: str) -> None:
    for host, others in ((name, []), ("127.0.0.1", [name])):
        with pytest.raises(SweeperError, match=r"^host '.*is not a name or an IP address"):
            service.host_names(host, others)


def test_added_host_name_is_case_insensitive(quick: Quick) -> None:
    names = service.host_names("0.0.0.0", ["sweeps.example.org"])
    site = serve(quick.study.storage, hosts=names)
    assert site.ask("/dashboard", host="Sweeps.example.ORG:80").status == 200
    assert site.ask("/dashboard", host="evil.example").status == 421


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/apix",
        "/api2/studies",
        "/incompatible-rdb-schema",
        "//api/studies/../..//etc/passwd",
        "/static/../api/studies",
        "/static/..%2f..%2f_app.py",
        "/static/%2e%2e/_app.py",
        "/static/..",
        "/static/.",
        "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/..\\..\\_app.py",
        "/api/./studies",
        "/api//studies",
        "/%2e%2e/etc/passwd",
        "/dashboard/../nowhere",
        "/static/a%0ab",
        "/static/no-such-file.js",
    ],
)
def test_unknown_paths_get_404(quick: Quick, path: str) -> None:
    answer = quick.ask(path)
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert b"import " not in answer.body


# ---- the command -------------------------------------------------------------------------


def test_used_port_is_a_one_line_error(quick: Quick) -> None:
    with pytest.raises(SweeperError, match=rf"^port {quick.port}: .*choose another with --port$"):
        service.HttpServer(nothing, quick.port)


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stand in for an application where none is asked."""


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_foreign_bind_address_is_a_one_line_error(quick: Quick, host: str) -> None:
    with pytest.raises(SweeperError, match=rf"^host {host}: .*choose another with --host$"):
        service.HttpServer(nothing, 0, host)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_printed_address_is_reachable(host: str, address: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    server = service.HttpServer(nothing, 0, host)
    assert re.fullmatch(rf"http://{re.escape(address)}:\d+/", server.address)
    port = int(server.address[:-1].rsplit(":", 1)[1])
    socket.create_connection((address.strip("[]"), port)).close()
    server.stop()
    server.serve_on()


def test_responses_are_not_buffered() -> None:
    """asyncio turns Nagle's algorithm off for sockets that say that they are TCP, and no others."""
    server = service.HttpServer(nothing, 0)
    port = int(server.address[:-1].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)), server._bound:
        accepted, _ = server._bound.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


# ---- the note ----------------------------------------------------------------------------


def test_the_note_of_a_study_without_a_result(quick: Quick) -> None:
    study = quick.study.snapshot()
    study.frame["state"] = "failed"
    assert note(study) == "No trial has finished yet."


def test_the_note_of_a_study_whose_baseline_failed(quick: Quick) -> None:
    study = quick.study.snapshot()
    study.frame.loc[0, "state"] = "failed"
    output = note(study)
    assert output.startswith("### No recommendation yet")
    assert "Lowest in the search: validation NLL" in output
    assert "This value is optimistic" in output
    assert "ε = 0 has no result yet" in output


def test_note_reports_no_benefit(quick: Quick) -> None:
    study = quick.study.snapshot()
    study.frame.loc[study.frame["number"] > 0, "value"] += 10
    output = note(study)
    assert output.startswith("### No recommendation yet")
    assert re.search(r"Lowest in the search: validation NLL \S+ with ε = 0 \(trial 0\)", output)
    assert "| ε = 0 | " in output


# ---- a browser ---------------------------------------------------------------------------


def refused(request: Any) -> list[str]:
    """Return the address of a request that failed; not of one that ended as the page was left."""
    return [] if "ABORTED" in request.failure else [request.url]


@pytest.mark.browser
@needs_chromium
def test_the_studys_page_in_a_browser(quick: Quick, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    failed: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("requestfailed", lambda request: failed.extend(refused(request)))
        page.on(
            "response",
            lambda response: failed.append(response.url) if response.status >= 400 else None,
        )
        page.goto(f"{quick.site.address}dashboard/studies/1")
        expect(page.get_by_text("quick").first).to_be_visible(timeout=30_000)
        page.goto(f"{quick.site.address}dashboard/studies/1/note")
        expect(page.get_by_text("Lowest in the search").first).to_be_visible(timeout=30_000)
        expect(page.get_by_text("This value is optimistic").first).to_be_visible()
        page.screenshot(path=tmp_path / "page.png")
        browser.close()
    assert [url for url in failed if url.startswith(quick.site.address)] == []
