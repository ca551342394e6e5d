"""docker-compose.yml and Dockerfile: what they promise, and their commands as real processes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psycopg
import pytest
import yaml
from psycopg import sql
from sqlalchemy import URL, make_url
from typer.main import get_command

from sweeper import Study
from sweeper.cli.app import app
from sweeper.store.urls import with_password
from tests.support.studies import STUDY, copy_task

ROOT: Final = Path(__file__).parent.parent
FILE: Final = ROOT / "docker-compose.yml"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = [name for name, service in SERVICES.items() if service["image"] == "sweeper"]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
GUIDE: Final = (ROOT / "docs" / "how-to" / "docker-compose.md").read_text(encoding="utf-8")
PASSWORD: Final = "p@ss w/rd:%20 ?#'ü"


def instructions(name: str) -> list[str]:
    """Return the arguments of every such instruction of the Dockerfile."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, flags=re.MULTILINE)


def ignored(file: str) -> list[str]:
    return (ROOT / file).read_text(encoding="utf-8").splitlines()


def shown(command: str) -> list[list[str]]:
    """Return the arguments of a command wherever the guide shows it."""
    lines = re.findall(rf"^    {re.escape(command)} (.*)$", GUIDE, flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


IN_WORKER: Final = shown("docker compose run --rm worker")


# ---- what the files promise --------------------------------------------------------------


def test_compose_services_are_database_and_sweeper() -> None:
    assert [*SERVICES] == ["db", "init", "worker", "worker-gpu", "web"]
    assert OURS == ["init", "worker", "worker-gpu", "web"]
    assert {name for name in OURS if "profiles" in SERVICES[name]} == {"worker-gpu"}


def test_only_web_port_is_published_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"web": ["127.0.0.1:8080:8080"]}
    # Inside its container it has to listen on every address to be reached from outside.
    assert "--host 0.0.0.0 --port 8080" in " ".join(SERVICES["web"]["command"])
    assert not any("network_mode" in service for service in SERVICES.values())


def test_database_is_only_on_the_internal_network() -> None:
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert SERVICES["db"]["networks"] == ["database"]
    # The default one as well: no port of a service on internal networks alone is published.
    assert all(SERVICES[name]["networks"] == ["database", "default"] for name in OURS)


@pytest.mark.parametrize("name", OURS)
def test_sweeper_services_have_minimal_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


def test_compose_file_contains_no_secret_values() -> None:
    assert COMPOSE["secrets"] == {"db_password": {"file": "./secrets/db_password"}}
    for service in SERVICES.values():
        assert service["secrets"] == ["db_password"]
        for key, value in service["environment"].items():
            if "PASSWORD" in key:
                assert key.endswith("_FILE")
                assert value == "/run/secrets/db_password"
    assert all(
        make_url(SERVICES[name]["environment"]["SWEEPER_STORAGE"]).password is None for name in OURS
    )


def test_secrets_are_ignored_by_git_and_docker() -> None:
    assert "/secrets/" in ignored(".gitignore")
    patterns = [line for line in ignored(".dockerignore") if not line.startswith("#")]
    assert patterns[0] == "*"
    assert patterns[-1] == "secrets"
    copied = {path for line in instructions("COPY") for path in line.split()[:-1]}
    assert {f"!{path}" for path in copied} == {p for p in patterns if p.startswith("!")}


def test_services_wait_for_database_and_schema() -> None:
    assert SERVICES["init"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert SERVICES["db"]["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert SERVICES["init"]["restart"] == "no"
    for name in ("worker", "worker-gpu", "web"):
        made = {"init": {"condition": "service_completed_successfully"}}
        assert SERVICES[name]["depends_on"] == made
        assert SERVICES[name]["restart"] == "unless-stopped"


def test_stop_grace_period_exceeds_worker_grace() -> None:
    command = SERVICES["worker"]["command"]
    grace = float(command[command.index("--grace") + 1])
    assert grace < float(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))


def test_workers_read_studies_and_share_results() -> None:
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["volumes"] == ["./studies:/studies:ro", "results:/results"]
    assert SERVICES["worker-gpu"]["command"] == SERVICES["worker"]["command"]
    [device] = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_persistent_data_is_in_named_volumes() -> None:
    # PostgreSQL's image of 18 and later refuses a volume on /var/lib/postgresql/data.
    assert SERVICES["db"]["image"] == "postgres:18"
    assert SERVICES["db"]["volumes"] == ["db:/var/lib/postgresql"]
    assert {*COMPOSE["volumes"]} == {"db", "results"}


def test_image_user_can_write_results() -> None:
    assert [json.loads(entry) for entry in instructions("ENTRYPOINT")] == [["sweeper"]]
    assert instructions("USER") == ["10001:10001"]
    assert "--owner 10001 --group 10001 /results" in DOCKERFILE
    assert instructions("FROM") == ["python:3.11-slim"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "sweeper" in scripts


def test_image_installs_torch_first_without_cache() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert all("--no-cache-dir -c constraints.txt" in line for line in installs)
    assert installs[0].endswith('--extra-index-url "$TORCH_INDEX" torch')
    assert installs[1].endswith('".[serve,postgresql,mysql]"')
    [index] = instructions("ARG")
    argument = COMPOSE["x-sweeper"]["build"]["args"]["TORCH_INDEX"]
    assert f"${{{index.replace('=', ':-')}}}" == argument


def test_image_copies_all_files_needed_to_install(tmp_path: Path) -> None:
    for line in instructions("COPY"):
        *sources, target = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                assert target == f"./{source}"
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path / "dist"), str(tmp_path)], check=True)
    assert len([*(tmp_path / "dist").glob("label_smoothing_sweeper-*.whl")]) == 1


