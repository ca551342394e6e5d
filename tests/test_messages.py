"""The text of commands, pages and the report: compared with a recorded file.

`SWEEPER_RECORD=1 pytest tests/test_messages.py` writes the file again. Read its difference: each
sentence has to be clear to somebody who has not read the code.
"""

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from typer.main import get_command

from sweeper.cli.app import app
from sweeper.report import built_in_pages
from sweeper.report.optuna_dashboard import note
from sweeper.report.page import render
from sweeper.report.report_input import prepare
from sweeper.report.summary import summarize
from sweeper.store.database import open_writer
from sweeper.store.studies import get_study
from sweeper.store.tickets import claim
from sweeper.worker.identity import worker_name
from tests.support.messages import environment, page_text, scrubbed, without_progress
from tests.support.processes import process, run
from tests.support.report_frames import make_report
from tests.support.report_pages import ODD
from tests.support.service_world import World
from tests.support.serving import Browser, Site, database, serve
from tests.support.studies import copy_task

RECORDED: Final = Path(__file__).parent / "recorded" / "messages.txt"
RECORD: Final = "SWEEPER_RECORD=1 pytest tests/test_messages.py"

TINY: Final = """
[study]
name = "tiny"
[task]
use = "quick.py:with_test_split"
[space]
schedule = ["fixed", "cosine"]
[budget]
trials = 6
[confirm]
replicates = 3
"""
FAILING: Final = """
[study]
name = "failing"
[task]
use = "quick.py:broken"
[budget]
trials = 6
"""
STUDIES: Final = {
    "tiny": TINY,
    "failing": FAILING,
    "waiting": FAILING.replace("failing", "waiting"),
    "typo": FAILING.replace("trials = 6", "trails = 6"),
    "search": FAILING.replace("failing", "search").replace("broken", "diverge"),
}


class Text(NamedTuple):
    """What a command printed or a page shows, below a heading."""

    heading: str
    text: str

    def __str__(self) -> str:
        return f"==== {self.heading}\n{self.text}\n"


