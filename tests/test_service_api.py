"""The JSON API over real HTTP: what it answers, and what it says to bad requests."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import sweeper
from sweeper import Study
from sweeper.service.api import models
from sweeper.study.results import SCORES
from sweeper.version import __version__
from tests.support.service_world import World, copied
from tests.support.serving import Answer
from tests.support.studies import STUDY

SPEC: dict[str, Any] = {
    "study": {"name": "fresh", "seed": 3},
    "task": {"use": "quick.py:train"},
    "budget": {"trials": 12},
}


@pytest.fixture
def fresh_world(template: World, tmp_path: Path) -> World:
    return copied(template, tmp_path)


def said(answer: Answer, status: int) -> str:
    """Return the detail of a problem, which is one of the kind and status that it has to be."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json
    assert (body["status"], body["type"]) == (status, "about:blank")
    return str(body["detail"])


# ---- reading -----------------------------------------------------------------------------


def test_a_study_is_listed_with_its_counts(template: World) -> None:
    [listed] = template.site.ask("/v1/studies").json["studies"]
    progress, best = template.study.progress(), template.study.best
    assert best is not None
    assert (listed["name"], listed["state"]) == ("quick", "finished")
    assert listed["complete"] + listed["pruned"] == listed["ended"] == 12
    assert (listed["best"], listed["baseline"]) == (best["value"], progress.baseline)
    assert listed == template.site.ask("/v1/studies/quick").json


def test_api_trials_equal_the_frame(template: World) -> None:
    answer = template.site.ask("/v1/studies/quick/trials?sort=nll&limit=5").json
    frame = template.study.frame().sort_values("nll")
    assert answer["total"] == 12
    assert [trial["number"] for trial in answer["trials"]] == frame["number"].tolist()[:5]
    for trial, (_, row) in zip(answer["trials"], frame.iterrows(), strict=False):
        assert trial["scores"]["nll"] == row["nll"]
        assert set(trial["scores"]) == set(SCORES)


@pytest.mark.parametrize("sort", ["number", "epsilon", "nll", "ece", "seconds", "state"])
def test_pages_of_trials_are_complete(template: World, sort: str) -> None:
    path = f"/v1/studies/quick/trials?sort={sort}&descending=true&limit=5&offset="
    pages = [template.site.ask(f"{path}{offset}").json["trials"] for offset in (0, 5, 10, 15)]
    assert [len(page) for page in pages] == [5, 5, 2, 0]
    assert {trial["number"] for page in pages for trial in page} == set(range(12))


def test_trials_are_filtered(template: World) -> None:
    frame = template.study.frame()
    for state, number in frame["state"].value_counts().items():
        answer = template.site.ask(f"/v1/studies/quick/trials?state={state}").json
        assert answer["total"] == number
        assert {trial["state"] for trial in answer["trials"]} == {state}
    fixed = template.site.ask("/v1/studies/quick/trials?schedule=fixed&limit=500").json["trials"]
    assert [one["number"] for one in fixed] == frame[frame["schedule"] == "fixed"][
        "number"
    ].tolist()


def test_a_trial_has_its_evaluations_and_output(template: World) -> None:
    answer = template.site.ask("/v1/studies/quick/trials/0").json
    epochs = template.study.epochs()
    fresh_world = epochs[epochs["number"] == 0]
    assert [one["nll"] for one in answer["evaluations"]] == fresh_world["nll"].tolist()
    assert "quick training begins" in answer["log"]
    assert answer["trial"]["epsilon"] == 0
    assert answer["environment"]["torch"]


def test_scores_have_the_search_and_the_verdict(template: World) -> None:
    answer = template.site.ask("/v1/studies/quick/scores").json
    verdict, evidence = template.study.verdict(), template.study.evidence()
    assert verdict is not None
    assert evidence is not None
    assert answer["search"][0]["epsilon"] == 0
    assert answer["verdict"]["word"] == verdict.word
    assert [one["role"] for one in answer["candidates"]] == [c.role for c in evidence.candidates]
    assert answer["candidates"][0]["scores"]["nll"]["difference"] == 0


