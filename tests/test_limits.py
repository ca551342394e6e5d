"""Limits: every value of a study file, a request and a URL has one, and the docs list it."""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from typer.models import OptionInfo

from sweeper import api, limits
from sweeper.cli.app import app
from sweeper.errors import StudyDamaged, SweeperError
from sweeper.service.api import v1
from sweeper.service.pages import routes
from sweeper.store.studies import StudyRecord
from sweeper.store.worker_names import parse_worker_name
from sweeper.study.json_schema import resolve_ref
from sweeper.study.load import parse_spec, parse_toml, read_stored
from sweeper.study.spec import StudySpec, canonical_json, json_schema
from sweeper.version import __version__
from sweeper.worker.identity import is_dead
from tests.support.processes import run
from tests.support.service_world import World, copied
from tests.support.serving import Browser, serve

DOCS = (Path(__file__).parent.parent / "docs" / "reference" / "limits.md").read_text(
    encoding="utf-8"
)
SPEC: dict[str, Any] = {"study": {"name": "s"}, "task": {"use": "digits"}}


# ---- the schemas and the docs ------------------------------------------------------------

# What is described once, however often it is used.
SHARED = {"Range": "RANGE"}


def limits_of(key: str, node: Any, root: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each key below a node of a JSON Schema with its limit; "" where it has none."""
    name = str(node.get("$ref", "")).rsplit("/", 1)[-1]
    key = SHARED.get(name, key)
    node = resolve_ref(node, root)
    forms = [form for word in ("anyOf", "oneOf", "allOf") for form in node.get(word, ())]
    typed = [form for form in forms if form.keys() != {"required"}]
    for form in typed:
        yield from limits_of(key, form, root)
    match node.get("type"):
        case "object":
            yield from _table(key, node, root)
        case "array":
            yield key, _most(node, "maxItems", "items")
            yield from limits_of(f"{key}[]", node.get("items", {}), root)
        case "string" if not {"enum", "const"} & node.keys():
            yield key, _most(node, "maxLength", "characters")
        case "integer" | "number":
            yield key, _bounds(node)
        case None if not typed and not {"enum", "const"} & node.keys():
            yield key, ""


def _table(key: str, node: Any, root: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, below in node.get("properties", {}).items():
        yield from limits_of(f"{key}.{name}" if key else name, below, root)
    free = node.get("additionalProperties", "properties" not in node)
    if free is not False:
        yield key, _most(node, "maxProperties", "keys")
        if free is not True:
            yield from limits_of(f"{key}.NAME", free, root)


def _most(node: Any, word: str, unit: str) -> str:
    return f"{node[word]:,} {unit}" if word in node else ""


def _bounds(node: Any) -> str:
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    if (low is None and above is None) or (high is None and below is None):
        return ""
    first = f"{low:,}" if low is not None else f"above {above:,}"
    return f"{first} to {high:,}" if high is not None else f"{first}, below {below:,}"


def documented() -> dict[str, set[str]]:
    """Return the limits that the docs name by key."""
    found: dict[str, set[str]] = {}
    for keys, limit in re.findall(r"^\| (`[^|]+`) +\| ([^|]+?) +\|", DOCS, flags=re.MULTILINE):
        for key in re.findall(r"`([^`]+)`", keys):
            found.setdefault(key, set()).update(limit.split("; "))
    return found


STUDY_FILE = sorted(set(limits_of("", json_schema(), json_schema())))


def test_limit_check_detects_missing_limit() -> None:
    for node in ({"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "object"}, {}):
        schema = {"type": "object", "properties": {"a": node}, "additionalProperties": False}
        assert list(limits_of("", schema, schema)) == [("a", "")]


def test_limit_check_covers_every_study_key() -> None:
    walked = {key.partition(".")[0].removesuffix("[]") for key, _ in STUDY_FILE}
    assert walked == set(StudySpec.model_fields) - {"objective"} | {"RANGE"}  # a choice alone


@pytest.mark.parametrize(("key", "limit"), STUDY_FILE)
def test_study_key_has_documented_limit(key: str, limit: str) -> None:
    assert limit, f"{key} has no limit"
    assert limit in documented()[key]


@pytest.mark.parametrize(
    "name",
    [
        "STUDY_FILE_LENGTH",
        "NESTING_DEPTH",
        "VALUES_PER_FILE",
        "KEYS_PER_TABLE",
        "ITEMS_PER_LIST",
        "KEY_LENGTH",
        "TEXT_LENGTH",
    ],
)
def test_general_limits_are_documented(name: str) -> None:
    assert f"{getattr(limits, name):,}" in DOCS.split("## Keys")[0]


# ---- study files -------------------------------------------------------------------------

DEEP = 20_000
DIGITS = "9" * 5_000
TOO_DEEP = "nested too deeply; allowed: 20 levels"
TEXTS = {
    "lists in each other": ("a = " + "[" * DEEP + "]" * DEEP, TOO_DEEP),
    "lists that are not closed": ("a = " + "[" * DEEP, TOO_DEEP),
    "tables in each other": ("a = " + "{a = " * DEEP + "1" + "}" * DEEP, TOO_DEEP),
    "21 lists in each other": ("a = " + "[" * 21 + "]" * 21, TOO_DEEP),
    "a dotted key": (".".join("a" * DEEP) + " = 1", TOO_DEEP),
    "a dotted key with spaces": (" . ".join("a" * DEEP) + " = 1", TOO_DEEP),
    "a dotted key in quotes": (".".join(['"a"', "'b'"] * DEEP) + " = 1", TOO_DEEP),
    "a dotted key of a table": ("[" + ".".join("a" * DEEP) + "]", TOO_DEEP),
    "a dotted key in a table": ("x = {" + ".".join("a" * DEEP) + " = 1}", TOO_DEEP),
    "a dotted key after texts": ("x = '''#'''\ny = \"#\" # '\n" + "a." * 20 + "a = 1", TOO_DEEP),
    "5,000 digits": (f"a = {DIGITS}", "an integer has thousands of digits; allowed: at most"),
    "4,000 digits": (f"a = {DIGITS[:4000]}", "a: an integer has more than 100 digits"),
    "hexadecimal digits": ("a = 0x" + "f" * 100_000, "a: an integer has more than 100 digits"),
    "a long list": ("a = [" + "1," * 10_001 + "]", "a: 10,001 items; allowed: at most 10,000"),
    "many values": ("a = [" + "[1, 2], " * 9_000 + "]", "more than 20,000 values"),
    "many keys": ("\n".join(f"k{n} = 1" for n in range(201)), "201 keys; allowed: at most 200"),
    "many tables": ("\n".join(f"[k{n}]" for n in range(201)), "201 keys; allowed: at most 200"),
    "a long text": (f"a = '{'x' * 10_001}'", "has 10,001 characters; allowed: at most 10,000"),
    "a long key": (f"{'x' * 101} = 1", "has 101 characters; allowed: at most 100"),
    "a key of two lines": ('a = {"b\\nc" = 1}', "the key 'b\\nc' has unprintable characters"),
    "NUL": ('a = ["x\\u0000"]', "a[0]: must be valid UTF-8 without NUL characters, got 'x\\x00'"),
    "a long file": (
        "#" * 500_001,
        "a study file must have at most 500,000 characters, got 500,001",
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_too_large_text_is_a_one_line_error(case: str) -> None:
    text, message = TEXTS[case]
    with pytest.raises(SweeperError) as refused:
        parse_toml(text)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("case", ["a dotted key", "5,000 digits", "lists in each other", "NUL"])
def test_error_names_the_too_large_file(case: str, tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_text(TEXTS[case][0])
    done = run("launch", path, "--dry-run")
    assert (done.status, done.results) == (2, "")
    [line] = done.err.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert TEXTS[case][1] in line


def test_text_at_the_limits_is_accepted() -> None:
    deepest = "a = " + "[" * 19 + "]" * 19
    key = ".".join("a" * 20)
    assert parse_toml(f"{deepest}\nb = '{'x' * 10_000}'\nc = [{'1, ' * 10_000}]")["b"]
    assert parse_toml(f"{key} = {'9' * 100}\n[b]\nc = 1.5 # {'.' * 100}\nd = '{'.' * 100}'")["b"]


WRONG = [
    (
        "task.threads",
        99999999999999999999,
        "must be an integer from 1 to 4,096, got 99999999999999999999",
    ),
    ("sampler.startup", 10**9, "must be an integer from 0 to 100,000, got 1000000000"),
    ("sampler.points", 10_001, "must be an integer from 2 to 10,000, got 10001"),
    ("budget.trials", 10**20, "must be an integer from 1 to 1,000,000, got 100000000000000000000"),
    ("budget.trials", 10**4000, "an integer has more than 100 digits; allowed: at most 100"),
    ("budget.pack", 10**30, "must be 'auto', 'off' or an integer from 1 to budget.trials, got"),
    ("budget.timeout", 1e30, "must be a finite number > 0 and <= 100,000,000, got 1e+30"),
    ("study.seed", 2**32, "must be an integer >= 0 and < 4,294,967,296, got 4294967296"),
    ("task.use", "x" * 1_001, "must have at most 1,000 characters, got 1,001"),
    ("task.use", "\ud800", "must be valid UTF-8 without NUL characters, got '\\ud800'"),
    ("task.options", {"a": {"b": [10**4000]}}, "an integer has more than 100 digits"),
    ("task.options", {"a": {"b": [2**63]}}, "must fit in 64 bits, got 9223372036854775808"),
    ("space.lr", [2**63, 1], "must fit in 64 bits, got 9223372036854775808"),
    ("space.lr", [1e301, 1], "must be from -1e+300 to 1e+300, got 1e+301"),
    ("space.lr", ["x" * 201], "must have at most 200 characters"),
    ("space.lr", list(range(101)), "must have at most 100 items, got 101"),
    ("space.lr", {"low": -1e301, "high": 0}, "must be a finite number from -1e+300 to"),
    ("space.lr", {"low": 0, "high": 1e16, "integer": True}, "-9,007,199,254,740,992 to 9,007,"),
    ("space.schedule", ["fixed"] * 101, "must have at most 100 items, got 101"),
    ("confirm.constraint", "nll <= " + "1" * 200, "must have at most 200 characters, got 207"),
    ("resources.memory", 1e9, "must be a finite number > 0 and <= 1,000,000, got 1000000000.0"),
]


@pytest.mark.parametrize(
    ("key", "value", "message"), WRONG, ids=[message for _, _, message in WRONG]
)
def test_value_beyond_limit_is_a_one_line_error(key: str, value: Any, message: str) -> None:
    table, name = key.split(".")
    with pytest.raises(SweeperError) as refused:
        parse_spec({**SPEC, table: {**SPEC.get(table, {}), name: value}})
    [line] = str(refused.value).splitlines()
    assert line.startswith(key)
    assert message in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("[budget]\ntrials = 1000000\n[sampler]\nstartup = 100000", "1000000 trials, 0 ended"),
        ("[sampler]\nstartup = 100000\n[budget]\ntrials = 20", "20 initial points, 0 from"),
        ('[sampler]\nname = "grid"\npoints = 3000', "64 initial points, 0 from"),
    ],
)
def test_dry_run_generates_only_displayed_points(tables: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'[study]\nname = "s"\n[task]\nuse = "digits"\n{tables}\n')
    done = run("launch", path, "--dry-run", "--storage", tmp_path / "s.db")
    assert (done.status, done.err) == (0, "")
    assert message in done.out


def test_trials_of_an_option_have_the_limits_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('study.name = "s"\ntask.use = "digits"\nsampler.name = "random"\n')
    done = run("launch", path, "--dry-run", "--trials", 100_001)
    assert (done.status, done.results) == (2, "")
    assert done.err == (
        f"error: {path}: budget.trials: must be at most 100,000 with the sampler random and 3 "
        "hyperparameters, because these points are stored at launch, got 100001\n"
    )


def test_points_of_very_many_hyperparameters_have_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    ranges = "".join(f"p{number} = {{ low = 0, high = 1 }}\n" for number in range(50))
    for sampler, key in (("qmc", "budget.trials"), ("tpe", "sampler.startup")):
        path.write_text(
            'study.name = "s"\ntask.use = "digits"\nbudget.trials = 30000\n'
            f'[sampler]\nname = "{sampler}"\nstartup = 30000\n[space]\n{ranges}'
        )
        done = run("launch", path, "--dry-run", "--storage", tmp_path / "s.db")
        assert (done.status, done.results) == (2, "")
        assert f"{key}: must be at most 18,867 with the sampler {sampler} and 53" in done.err


def test_error_lists_at_most_50_keys() -> None:
    with pytest.raises(SweeperError) as refused:
        parse_spec({**SPEC, **{f"k{index}": 1 for index in range(190)}})
    assert len(str(refused.value).splitlines()) == limits.ERROR_LINES + 1
    assert str(refused.value).endswith("and 140 more errors; fix these first")


def test_stored_study_beyond_limit_is_a_one_line_error() -> None:
    spec = StudySpec.model_validate(SPEC).model_dump(mode="json")
    spec["task"]["threads"] = 99999999999999999999
    stored = canonical_json({"spec": spec, "sources": {}, "label_source": {}})
    record = StudyRecord(1, "s", stored, "", "", __version__, 0.0, "running")
    with pytest.raises(StudyDamaged) as refused:
        read_stored(record)
    assert str(refused.value) == (
        "study 's' cannot be used: its stored spec is invalid: task.threads: must be an integer "
        "from 1 to 4,096, got 99999999999999999999; restore it, or remove it: sweeper delete s"
    )


@pytest.mark.parametrize("content", ["[" * 100_000, '{"epsilon": ' + DIGITS + "}"])
def test_a_first_point_from_a_file_that_is_too_large(content: str, tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(content)
    text = json.dumps(SPEC["study"]["name"])
    path = tmp_path / "s.toml"
    path.write_text(f'study.name = {text}\ntask.use = "digits"\n[[first]]\nfrom = "best.json"\n')
    done = run("launch", path, "--dry-run")
    [line] = done.err.splitlines()
    assert (done.status, done.results) == (2, "")
    assert line.startswith(f"error: {path}: first[0].from: {tmp_path}/best.json is not a best.json")


# ---- requests and URLs -------------------------------------------------------------------


def described(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Return the OpenAPI of routes, also of pages, which the service's own leaves out."""
    shown = [copy(route) for route in routes if isinstance(route, APIRoute)]
    for route in shown:
        route.include_in_schema = True
    return get_openapi(title="", version="", routes=shown)


def given_to(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each value that a request may bring with its limit; "" where it has none."""
    root = {"$defs": document["components"]["schemas"]}
    for operation in (one for path in document["paths"].values() for one in path.values()):
        for parameter in operation.get("parameters", ()):
            yield from limits_of(parameter["name"], parameter["schema"], root)
        for content in operation.get("requestBody", {}).get("content", {}).values():
            yield from limits_of("", content["schema"], root)


REQUESTS = sorted(
    {pair for router in (v1.router, routes.router) for pair in given_to(described(router.routes))}
)


def test_limit_check_covers_every_request() -> None:
    walked = {key for key, _ in REQUESTS}
    assert walked > {
        "toml",
        "spec",
        "name",
        "number",
        "search",
        "offset",
        "token",
        "csrf",
        "item[]",
    }


@pytest.mark.parametrize(("key", "limit"), REQUESTS)
def test_request_value_has_documented_limit(key: str, limit: str) -> None:
    assert limit, f"{key} has no limit"
    assert limit in documented()[key]


LARGEST = 2**63 - 1
URLS = [
    *((f"/studies/quick/trials/{number}", 404) for number in (LARGEST, 2**63, 2**31, -1, DIGITS)),
    *((f"/v1/studies/quick/trials/{number}", 422) for number in (LARGEST, 2**63, DIGITS)),
    (f"/compare?item=quick/{LARGEST}&item=quick/0", 404),
    (f"/compare?item={'x' * 256}&item=quick", 422),
    (f"/studies?page={DIGITS}", 422),
    (f"/v1/studies?offset={2**31}", 422),
    *((f"{path}?search=a%00b", 400) for path in ("/v1/studies", "/studies", "/events")),
    *((f"{path}/a%00b", 400) for path in ("/v1/studies", "/studies", "/assets", "/dashboard")),
    ("/v1/studies?search=%ED%A0%80", 200),
    ("/v1/studies/%ff", 404),
    *((f"/csv/{number}", 404) for number in ("9" * 20, 2**31, 999, -1, DIGITS)),
    *((f"/api/studies/{number}", 404) for number in ("9" * 20, 999, DIGITS)),
    (f"/api/studies/{'9' * 20}/param_importances", 404),
    ("/api/studies/999/plot/contour", 404),
    ("/api/studies/1?after=x", 400),
    (f"/api/studies/1?after={DIGITS}", 400),
    ("/api/studies/1?after=0", 200),
]


@pytest.mark.parametrize(("path", "status"), URLS, ids=[path[:60] for path, _ in URLS])
def test_hostile_url_gets_4xx(template: World, path: str, status: int) -> None:
    assert template.site.ask(path).status == status
    assert template.site.page(path).status == status


BODIES = {
    "lists in each other": (b"[" * 100_000, 400, "body: nested too deeply"),
    "a deep spec": (b'{"spec": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}", 422, "too deeply"),
    "10**4000": (
        b'{"spec": {"budget": {"trials": 1' + b"0" * 4000 + b"}}}",
        422,
        "budget.trials: an integer has more than 100 digits",
    ),
    "5,000 digits": (
        b'{"spec": {"a": ' + DIGITS.encode() + b"}}",
        422,
        "body: an integer has too many digits",
    ),
    "threads": (
        b'{"spec": {"study": {"name": "s"}, "task": {"use": "digits", "threads": 1'
        + b"0" * 20
        + b"}}}",
        422,
        "task.threads: must be an integer from 1 to 4,096, got 100000000000000000000",
    ),
    "half a character": (
        b'{"spec": {"study": {"name": "\\ud800"}}}',
        422,
        "study.name: must be valid UTF-8",
    ),
    "many keys": (
        b'{"spec": {' + b", ".join(b'"k%d": 1' % n for n in range(50_000)) + b"}}",
        422,
        "spec: Dictionary should have at most 200 items",
    ),
    "a dotted key": (json.dumps({"toml": ".".join("a" * DEEP) + " = 1"}).encode(), 422, TOO_DEEP),
    "digits in TOML": (
        json.dumps({"toml": f"a = {DIGITS}"}).encode(),
        422,
        "not valid TOML: an integer has thousands of digits",
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_too_large_body_is_a_one_line_error(template: World, case: str) -> None:
    body, status, message = BODIES[case]
    answer = template.site.ask("/v1/studies", "POST", body)
    assert answer.status == status
    assert message in answer.json["detail"]
    assert len(answer.json["detail"].splitlines()) == 1
    assert len(answer.body) < 1_000


def test_form_lists_at_most_50_errors(template: World) -> None:
    body = b"{" + b", ".join(b'"k%d": 1' % n for n in range(50_000)) + b"}"
    answer = template.site.ask("/v1/studies", "POST", body)
    assert answer.status == 422
    assert len(answer.json["detail"].splitlines()) == limits.ERROR_LINES


def test_form_with_huge_integer_is_redisplayed(template: World) -> None:
    browser = Browser(template.site)
    form = {"study.name": "s", "task.use": "digits", "budget.trials": DIGITS}
    answer = browser.ask("/new", "POST", form={"csrf": browser.csrf("/new"), **form})
    assert answer.status == 422
    assert "must be an integer from 1 to 1,000,000, got" in answer.text


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://[", 403),
        ("http://[::1", 403),
        ("ftp://HOST", 403),
        ("//HOST", 403),
        ("http://user@HOST", 403),
        ("http://HOST/x", 403),
        ("http://HOST.example.org", 403),
        ("", 403),
        ("http://HOST", 409),  # of this page; the study is finished
        ("https://HOST", 409),
    ],
)
def test_a_request_comes_from_our_own_page(template: World, origin: str, status: int) -> None:
    headers = {"Origin": origin.replace("HOST", f"127.0.0.1:{template.site.port}")}
    assert template.site.ask("/v1/studies/quick/stop", "POST", headers=headers).status == status


WORKERS = ["x", "", ":::", "a:b:c:d-e", "a:1:b", "h:-1:b:c-2", "h:٣:b:c-2", "a\nb:c", "<b>:&amp;"]
WORKERS += [f"h:{DIGITS}:b:c-2", f"h:1:b:c-{DIGITS}", "x" * 10_000, "%00:%s:{}:\x7f"]


@pytest.fixture
def haunted(template: World, tmp_path: Path) -> World:
    """A world whose tickets are held by workers of names that no worker has."""
    world = copied(template, tmp_path)
    with sqlite3.connect(tmp_path / "sweeper.db") as connection:
        for number, name in enumerate(WORKERS[:12]):
            connection.execute(
                "update sweeper_tickets set state = 'open', worker = ?, lease_until = 4e9 "
                "where phase = 'search' and number = ?",
                (name, number),
            )
    connection.close()
    return world


def test_hostile_worker_name_is_displayed(haunted: World) -> None:
    paths = [
        "/studies",
        "/studies/quick",
        "/studies/quick/trials",
        "/compare?item=quick&item=quick",
    ]
    assert {haunted.site.page(path).status for path in paths} == {200}
    paths = ["/v1/studies", "/v1/studies/quick", "/metrics", "/v1/studies/quick/scores"]
    assert {haunted.site.ask(path).status for path in paths} == {200}
    workers = haunted.site.ask("/v1/studies/quick/workers").json["workers"]
    assert [worker["host"][:10] for worker in workers] == [name[:10] for name in WORKERS[:12]]
    assert {(worker["pid"], worker["slots"]) for worker in workers} == {(0, 1)}
    done = run("status", "quick", "--storage", haunted.study.storage)
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("name", WORKERS)
def test_worker_name_of_unknown_format_counts_as_alive(name: str) -> None:
    assert parse_worker_name(name) == (name[:255], 0, 1)
    assert not is_dead(name)


def test_out_of_range_integers_do_not_reach_postgresql(postgresql: str) -> None:
    api.prepare(postgresql)
    site = serve(postgresql)
    spec = {"spec": SPEC}
    assert site.ask("/v1/studies", "POST", spec).status == 201
    for path, status in (
        ("/v1/studies?search=%00", 400),
        ("/studies/a%00b", 400),
        (f"/studies/s/trials/{LARGEST}", 404),
        (f"/compare?item=s/{2**31}&item=s/0", 404),
        (f"/csv/{'9' * 20}", 404),
        (f"/csv/{2**31}", 404),
    ):
        assert site.page(path).status == status, path
    done = run("logs", "s", LARGEST, "--storage", postgresql)
    assert done.err.startswith(f"error: study 's': trial {LARGEST} does not exist ")
    browser = Browser(serve(postgresql, sign_in=True))
    assert browser.sign_in("swp_\0_x").status == 400
    assert browser.sign_in("swp_a_x").status == 401


@pytest.mark.slow
def test_a_million_trials_are_launched_in_one_request(template: World, tmp_path: Path) -> None:
    world = copied(template, tmp_path)
    spec = {**SPEC, "budget": {"trials": 1_000_000}}
    answer = world.site.ask("/v1/studies", "POST", {"spec": spec})
    assert answer.status == 201
    assert (answer.json["trials"], answer.json["waiting"]) == (1_000_000, 1_000_000)
    assert world.site.ask("/v1/studies/s/pause", "POST").status == 200


# ---- options of the commands -------------------------------------------------------------


def numeric_options() -> list[tuple[str, str]]:
    """Return each command with each option of it that takes a number."""
    return [
        (str(command.name or command.callback.__name__), f"--{name}")
        for command in app.registered_commands
        if command.callback is not None
        for name, kind in get_type_hints(command.callback, include_extras=True).items()
        if hasattr(kind, "__metadata__")
        and {int, float} & {kind.__origin__, *get_args(kind.__origin__)}
        for option in kind.__metadata__
        if isinstance(option, OptionInfo) and not option.hidden
    ]


# What comes before the option, where its value is checked with others.
NEEDED = {
    "check": ["digits"],
    "launch": ["digits", "--dry-run"],
    "confirm": ["s"],
    "retry": ["s"],
    "verify": ["s"],
}


@pytest.mark.parametrize(("command", "option"), numeric_options())
def test_option_has_documented_limit(command: str, option: str, tmp_path: Path) -> None:
    assert option in documented() or f"{option} of {command}" in DOCS.replace("`", "")
    for value in ("1" + "0" * 30, DIGITS, "-1", "nan"):
        storage = [] if command == "check" else ["--storage", tmp_path / "none.db"]
        given = [*NEEDED.get(command, []), option, value, *storage]
        done = run(command, *given)
        assert (done.status, done.results) == (2, "")
        [line] = done.err.splitlines()
        assert re.match(rf"error: (budget\.)?({option[2:]}: |Invalid value for '{option}': )", line)
        assert len(line) < 300


def test_huge_pack_option_is_rejected() -> None:
    done = run("launch", "digits", "--dry-run", "--pack", DIGITS)
    assert done.status == 2
    assert "must be 'auto', 'off' or an integer from 1 to budget.trials, got '999" in done.err
    assert len(done.err) < 300