# ---- its commands are the program's ------------------------------------------------------


def parse(arguments: list[str]) -> None:
    """Let the command line read a command, without running it."""
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    assert arguments[0] in commands, arguments
    commands[arguments[0]].make_context(arguments[0], arguments[1:])


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWEEPER_STORAGE", "SWEEPER_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("name", OURS)
def test_service_commands_exist(name: str) -> None:
    parse(SERVICES[name]["command"])


@pytest.mark.usefixtures("no_settings")
def test_commands_in_the_guide_exist() -> None:
    assert {"launch", "status", "stop", "report", "export"} <= {line[0] for line in IN_WORKER}
    for arguments in IN_WORKER:
        parse(arguments)


# ---- compose reads the files -------------------------------------------------------------


def _compose() -> list[str] | None:
    """Return the command of Compose 1 or 2 that this machine has."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    plugin = ["docker", "compose"]
    there = shutil.which("docker") and subprocess.run([*plugin, "version"], capture_output=True)
    return plugin if there and there.returncode == 0 else None


BASE: Final = _compose()
needs_compose = pytest.mark.skipif(
    BASE is None, reason="neither docker-compose nor docker compose is on the PATH"
)


def config(*options: str, **environment: str) -> dict[str, Any]:
    """Return docker-compose.yml as Compose itself understands it."""
    assert BASE is not None
    done = subprocess.run(
        [*BASE, "-f", str(FILE), *options, "config"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


@needs_compose
def test_compose_understands_the_file() -> None:
    read = config("--profile", "gpu")["services"]
    assert {*read} == {*SERVICES}
    for name, service in SERVICES.items():
        assert read[name].get("command") == service.get("command")
        assert read[name]["environment"] == service["environment"]
        assert read[name].get("read_only") == service.get("read_only")


@needs_compose
def test_the_index_of_torch_is_a_setting() -> None:
    [default] = instructions("ARG")
    for index, environment in (
        (default.removeprefix("TORCH_INDEX="), {}),
        ("https://wheels.example/cu128", {"TORCH_INDEX": "https://wheels.example/cu128"}),
    ):
        built = config(**environment)["services"]["worker"]["build"]
        assert built["args"]["TORCH_INDEX"] == index


@needs_compose
@pytest.mark.parametrize(
    "block",
    re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL),
    ids=["machine1", "machine2", "results", "folder"],
)
def test_compose_understands_the_guides_additions(block: str, tmp_path: Path) -> None:
    (tmp_path / "more.yml").write_text(block)
    more = config("-f", str(tmp_path / "more.yml"))
    for name, service in yaml.safe_load(block).get("services", {}).items():
        if "command" in service:
            parse(more["services"][name]["command"])
        for key, value in service.get("environment", {}).items():
            assert more["services"][name]["environment"][key] == value


# ---- its commands, as processes ----------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """The services as processes of this machine: `root` is the root folder of them all."""

    root: Path
    server: URL
    printed: list[str] = field(default_factory=list)

    def path(self, text: str, name: str) -> str:
        """Return a text with a path of a container as it is here."""
        service = SERVICES[name]
        mounted = [volume.split(":")[1] for volume in service.get("volumes", [])]
        mounted += [f"/run/secrets/{secret}" for secret in service["secrets"]]
        inside = any(f"{text}/".startswith(f"{target}/") for target in mounted)
        return f"{self.root}{text}" if inside else text

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service, with the tests' server in place of `db`."""
        given = {
            key: self.path(value, name) for key, value in SERVICES[name]["environment"].items()
        }
        url = make_url(given["SWEEPER_STORAGE"])
        assert url.host in SERVICES
        here = url.set(host=self.server.host or "", query=self.server.query)
        return {**given, "SWEEPER_STORAGE": here.render_as_string(hide_password=False)}

    def process(self, name: str, arguments: list[str]) -> dict[str, Any]:
        """Return how a command of a service is started."""
        entry = Path(sys.executable).with_name(json.loads(instructions("ENTRYPOINT")[0])[0])
        return {
            "args": [str(entry), *(self.path(argument, name) for argument in arguments)],
            "env": {"PATH": os.environ["PATH"], **self.environment(name)},
            "cwd": self.root,
            "text": True,
        }

    def run(self, name: str, arguments: list[str] | None = None) -> str:
        """Run a service, or another command in its place; return what it printed."""
        command = self.process(name, arguments or SERVICES[name]["command"])
        done: subprocess.CompletedProcess[str] = subprocess.run(
            **command, capture_output=True, check=False, timeout=120
        )
        self.printed.extend((done.stdout, done.stderr))
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def web(self) -> Iterator[str]:
        """Run the web service on a free port; yield its address."""
        command = [text.replace("8080", "0") for text in SERVICES["web"]["command"]]
        with subprocess.Popen(**self.process("web", command), stdout=subprocess.PIPE) as serving:
            assert serving.stdout is not None
            line = serving.stdout.readline()
            self.printed.append(line)
            try:
                yield line.split(": ")[1].split(" ")[0]
            finally:
                serving.terminate()

    def healthy(self, address: str) -> bool:
        """Run the health check of the web service; return whether it is content."""
        _, python, *rest = SERVICES["web"]["healthcheck"]["test"]
        assert python == "python"
        check = [text.replace("127.0.0.1:8080", urlsplit(address).netloc) for text in rest]
        return subprocess.run([sys.executable, *check], capture_output=True).returncode == 0

    @contextmanager
    def study(self, name: str) -> Iterator[Study]:
        """Open a study of the database in this process."""
        storage = self.environment("worker")["SWEEPER_STORAGE"]
        study = Study(name, with_password(storage, PASSWORD))
        yield study
        study.close()