def test_best_equals_export_in_every_format(template: World) -> None:
    best = template.site.ask("/v1/studies/quick/best").json
    export = {**template.study.document(), "created": best["created"]}
    assert best["epsilon"] == export["epsilon"]
    path = "/v1/studies/quick/export?format="
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        answer = template.site.ask(path + form)
        assert answer.headers["Content-Disposition"] == f'attachment; filename="best.{form}"'
        assert read(answer.text)["epsilon"] == export["epsilon"]
    names: dict[str, Any] = {}
    exec(template.site.ask(f"{path}python").text, names)
    assert any(getattr(value, "epsilon", None) == export["epsilon"] for value in names.values())


def test_the_report_is_a_file(template: World) -> None:
    answer = template.site.ask("/v1/studies/quick/report")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="quick.html"'
    assert "Study <span" in answer.text


def test_metrics_are_prometheus_text(template: World) -> None:
    answer = template.site.ask("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? -?[0-9.e+-]+')
    lines = answer.text.splitlines()
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
    assert 'sweeper_trials{study="quick",state="failed"} 0' in lines
    assert "sweeper_studies 1" in lines
    named = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(named) == len(set(named)) >= 8


def test_health_needs_no_sign_in_and_names_the_version(template: World) -> None:
    answer = template.site.ask("/v1/health")
    assert answer.json == {"status": "ok", "version": __version__, "detail": ""}


def test_studies_are_searched_and_paged(fresh_world: World) -> None:
    for index in range(7):
        spec = {**SPEC, "study": {"name": f"more_{index}%"[:-1]}}
        assert fresh_world.site.ask("/v1/studies", "POST", {"spec": spec}).status == 201
    found = fresh_world.site.ask("/v1/studies?search=E_&limit=3&offset=3").json
    assert found["total"] == 7
    assert [one["name"] for one in found["studies"]] == ["more_3", "more_2", "more_1"]
    assert fresh_world.site.ask("/v1/studies?search=%25").json["total"] == 0
    assert fresh_world.site.ask("/v1/studies").json["studies"][-1]["name"] == "quick"


# ---- changing ----------------------------------------------------------------------------


def test_launch_run_and_delete_a_study(fresh_world: World) -> None:
    answer = fresh_world.site.ask("/v1/studies", "POST", {"spec": SPEC})
    assert answer.status == 201
    assert answer.headers["Location"] == "/v1/studies/fresh"
    assert answer.json["state"] == "unfinished"
    options = sweeper.api.WorkerOptions("fresh", fresh_world.folder, idle=0.0)
    sweeper.api.run_worker(options, fresh_world.study.storage)
    assert Study("fresh", fresh_world.study.storage).state == "finished"
    assert fresh_world.site.ask("/v1/studies/fresh", "DELETE").status == 204
    assert "no study 'fresh'" in said(fresh_world.site.ask("/v1/studies/fresh"), 404)
    assert fresh_world.site.ask("/v1/studies/quick").status == 200


def test_a_study_file_may_be_sent_as_text(fresh_world: World) -> None:
    text = STUDY.replace('"quick"', '"as_text"')
    assert fresh_world.site.ask("/v1/studies", "POST", {"toml": text}).json["name"] == "as_text"


def test_a_study_is_paused_resumed_and_stopped(fresh_world: World) -> None:
    fresh_world.site.ask("/v1/studies", "POST", {"spec": SPEC})
    for action, state in (("pause", "paused"), ("stop", "stopped"), ("resume", "unfinished")):
        answer = fresh_world.site.ask(f"/v1/studies/fresh/{action}", "POST")
        assert (answer.status, answer.json["state"]) == (200, state)
        assert Study("fresh", fresh_world.study.storage).state == state


def test_relaunch_resumes_and_changed_study_conflicts(fresh_world: World) -> None:
    assert fresh_world.site.ask("/v1/studies", "POST", {"spec": SPEC}).status == 201
    assert fresh_world.site.ask("/v1/studies", "POST", {"spec": SPEC}).status == 201
    other = {**SPEC, "study": {"name": "fresh", "seed": 4}}
    assert "seed" in said(fresh_world.site.ask("/v1/studies", "POST", {"spec": other}), 409)
    assert Study("fresh", fresh_world.study.storage).spec.study.seed == 3


# ---- bad input ---------------------------------------------------------------------------

BAD: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/v1/studies?limit=0", None, 422, "limit"),
    ("GET", "/v1/studies?limit=501", None, 422, "limit"),
    ("GET", "/v1/studies?offset=-1", None, 422, "offset"),
    ("GET", "/v1/studies?offset=99999999999", None, 422, "offset"),
    ("GET", f"/v1/studies?search={'x' * 256}", None, 422, "search"),
    ("GET", "/v1/studies/nope", None, 404, "no study 'nope'"),
    ("GET", "/v1/studies/quic", None, 404, "quick"),
    ("GET", f"/v1/studies/{'x' * 256}", None, 422, "name"),
    ("GET", "/v1/studies/quick/trials/12", None, 404, "trial 12 does not exist (trials 0-11)"),
    ("GET", "/v1/studies/quick/trials/-1", None, 422, "number"),
    ("GET", "/v1/studies/quick/trials/x", None, 422, "number"),
    ("GET", "/v1/studies/quick/trials/99999999999", None, 422, "number"),
    (
        "GET",
        "/v1/studies/quick/trials?sort=no",
        None,
        422,
        "sort: unknown value 'no'; allowed: number",
    ),
    ("GET", "/v1/studies/quick/trials?state=complet", None, 422, "'complete'"),
    ("GET", "/v1/studies/quick/trials?schedule=x", None, 422, "allowed: "),
    ("GET", "/v1/studies/quick/trials?descending=maybe", None, 422, "descending"),
    ("GET", "/v1/studies/quick/export?format=xml", None, 422, "format"),
    ("GET", "/v1/no/such/thing", None, 404, "/v1/openapi.json"),
    ("PUT", "/v1/studies/quick", None, 405, "allowed: DELETE, GET"),
    ("POST", "/v1/studies/quick/explode", None, 404, "/v1/openapi.json"),
    ("POST", "/v1/studies/quick/pause", None, 409, "finished"),
    ("POST", "/v1/studies/quick/resume", None, 409, "finished"),
    ("POST", "/v1/studies/quick/stop", None, 409, "finished"),
    ("POST", "/v1/studies/nope/stop", None, 404, "no study"),
    ("DELETE", "/v1/studies/nope", None, 404, "no study"),
    ("POST", "/v1/studies", {}, 422, "give either toml"),
    ("POST", "/v1/studies", {"toml": "", "spec": {}}, 422, "give either toml"),
    ("POST", "/v1/studies", {"toml": 3}, 422, "toml"),
    ("POST", "/v1/studies", {"spec": []}, 422, "spec"),
    ("POST", "/v1/studies", {"spec": SPEC, "more": 1}, 422, "more"),
    ("POST", "/v1/studies", b"{", 422, "JSON"),
    ("POST", "/v1/studies", b"\xff\xfe", 422, "body"),
    ("POST", "/v1/studies", {"toml": "x = "}, 422, "not valid TOML"),
    ("POST", "/v1/studies", {"toml": "a = 1"}, 422, "a"),
    ("POST", "/v1/studies", {"toml": "x" * 500_001}, 422, "toml"),
    ("POST", "/v1/studies", b"[" * 100_000, 400, "body"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "words"), BAD)
