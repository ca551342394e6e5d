"""`sweeper serve` as a process and as a command: ports, names, sign-in, databases that fail."""

import http.client
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sweeper import service
from sweeper.report import built_in_page, built_in_pages
from tests.support.processes import ADDRESS, StartSweeper, run, serving
from tests.support.serving import LOCAL, Browser, Site, database


def test_used_port_is_rejected(start_sweeper: StartSweeper, storage: str) -> None:
    with serving(start_sweeper, url=storage) as (site, _):
        done = run("serve", "--no-browser", "--port", site.port, "--storage", storage)
        assert (done.status, done.out) == (2, "")
        assert done.err == (
            f"error: port {site.port}: Address already in use; choose another with --port\n"
        )
        assert site.ask("/v1/health").status == 200


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_service_stops_immediately_with_open_streams(
    start_sweeper: StartSweeper, storage: str, sign: int
) -> None:
    process = start_sweeper("serve", "--no-browser", "--port", 0, url=storage)
    assert process.stdout is not None
    found = ADDRESS.fullmatch(process.stdout.readline())
    assert found
    watching = http.client.HTTPConnection("127.0.0.1", Site(found[1]).port, timeout=30)
    watching.request("GET", "/events")
    assert watching.getresponse().status == 200
    os.kill(process.pid, sign)
    out, _ = process.communicate(timeout=service.serving.STOP_SECONDS + 20)
    assert "Traceback" not in out
    watching.close()


def test_service_waits_for_unreachable_database(
    start_sweeper: StartSweeper, own_server: Any
) -> None:
    own_server.stop()
    with serving(start_sweeper, url=own_server.url) as (site, _):
        health = site.ask("/v1/health")
        assert (health.status, health.json["status"]) == (503, "unavailable")
        assert "database error" in health.json["detail"]
        page = site.page("/studies")
        assert page.status == 503
        assert "reconnects when the database is available again" in page.text
        assert "sweeper_up 0" in site.ask("/metrics").text
        own_server.start()
        assert run("init", "--storage", own_server.url).status == 0
        assert site.ask("/v1/health").json["status"] == "ok"
        assert site.page("/studies").status == 200
        own_server.stop()
        assert site.ask("/v1/health").status == 503
        own_server.start()
        assert site.ask("/v1/health").status == 200


def test_two_service_processes_share_state(start_sweeper: StartSweeper, storage: str) -> None:
    """A session and a study made at one are there at the other: all state is in the database."""
    token = run("token", "create", "ann", "--role", "operator", "--storage", storage).out.strip()
    with (
        serving(start_sweeper, "--sign-in", url=storage) as (one, _),
        serving(start_sweeper, "--sign-in", url=storage) as (other, _),
    ):
        browser = Browser(one)
        assert browser.sign_in(token).status == 303
        browser.site = other
        assert browser.ask("/studies").status == 200
        form = {"csrf": browser.csrf("/studies")}
        assert browser.ask("/sign-out", "POST", form=form).status == 303
        browser.site = one
        assert browser.ask("/studies").status == 303


OWN_PAGE = """
title = "Mine"
[[panels]]
figure = "response"
heading = "What ε does"
words = "As <b>we</b> like to see it."
"""


# ---- what the command is told ------------------------------------------------------------


class Application(NamedTuple):
    """Stands where the service would be made."""

    settings: service.Settings

    def stop(self) -> None:
        """Stand in for the end."""


@pytest.fixture
def serve_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[service.Settings, dict[str, Any]]]:
    """Return what the service would have been started with."""
    found: list[tuple[service.Settings, dict[str, Any]]] = []

    class Server:
        """Stands where the socket would be taken."""

        def __init__(self, application: Any, port: int, host: str, **more: Any) -> None:
            assert more.pop("on_stop") == application.stop
            found.append((application.settings, {"port": port, "host": host, **more}))
            self.address = f"http://{host}:{port}/"

        def serve_on(self) -> None:
            """Return at once."""

    monkeypatch.setattr(service, "create_app", lambda settings: Application(settings))
    monkeypatch.setattr(service, "HttpServer", Server)
    return found


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], False),
        (["--host", "127.0.0.2"], False),
        (["--host", "::1"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", "10.0.0.7"], True),
        (["--host", "0.0.0.0", "--no-sign-in"], False),
        (["--sign-in"], True),
    ],
)
def test_sign_in_is_on_unless_on_loopback(
    serve_arguments: list[Any], options: list[str], asked: bool
) -> None:
    done = run("serve", "--no-browser", *options)
    assert done.status == 0, done.err
    assert serve_arguments[0][0].sign_in is asked
    assert ("sign-in is on; to create a token: sweeper token create NAME" in done.out) is asked
    assert ("sign-in is off" in done.err) is ("--no-sign-in" in options)


