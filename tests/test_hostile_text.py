"""Hostile text in every text of the database: every page that links lead to shows it as text."""

import json
import re
import sqlite3
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from sqlalchemy import String, Text

from sweeper.store.schema import metadata
from tests.support.service_world import World, copied
from tests.support.serving import Answer, Site, database, serve

# An element of this name is nowhere in our pages: only text that was not escaped can make one.
HOSTILE: Final = (
    "\"'></script></textarea></title><x-hostile onload=alert(1)>{{49999*49999}}"
    "<img src=x onerror=y>\r\n\u202e\u0000\x1b[31m%s"
)
# What pages read as one of a few words, or look up by: other text there makes a damaged study.
WORDS: Final = {
    *("studies.name", "studies.spec", "studies.spec_hash", "studies.state"),
    *("tickets.phase", "tickets.state"),
    *("results.phase", "epochs.phase", "outputs.phase", "replicates.phase"),
    *("tokens.key", "tokens.role", "tokens.digest"),
    *("sessions.digest", "sessions.token", "refusals.address"),
}
# Texts that have a name and a place to show it: without them the test looks at nothing.
SHOWN: Final = ("failure", "notes", "cause", "output", "worker", "option", "environment")


def hostile(name: str) -> str:
    """Return hostile text that says where it comes from."""
    return f"from-{name}{HOSTILE}"


def text_columns() -> Iterator[tuple[str, str]]:
    """Yield the table and the name of each of our columns that has free text."""
    for table in metadata.sorted_tables:
        for column in table.columns:
            named = f"{table.name.removeprefix('sweeper_')}.{column.name}"
            if isinstance(column.type, String | Text) and named not in WORDS:
                yield table.name, column.name


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    """Return a service whose database has hostile text wherever there is text."""
    copied(template, tmp_path)
    with sqlite3.connect(tmp_path / "sweeper.db") as connection:
        run = connection.execute
        run(
            "insert into sweeper_tokens values "
            "('key', 'x', 'viewer', 'digest', 0.0) on conflict do nothing"
        )
        # A trial that runs, with a worker, and one that has failed.
        run("update sweeper_tickets set state = 'open', lease_until = 1e11 where number = 3")
        run("update trials set state = 'FAIL' where number = 2")
        for table, column in text_columns():
            run(f"update {table} set {column} = ?", [hostile(column)[:250]])
        extra = json.dumps({hostile("extra"): 1.0})
        run("update sweeper_results set extra = ?", [extra])
        run(
            "update sweeper_results set environment = ?",
            [json.dumps({"torch": hostile("environment")})],
        )
        run("update sweeper_outputs set text = ?", [hostile("output")])
        [[spec]] = run("select spec from sweeper_studies").fetchall()
        plain = json.loads(spec)
        plain["spec"]["task"]["options"]["note"] = hostile("option").replace("\0", "")
        run(
            "update sweeper_studies set spec = ?, folder = ?",
            [json.dumps(plain), hostile("folder")],
        )
        run(
            "update trial_user_attributes set value_json = ? where key != 'ticket'",
            [json.dumps(hostile("attribute"))],
        )
        run("update sweeper_confirmations set reason = ''")
    connection.close()
    return World(serve(database(tmp_path), folders=(tmp_path,)), template.study, tmp_path)


class Seen(HTMLParser):
    """What a browser makes of a page: its elements, texts and links."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags = set[str]()
        self.handlers = set[str]()
        self.links = set[str]()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers.update(name for name, _ in attrs if name.startswith("on"))
        self.links.update(value for name, value in attrs if name == "href" and value)

    def handle_data(self, data: str) -> None:
        self.text += data


def crawled(site: Site, start: str, most: int = 80) -> dict[str, Answer]:
    """Return every answer that links lead to, from a path on; of each kind of page a few."""
    found, waiting = dict[str, Answer](), [start]
    kinds = dict[str, int]()
    while waiting and len(found) < most:
        path = waiting.pop(0)
        kind = re.sub(r"\d+", "N", urlsplit(path).path) + str(sorted(urlsplit(path).query))
        kinds[kind] = kinds.get(kind, 0) + 1
        if path in found or kinds[kind] > 3:
            continue
        answer = found[path] = site.page(path)
        location = answer.headers.get("Location")
        links = {location} if location else set()
        if "text/html" in answer.headers.get("Content-Type", ""):
            links |= Seen(answer.text).links
        for link in sorted(links):
            whole = urlsplit(urldefrag(urljoin(urljoin(site.address, path), link)).url)
            inside = whole.netloc == urlsplit(site.address).netloc
            if inside and not whole.path.startswith(("/dashboard", "/assets/")):
                waiting.append(whole.path + (f"?{whole.query}" if whole.query else ""))
    return found


def test_pages_escape_hostile_text(world: World) -> None:
    found = crawled(world.site, "/studies")
    texts = ""
    for path, answer in found.items():
        assert answer.status < 500, (path, answer.text[-2000:])
        kind = answer.headers.get("Content-Type", "")
        if "text/html" in kind:
            seen = Seen(answer.text)
            assert "x-hostile" not in seen.tags, path
            assert not seen.handlers & {"onload", "onerror"}, path
            texts += seen.text
        assert str(49999 * 49999) not in answer.text, path
    paths = {re.sub(r"\d+", "N", urlsplit(path).path) for path in found}
    assert {"/studies/quick", "/studies/quick/trials", "/studies/quick/trials/N"} <= paths
    missing = [name for name in SHOWN if f"from-{name}" not in texts]
    assert not missing


@pytest.mark.parametrize(
    "path",
    [
        *("", "/trials", "/trials/0", "/trials/2", "/scores", "/best", "/workers", "/report"),
        *("/export?format=json", "/export?format=yaml", "/export?format=python"),
    ],
)
def test_api_responses_are_valid_json(world: World, path: str) -> None:
    answer = world.site.ask(f"/v1/studies/quick{path}")
    assert answer.status == 200, answer.text
    kind = answer.headers["Content-Type"]
    if "json" in kind:
        json.loads(answer.text)
    elif "html" in kind:
        assert "x-hostile" not in Seen(answer.text).tags
    elif "python" in kind:
        compile(answer.text, "best.py", "exec")


def test_metrics_stay_one_line_each(world: World) -> None:
    answer = world.site.ask("/metrics")
    assert answer.status == 200
    for line in answer.text.splitlines():
        assert re.fullmatch(r"#.*|\w+(\{.*\})? \S+", line), line