class Shell:
    """Runs commands in the current folder and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: object, own_process: bool = False) -> Text:
        """Run a command, in this process or, with the log of its worker, in its own."""
        if own_process:
            done = process(
                *arguments, cwd=self.folder, env=environment(database(self.folder)), timeout=300
            )
            out, err, status = done.stdout, done.stderr, done.returncode
        else:
            status, out, err = run(*arguments)
        text = without_progress(out)
        text += f"\n-- stderr\n{without_progress(err)}" if err.strip() else ""
        text += f"\n-- exit status {status}" if status else ""
        command = " ".join(("sweeper", *map(str, arguments)))
        return Text(command, scrubbed(text, self.folder))


def helps() -> Iterator[Text]:
    """Yield the help of every command, as a terminal with 80 columns shows it."""
    root = get_command(app)
    names = [(), *((name,) for name in root.commands)]  # type: ignore[attr-defined]
    names += [("import", name) for name in root.commands["import"].commands]  # type: ignore[attr-defined]
    names += [("token", name) for name in root.commands["token"].commands]  # type: ignore[attr-defined]
    for name in names:
        lines = run(*name, "--help").out.strip().splitlines()
        yield Text(" ".join(("sweeper", *name, "--help")), "\n".join(map(str.rstrip, lines)))


def launches(folder: Path) -> Iterator[Text]:
    """Yield the output of launches that succeed, fail and are refused, and of other commands."""
    copy_task(folder)
    for name, text in STUDIES.items():
        (folder / f"{name}.toml").write_text(text)
    shell = Shell(folder)
    yield shell("status")
    yield shell("token", "list")
    yield shell("launch", "tiny.toml", "--dry-run")
    yield shell("launch", "tiny.toml", "--workers", 1, own_process=True)
    yield shell("launch", "tiny.toml", "--workers", 1)
    yield shell("launch", "failing.toml", "--no-check", "--workers", 1, own_process=True)
    for arguments in _QUESTIONS + _REFUSED:
        yield shell(*arguments)


_QUESTIONS: Final[tuple[tuple[object, ...], ...]] = (
    ("status",),
    ("status", "tiny"),
    ("status", "failing"),
    ("trials", "tiny"),
    ("trials", "failing"),
    ("logs", "failing", 0),
    ("replay", "tiny", 1),
    ("export", "tiny", "--format", "python"),
    ("report", "tiny"),
    ("verify", "results/tiny/best.json", "--replicates", 2),
    ("worker", "tiny", "--slots", 0),
    ("launch", "search.toml", "--workers", 0, "--no-confirm"),
    ("launch", "waiting.toml", "--detach"),
    ("status", "waiting"),
    ("trials", "waiting"),
    ("pause", "waiting"),
    ("worker", "waiting", "--slots", 0, "--idle", 0),
    ("resume", "waiting"),
    ("stop", "waiting"),
    ("backup", "copy.db"),
    ("init",),
    ("studies",),
    ("token", "create", "ann", "--role", "operator"),
    ("token", "list"),
    ("token", "revoke", "ann"),
)
_REFUSED: Final[tuple[tuple[object, ...], ...]] = (
    ("launch", "typo.toml"),
    ("launch", "tinny.toml"),
    ("launch", "digitz"),
    ("launch", "tiny.toml", "--workres", 1),
    ("launch", "tiny.toml", "--trials", 0),
    ("launch", "tiny.toml", "--pack", "many"),
    ("launch", "tiny.toml", "--executor", "slrum"),
    ("launch", "tiny.toml", "--set", "partition"),
    ("launch", "tiny.toml", "--storage", "oracle://host/db"),
    ("lunch",),
    ("status", "tinny"),
    ("logs", "tiny", 64),
    ("report", "tiny", "--page", "overviews"),
    ("export", "failing"),
    ("confirm", "failing"),
    ("confirm", "tiny"),
    ("retry", "tiny"),
    ("pause", "tiny"),
    ("pause", "failing"),
    ("verify", "tiny.toml"),
    ("token", "revoke", "ann"),
    ("backup", "copy.db"),
)


def pages(world: World) -> Iterator[Text]:
    """Yield the text of every page of the service."""
    paths = (
        "/studies",
        "/studies?search=zebra",
        "/studies?page=9",
        *(f"/studies/quick?shown={name}" for name in built_in_pages()),
        "/studies/quick/trials",
        "/studies/quick/trials?state=failed",
        "/studies/quick/trials/1",
        "/studies/quick/trials/64",
        "/studies/quick/spec",
        "/studies/quikc",
        "/compare",
        "/compare?item=quick/0&item=quick/1",
        "/compare?item=quick&item=quick",
        "/compare?item=quick&item=quick/1",
        "/new",
        "/new?example=digits",
        "/new?example=digit",
        "/nowhere",
    )
    yield from _read(serve(world.study.storage, folders=(world.folder,)), paths, world.folder)
    form = {"confirmed": "other"}
    yield _sent(world, "/studies/quick/delete", form)
    yield _sent(world, "/studies/quick/pause", {})
    yield _sent(world, "/new", {"pasted": "[study"})
    yield _sent(world, "/new", {"pasted": TINY, "csrf": "0"})


def working(folder: Path) -> Iterator[Text]:
    """Yield what is shown about a study with a worker."""
    run("resume", "waiting")
    store = open_writer(database(folder))
    claim(store, get_study(store, "waiting").id, worker_name(slots=2), below=1)
    store.close()
    yield Shell(folder)("status", "waiting")
    yield from _read(serve(database(folder)), ("/studies/waiting",), folder)


def failed_pages(folder: Path) -> Iterator[Text]:
    """Yield the pages of studies without a verdict: failed, not finished, not confirmed."""
    paths = (
        "/studies",
        "/studies/failing",
        "/studies/failing/trials",
        "/studies/failing/trials/0",
        "/studies/waiting",
        "/studies/search",
    )
    yield from _read(serve(database(folder)), paths, folder)
    (folder / "empty").mkdir()
    yield from _read(serve(database(folder / "empty")), ("/studies",), folder)


def sign_in_pages(world: World, folder: Path) -> Iterator[Text]:
    """Yield the pages of a service that asks for a token."""
    run("token", "create", "viewer", "--storage", database(folder))
    site = serve(database(folder), sign_in=True)
    browser = Browser(site)
    yield Text("page /sign-in", scrubbed(page_text(browser.ask("/sign-in").text), folder))
    refused = browser.sign_in("swp_nothing")
    yield Text("page /sign-in, wrong token", scrubbed(page_text(refused.text), folder))
    token = run("token", "create", "ann", "--storage", database(folder)).out.strip()
    assert browser.sign_in(token).status == 303
    for path in ("/studies", "/new"):
        text = page_text(browser.ask(path).text)
        yield Text(f"page {path}, a viewer", scrubbed(text, folder))


def _read(site: Site, paths: Iterable[str], folder: Path) -> Iterator[Text]:
    for path in paths:
        answer = site.page_with_figures(path)
        yield Text(f"page {path} ({answer.status})", scrubbed(page_text(answer.text), folder))


def _sent(world: World, path: str, form: dict[str, str]) -> Text:
    browser = Browser(world.site)
    answer = browser.ask(path, "POST", form={"csrf": browser.csrf("/new"), **form})
    text = scrubbed(page_text(answer.text), world.folder)
    return Text(f"page {path}, after {', '.join(form) or 'a click'} ({answer.status})", text)


def reports(world: World, folder: Path) -> Iterator[Text]:
    """Yield the text of the report of a confirmed study, and of studies in unusual states."""
    path = folder / "report.html"
    world.study.report(path)
    yield Text("report", scrubbed(page_text(path.read_text()), folder))
    yield Text("note in optuna-dashboard", scrubbed(note(world.study.snapshot()), folder))
    search_only = render(make_report())
    yield Text("report without a confirmation", scrubbed(page_text(search_only), folder))
    for name, (report, _) in ODD.items():
        summary = summarize(prepare(report))
        lines = (summary.counts, summary.headline, *summary.sentences, *summary.warnings)
        yield Text(f"summary: {name}", scrubbed("\n".join(lines), folder))


@pytest.mark.slow
def test_the_recorded_text_is_current(
    template: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_STORAGE", database(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    parts = [*helps()]
    monkeypatch.setenv("COLUMNS", "200")
    parts += launches(tmp_path)
    parts += failed_pages(tmp_path)
    parts += working(tmp_path)
    parts += pages(template)
    parts += sign_in_pages(template, tmp_path)
    parts += reports(template, tmp_path)
    text = "\n".join(map(str, parts))
    if os.environ.get("SWEEPER_RECORD"):
        RECORDED.write_text(text, encoding="utf-8")
    recorded = RECORDED.read_text(encoding="utf-8")
    difference = difflib.unified_diff(
        recorded.splitlines(), text.splitlines(), "recorded", "now", lineterm="", n=1
    )
    changed = "\n".join(difference)
    assert not changed, f"the text has changed; to record it: {RECORD}\n{changed}"