def test_bad_request_is_explained_and_changes_nothing(
    template: World, method: str, path: str, body: Any, status: int, words: str
) -> None:
    before = template.study.frame(), template.site.ask("/v1/studies").json
    assert words in said(template.site.ask(path, method, body), status)
    assert template.study.frame().equals(before[0])
    assert template.site.ask("/v1/studies").json == before[1]


def test_every_error_of_a_spec_is_named_with_its_key(template: World) -> None:
    spec = {
        "study": {"name": "a b"},
        "task": {"use": "quick.py:train"},
        "budget": {"trials": -3},
        "space": {"epsilon": {"low": 0, "high": 2}},
    }
    answer = template.site.ask("/v1/studies", "POST", {"spec": spec})
    said(answer, 422)
    assert [error["key"] for error in answer.json["errors"]] == [
        "study.name",
        "space.epsilon",
        "budget.trials",
    ]


@pytest.mark.parametrize(
    "use",
    [
        "/etc/passwd.py:x",
        "HERE/sub/quick.py:train",
        "../quick.py:train",
        "sub/quick.py:train",
        "..\\quick.py:train",
        "nosuch.py:train",
        ".hidden.py:train",
        "quick.py:__import__('os')",
        "os:system",
        "quick.py",
    ],
)
def test_code_is_loaded_only_from_server_folders(template: World, use: str) -> None:
    use = use.replace("HERE", str(template.folder))
    (template.folder / "sub").mkdir(exist_ok=True)
    for place in (template.folder / "sub" / "quick.py", template.folder / ".hidden.py"):
        place.write_text("raise SystemExit('was run')")
    spec = {**SPEC, "task": {"use": use}}
    assert said(template.site.ask("/v1/studies", "POST", {"spec": spec}), 422).startswith(
        "task.use"
    )