@pytest.fixture
def stack(postgresql_server: str, tmp_path: Path) -> Iterator[Stack]:
    """Make what the services find: mounted folders, the secret, and a database that asks for it."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "run" / "secrets").mkdir(parents=True)
    (tmp_path / "run" / "secrets" / "db_password").write_text(PASSWORD + "\n")
    copy_task(tmp_path / "studies")
    server = make_url(postgresql_server).set(drivername="postgresql")
    with made_database(server, SERVICES["db"]["environment"]):
        stack = Stack(tmp_path, server)
        yield stack
    assert not any(PASSWORD in text for text in stack.printed)


@contextmanager
def made_database(server: URL, environment: dict[str, str]) -> Iterator[None]:
    """Make a user, a database and its rule, as PostgreSQL's image does from its environment."""
    user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    names = {"user": sql.Identifier(user), "database": sql.Identifier(database)}
    admin = server.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:

        def execute(statement: str, **values: sql.Composable) -> Any:
            return connection.execute(sql.SQL(statement).format(**names, **values))

        execute("create role {user} login password {secret}", secret=sql.Literal(PASSWORD))
        execute("create database {database} owner {user}")
        [hba] = execute("show hba_file").fetchone()
        rules = Path(hba).read_text()
        Path(hba).write_text(f"local {database} {user} scram-sha-256\n{rules}")
        execute("select pg_reload_conf()")
        guest = server.set(username=user, password=None, database=database)
        while lets_in(guest):  # the reload takes a moment
            pass
        yield
        Path(hba).write_text(rules)
        execute("select pg_reload_conf()")
        execute("drop database {database} with (force)")
        execute("drop role {user}")


def lets_in(url: URL) -> bool:
    try:
        psycopg.connect(url.render_as_string(hide_password=False)).close()
    except psycopg.OperationalError:
        return False
    return True


def status_of(address: str, host: str, token: str) -> int:
    headers = {"Host": host, "Authorization": f"Bearer {token}"}
    try:
        with urlopen(Request(f"{address}dashboard", headers=headers), timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return int(error.code)


def test_services_run_a_study_end_to_end(stack: Stack) -> None:
    text = STUDY.replace('"quick"', '"mine"').replace("quick.py:train", "quick.py:resumable")
    (stack.root / "studies" / "mine.toml").write_text(f"{text}[task.options]\ntrace = 'trace'\n")
    guide = {arguments[0]: arguments for arguments in IN_WORKER}

    assert [stack.run("init"), stack.run("init")] == ["the database is ready\n"] * 2
    assert "0 of 12 trials have ended" in stack.run("worker", guide["launch"])
    stack.run("worker", [*SERVICES["worker"]["command"], "--idle", "1"])

    with stack.study("mine") as study:
        assert study.state == "finished"
        assert study.frame()["number"].tolist() == list(range(12))
    stack.run("worker", guide["export"])
    assert (stack.root / "results" / "mine" / "best.pt").is_file()
    token = stack.run("worker", guide["token"]).strip()
    with stack.web() as address:
        assert status_of(address, urlsplit(address).netloc, token) == 200
        assert status_of(address, urlsplit(address).netloc, "swp_none") == 401
        assert status_of(address, "evil.example", token) == 421
        assert stack.healthy(address)
    assert not stack.healthy(address)


def test_launch_passes_the_password_to_workers(stack: Stack) -> None:
    (stack.root / "studies" / "quick.toml").write_text(STUDY)
    launch = ["launch", "studies/quick.toml", "--workers", "1", "--trials", "1", "--json"]
    assert json.loads(stack.run("worker", launch))["state"] == "finished"
