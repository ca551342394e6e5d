"""Databases of older versions are brought to this one; those of newer versions are refused."""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text
from typer.main import get_command

import sweeper
from sweeper import api
from sweeper.api import Study
from sweeper.cli.app import app
from sweeper.errors import SweeperError
from sweeper.store.database import is_older, open_reader, open_writer
from sweeper.store.schema import VERSION_TABLE
from tests.support.databases import differences_from_schema
from tests.support.processes import run
from tests.support.recorded_databases import FOLDER, STUDY_FILES, names, read, reported, restore
from tests.support.service_world import World
from tests.support.serving import database, serve


class Old(NamedTuple):
    """A database as an earlier version has left it, and what that version reported of it."""

    storage: str
    old_output: dict[str, Any]


def restored(name: str, storage: str) -> Old:
    sql, old_output = read(name)
    restore(sql, storage)
    for study in old_output["studies"].values():
        for trial in study["trials"]:
            # Its worker has ended. Earlier versions did not distinguish such a trial.
            trial["state"] = "waiting" if trial["state"] == "running" else trial["state"]
    return Old(storage, old_output)


def lost(old_output: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yield what was said and is not found now; there may be more than was said.

    `label_smoothing` is no longer given for annealed and adaptive schedules. `winners_curse` is
    now about the difference to ε = 0, which is known only if the search trained that ε = 0.
    """
    if where.endswith(".label_smoothing") and found is None:
        return
    if where.endswith(".winners_curse"):
        return
    if isinstance(old_output, dict) and isinstance(found, dict):
        for key, value in old_output.items():
            yield from lost(value, found.get(key), f"{where}.{key}")
    elif isinstance(old_output, list) and isinstance(found, list) and len(old_output) == len(found):
        for number, (one, other) in enumerate(zip(old_output, found, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif old_output != found:
        yield f"{where}: {old_output!r}, now {found!r}"


def chosen(found: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: found[key] for key in keys}


# ---- a newer version has made the database ------------------------------------------------


@pytest.fixture
def newer(template: World, tmp_path: Path) -> str:
    """Return the URL of a database with a finished study that a newer sweeper has opened."""
    shutil.copy(template.folder / "sweeper.db", tmp_path)
    storage = database(tmp_path)
    with closing(open_writer(storage)) as store:
        store.transact(
            lambda c: c.execute(text(f"update {VERSION_TABLE} set version_num = '9999'"))
        )
    return storage


def commands() -> dict[str, Any]:
    """Return every command that takes a storage, by the words that call it."""
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for sub, one in getattr(command, "commands", {"": command}).items():
            if any(parameter.name == "storage" for parameter in one.params):
                found[f"{name} {sub}".strip()] = one
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_refuses_a_newer_database_in_one_line(
    name: str, newer: str, template: World, tmp_path: Path
) -> None:
    file = template.study.export(tmp_path / "best.json") if name == "verify" else tmp_path / "new"
    given = {"study": template.folder / "quick.toml", "trial": 0, "file": file}
    arguments = [
        given.get(parameter.name, "quick")
        for parameter in commands()[name].params
        if parameter.param_type_name == "argument"
    ]
    stored = Path(newer.removeprefix("sqlite:///"))
    before = stored.read_bytes()
    status, out, err = run(*name.split(), *arguments, "--storage", newer)
    assert (status, err.count("\n")) == (3, 1)
    assert out in ("", f"checking {given['study']}\n", "checking quick\n")
    assert f"{newer} has schema 9999 of a newer sweeper; " in err
    assert re.search(r"supports schemas up to \d{4}; upgrade sweeper", err)
    assert stored.read_bytes() == before


# ---- an older version has made it ---------------------------------------------------------


@pytest.mark.slow
class UpgradeContract:
    @pytest.fixture
    def old(self) -> Old:
        raise NotImplementedError

    def test_upgraded_database_matches_and_reports_equal(self, old: Old, tmp_path: Path) -> None:
        with pytest.raises(
            SweeperError, match="created by an older version of sweeper; upgrade its"
        ):
            open_reader(old.storage)
        api.prepare(old.storage)
        with closing(open_writer(old.storage)) as store:
            assert differences_from_schema(store) == []
        old_output = {key: old.old_output[key] for key in ("studies", "tokens")}
        assert list(lost(old_output, reported(old.storage))) == []
        for name, recorded in old_output["studies"].items():
            with closing(Study(name, old.storage)) as study:
                assert study.report(tmp_path / f"{name}.html").stat().st_size > 1000
                for trial in recorded["trials"]:
                    if trial["state"] != "waiting" and trial["copied_from"] is None:
                        printed = f"output:\nε = {trial['epsilon']:.3f}"
                        assert printed in study.log(trial["number"])
        self.check_service(old)

    def check_service(self, old: Old) -> None:
        site = serve(old.storage, sign_in=True)
        assert site.ask("/v1/studies").status == 401
        site = site._replace(token=old.old_output["token"])
        for name, study in old.old_output["studies"].items():
            answer = site.ask(f"/v1/studies/{name}").json
            assert answer["state"] == study["state"]
            assert list(lost(chosen(study["progress"], "complete", "best"), answer)) == []
            trials = site.ask(f"/v1/studies/{name}/trials?limit=100").json["trials"]
            known = [chosen(one, "number", "state", "value", "epsilon") for one in study["trials"]]
            assert list(lost(known, trials)) == []
            assert list(lost(study["export"], site.ask(f"/v1/studies/{name}/best").json)) == []
            for path in ("", "/trials", "/trials/0"):
                assert site.page(f"/studies/{name}{path}").status == 200

    def test_launch_upgrades_the_database_and_resumes(self, old: Old, tmp_path: Path) -> None:
        for file in STUDY_FILES:
            shutil.copy(FOLDER / file, tmp_path)
        place: dict[str, Any] = {
            "storage": old.storage,
            "results": tmp_path / "results",
            "workers": 0,
        }
        with pytest.raises(
            SweeperError, match="older version of sweeper"
        ):  # it would have to write
            api.plan_launch(tmp_path / "unfinished.toml", **place)
        sweeper.launch(tmp_path / "unfinished.toml", **place).close()
        old_output, found = old.old_output["studies"], reported(old.storage)["studies"]
        assert list(lost(old_output["finished"], found["finished"])) == []
        before, after = old_output["unfinished"], found["unfinished"]
        assert list(lost(before["trials"][:2], after["trials"][:2])) == []
        assert list(lost(chosen(before["results"], "0", "1"), after["results"])) == []
        assert [trial["number"] for trial in after["trials"]] == list(range(6))
        assert [trial["ticket"] for trial in after["trials"]] == list(range(6))
        assert {trial["state"] for trial in after["trials"]} == {"complete"}
        begun, ended = before["trials"][2], after["trials"][2]
        assert begun["state"] == "waiting"
        assert list(lost(chosen(begun, "epsilon", "schedule", "rate", "started"), ended)) == []
        assert after["state"] == "finished"
        assert after["export"]["verdict"]["replicates"] == 2


class TestSqlite(UpgradeContract):
    @pytest.fixture(params=names("sqlite"))
    def old(self, request: pytest.FixtureRequest, storage: str) -> Old:
        return restored(request.param, storage)

    def test_commands_say_what_to_do_and_then_work(self, old: Old, tmp_path: Path) -> None:
        commands = (("status",), ("status", "finished"), ("export", "finished"))
        writing = (("pause", "unfinished"), ("worker", "unfinished"))
        place = ("--storage", old.storage)
        for command in (*commands, *writing):
            status, out, err = run(*command, *place)
            assert (status, out, err.count("\n")) == (3, "", 1)
            assert "sweeper init" in err
        copy = api.backup(tmp_path / "before.db", old.storage)
        assert run("init", *place).status == 0
        assert is_older(str(copy))
        for command in commands:
            assert run(*command, *place).status == 0


class TestPostgresql(UpgradeContract):
    @pytest.fixture(params=names("postgresql"))
    def old(self, request: pytest.FixtureRequest, postgresql: str) -> Old:
        return restored(request.param, postgresql)


class TestMysql(UpgradeContract):
    @pytest.fixture(params=names("mysql"))
    def old(self, request: pytest.FixtureRequest, mysql: str) -> Old:
        return restored(request.param, mysql)