def test_serve_options_are_passed_on(serve_arguments: list[Any], tmp_path: Path) -> None:
    options = {
        "--allow-host": "Sweeps.example",
        "--root-path": "sweeps/",
        "--dashboard-host": "Optuna.example",
        "--trusted-proxy": "10.0.0.0/8",
        "--tasks": str(tmp_path),
        "--port": "80",
        "--storage": database(tmp_path),
    }
    pairs = [text for pair in options.items() for text in pair]
    done = run("serve", "--no-browser", "--dashboard-writes", *pairs)
    assert done.status == 0, done.err
    [(settings, more)] = serve_arguments
    assert settings.hosts == LOCAL | {"sweeps.example", "optuna.example"}
    assert (settings.root_path, settings.dashboard_host) == ("/sweeps", "optuna.example")
    assert settings.folders == (tmp_path,)
    assert settings.dashboard_writes is True
    assert settings.storage == database(tmp_path)
    assert more == {"port": 80, "host": "127.0.0.1", "trusted": "10.0.0.0/8"}


def test_custom_page_is_added_to_built_in_pages(serve_arguments: list[Any], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(OWN_PAGE)
    (tmp_path / "running.toml").write_text(OWN_PAGE)
    files = [tmp_path / "mine.toml", tmp_path / "running.toml"]
    done = run("serve", "--no-browser", "--page", files[0], "--page", files[1])
    assert done.status == 0, done.err
    pages = serve_arguments[0][0].pages
    assert list(pages) == [*built_in_pages(), "mine"]
    assert pages["mine"].title == pages["running"].title == "Mine"
    assert pages["schedules"] == built_in_page("schedules")


def test_browser_is_opened_by_default(
    serve_arguments: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run("serve", "--port", 81)
    run("serve", "--port", 82, "--no-browser")
    assert opened == ["http://127.0.0.1:81/"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--root-path", "/a b"], "root path '/a b'; allowed"),
        (["--root-path", "/../x"], "root path"),
        (
            ["--trusted-proxy", "proxy.example"],
            "trusted proxy 'proxy.example' is not an IP address",
        ),
        (["--trusted-proxy", "*"], "trusted proxy '*' is not an IP address"),
        (["--allow-host", "http://x"], "host 'http://x' is not a name or an IP address"),
        (["--dashboard-host", "x:80"], "host 'x:80' is not a name or an IP address"),
        (["--host", "a b"], "host 'a b' is not a name or an IP address"),
        (["--port", "70000"], "--port"),
        (["--tasks", "/no/such/folder"], "tasks: /no/such/folder is not a folder"),
        (["--page", "/no/such/page.toml"], "/no/such/page.toml: "),
    ],
)
def test_invalid_serve_option_is_a_one_line_error(
    serve_arguments: list[Any], options: list[str], words: str
) -> None:
    done = run("serve", "--no-browser", *options)
    assert done.status == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert serve_arguments == []


# ---- tokens ------------------------------------------------------------------------------


def test_tokens_are_created_listed_and_revoked(storage: str) -> None:
    assert "file not found" in run("token", "list", "--storage", storage).err
    for name, role in (("ann", "operator"), ("eve", "viewer")):
        made = run("token", "create", name, "--role", role, "--storage", storage)
        assert made.out.startswith("swp_")
    listed = run("token", "list", "--storage", storage).out
    assert re.search(r"ann .*operator.*\n.*eve .*viewer", listed)
    assert run("token", "create", "ann", "--storage", storage).status == 2
    assert run("token", "revoke", "ann", "--storage", storage).out == "revoked ann\n"
    assert "ann" not in run("token", "list", "--storage", storage).out
    run("token", "revoke", "eve", "--storage", storage)
    assert run("token", "list", "--storage", storage).out == (
        "no tokens yet; to create one: sweeper token create NAME\n"
    )
    assert run("token", "create", "x", "--role", "admin", "--storage", storage).status == 2


def test_help_imports_no_heavy_packages() -> None:
    code = "import sys, sweeper.cli.app; print({'torch', 'fastapi', 'sqlalchemy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