def test_folder_in_request_is_ignored(template: World, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("raise SystemExit('was run')")
    spec = {**SPEC, "task": {"use": "mine.py:train", "options": {"folder": str(tmp_path)}}}
    answer = template.site.ask("/v1/studies", "POST", {"spec": spec})
    assert "'mine.py' is not a file of this server" in said(answer, 422)


# ---- OpenAPI -----------------------------------------------------------------------------


def test_openapi_contains_every_route(template: World) -> None:
    paths = template.site.ask("/v1/openapi.json").json["paths"]
    assert {path: sorted(operations) for path, operations in paths.items()} == {
        "/v1/health": ["get"],
        "/v1/schema": ["get"],
        "/v1/session": ["get"],
        "/v1/studies": ["get", "post"],
        "/v1/studies/{name}": ["delete", "get"],
        "/v1/studies/{name}/best": ["get"],
        "/v1/studies/{name}/export": ["get"],
        "/v1/studies/{name}/report": ["get"],
        "/v1/studies/{name}/scores": ["get"],
        "/v1/studies/{name}/trials": ["get"],
        "/v1/studies/{name}/trials/{number}": ["get"],
        "/v1/studies/{name}/workers": ["get"],
        "/v1/studies/{name}/confirm": ["post"],
        "/v1/studies/{name}/retry": ["post"],
        "/v1/studies/{name}/pause": ["post"],
        "/v1/studies/{name}/resume": ["post"],
        "/v1/studies/{name}/stop": ["post"],
    }


def test_problem_responses_match_openapi(template: World) -> None:
    answer = template.site.ask("/v1/studies/nope")
    assert models.Problem.model_validate_json(answer.body).status == 404


# Names that there are, so that more than "no such study" is answered.
CONFIG = """
[parameters]
"path.name" = "quick"

[[operations]]
include-name = "DELETE /v1/studies/{name}"
parameters = { "path.name" = "nobody" }

# A study may be well-formed and still ask for what there is not; what sorts and filters trials
# depends on the study.
[[operations]]
include-name = ["POST /v1/studies", "GET /v1/studies/{name}/trials"]
checks.positive_data_acceptance.enabled = false

# The name above is put in where it had made up a wrong one.
[[operations]]
include-name = "GET /v1/studies/{name}/trials/{number}"
checks.negative_data_rejection.enabled = false
"""


@pytest.mark.slow
def test_schemathesis_finds_no_undocumented_response(fresh_world: World, tmp_path: Path) -> None:
    """Every operation, with right and wrong values, alone and one after the other."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    url = f"{fresh_world.site.address}v1/openapi.json"
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    options = ["--config-file", "schemathesis.toml", "run", url, "--max-examples", "15"]
    done = subprocess.run(
        [*command, *options, "--seed", "1", "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert "Tested: 19" in done.stdout
    assert fresh_world.site.ask("/v1/studies/quick").status == 200
