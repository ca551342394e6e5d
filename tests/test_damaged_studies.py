"""A study whose rows are wrong stops no other, and everything that shows it says why."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from sweeper import api
from tests.support.damage import cases, damaged, one_of_each_column
from tests.support.processes import run
from tests.support.serving import Site, serve
from tests.support.soak import SOAK

pytestmark = pytest.mark.chaos

# Every wrong value is a study: each column has one of them here, and all in the soak.
CASES = list(cases()) if SOAK else one_of_each_column()


class Served(NamedTuple):
    """Damaged studies that a worker of all studies has met, and a service of their database."""

    storage: str
    log: str
    site: Site
    studies: dict[str, dict[str, Any]]


@pytest.fixture
def served(tmp_path: Path) -> Served:
    storage = damaged(tmp_path, CASES)
    done = all_studies_served(storage, tmp_path)
    assert done.returncode == 0, done.stderr
    site = serve(storage)
    listed = site.ask("/v1/studies?limit=500")
    assert listed.status == 200, listed.text
    return Served(storage, done.stderr, site, {one["name"]: one for one in listed.json["studies"]})


def all_studies_served(storage: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let a worker serve all studies until there is nothing to do."""
    command = ("worker", "--slots", "1", "--idle", "1", "--results", folder, "--storage", storage)
    return subprocess.run(
        [sys.executable, "-m", "sweeper", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_column_has_a_damage_case() -> None:
    covered = {(case.table.name, case.column.name) for case in CASES}
    assert covered == {(case.table.name, case.column.name) for case in cases()}
    assert len(covered) > 50


def test_damaged_study_is_reported_and_does_not_affect_others(served: Served) -> None:
    """In one test: to make the studies and to serve them takes most of the time."""
    check_worker(served)
    check_reasons(served)
    check_lists(served)
    check_pages(served)
    check_deletion(served)


def check_worker(served: Served) -> None:
    """Check that the worker served the healthy study to its end."""
    assert served.studies["healthy"]["state"] == "finished"
    assert served.studies["healthy"]["problem"] == ""
    assert "Traceback" not in served.log


def check_reasons(served: Served) -> None:
    """Check that status, API and pages give the worker's reason for each refused study."""
    pattern = r"^not served by this worker: (study '(.*)' cannot be used: .*)$"
    refused = re.findall(pattern, served.log, re.M)
    assert len(refused) > len(CASES) / 3
    elsewhere = [line for line in served.log.splitlines() if "is not on this machine" in line]
    assert served.log.count("not served by this worker") == len(refused) + len(elsewhere)
    assert all("study 'studies-folder-" in line for line in elsewhere)
    told = run("status", "--storage", served.storage)
    assert told.status == 0
    for sentence, name in refused:
        assert name in sentence
        assert sentence in told.out
        study = served.studies.get(name)
        if study is None:  # its name is not valid text
            continue
        assert (study["state"], study["problem"]) == ("damaged", sentence)


def check_lists(served: Served) -> None:
    """Check that lists and metrics have every study."""
    assert len(served.studies) == len(CASES) + 1
    pages = [served.site.page(f"/studies?page={page}") for page in range(1, 2 + len(CASES) // 25)]
    assert {page.status for page in pages} == {200}
    text = unescape("".join(page.text for page in pages))
    for study in served.studies.values():
        assert study["problem"] in text
    metrics = served.site.ask("/metrics")
    assert metrics.status == 200
    assert metrics.text.count('state="damaged"} 1\n') > 10


def check_pages(served: Served) -> None:
    """Check that the page of a study says what is wrong, and nothing is answered with 500."""
    for at, (name, study) in enumerate(served.studies.items()):
        if name in ("", "healthy") or (at % 8 and not SOAK):
            continue
        path = f"/studies/{quote(name, safe='')}"
        page = served.site.page(path)
        assert page.status == 200, name
        assert study["problem"] in unescape(page.text)
        answers = [served.site.ask(f"/v1{path}{of}") for of in ("/trials/0", "/scores", "/report")]
        for answer in answers:
            assert answer.status == 200 or (
                answer.status in (404, 409) and "cannot be used" in answer.json["detail"]
            ), (name, answer.text)
        done = run("status", name, "--storage", served.storage, "--json")
        assert done.json["study"] == name
        assert study["problem"] in done.json.get("problem", "")


def check_deletion(served: Served) -> None:
    """Check that damaged studies can be removed."""
    broken = [case.study for case in CASES if served.studies.get(case.study, {}).get("problem")]
    for name in broken[::9]:
        assert run("delete", name, "--yes", "--storage", served.storage).status == 0
        assert name not in {study.name for study in api.studies(served.storage)}
