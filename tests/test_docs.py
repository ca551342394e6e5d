"""What the documentation shows is run, and what it names exists."""

import json
import re
import shlex
import shutil
import tomllib
import warnings
from inspect import signature
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch
from typer.main import get_command

import sweeper
from sweeper.cli import main
from sweeper.cli.app import app
from sweeper.smoothing import SCHEDULES, SmoothingLoss
from sweeper.study.load import example_studies, read_study
from sweeper.study.plan import plan
from sweeper.study.spec import StudySpec
from sweeper.tasks import BUILT_IN_TASKS
from tests.support.processes import StartSweeper

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDY_FILE = (ROOT / "docs" / "reference" / "study-file.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "reference" / "training-functions.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}(?: title=[^\n]*)?\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the two files of the page about training functions."""
    (tmp_path / "mine.py").write_text(blocks(TRAINING, "python")[0])
    (tmp_path / "mine.toml").write_text(blocks(TRAINING, "toml")[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_minimal_training_function_and_its_export_work(mine: Path) -> None:
    sweeper.launch("mine.toml", workers=0, trials=4)
    names: dict[str, object] = {}
    best = json.loads(Path("results/mine/best.json").read_text())
    with warnings.catch_warnings(record=True, action="always") as caught:
        exec(blocks(README, "python")[0].replace("digits", "mine"), names)
    assert bool(caught) == (best["verdict"]["word"] != "helps")
    loss = names["loss"]
    assert isinstance(loss, SmoothingLoss)
    assert loss.smoothing.epsilon == best["epsilon"]
    assert torch.isfinite(loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])))


@pytest.mark.slow
def test_notebook_example_works(mine: Path) -> None:
    sweeper.launch("mine.toml", workers=0, trials=4)
    code = blocks(API, "python")[0].replace("workers=2", "workers=0, trials=4")
    names: dict[str, object] = {}
    exec(code, names)
    study = names["study"]
    assert isinstance(study, sweeper.Study)
    assert len(study.frame()) == 4


def test_custom_model_example_is_short() -> None:
    lines = [line for line in blocks(TRAINING, "python")[0].splitlines() if line.strip()]
    assert len(lines) <= 15


@pytest.mark.parametrize("framework", ["huggingface", "lightning", "timm"])
def test_code_of_frameworks_is_that_of_the_example_study(framework: str) -> None:
    page = (ROOT / "docs" / "how-to" / f"{framework}.md").read_text(encoding="utf-8")
    study = (ROOT / "studies" / "frameworks" / f"digits_{framework}.py").read_text(encoding="utf-8")
    (code,) = blocks(page, "python")
    assert code in study or indent(code, "    ") in study


def test_documented_study_file_is_valid_and_complete() -> None:
    tables = tomllib.loads(blocks(STUDY_FILE, "toml")[0])
    spec = StudySpec.model_validate(tables)
    dumped = spec.model_dump()
    for section, fields in dumped.items():
        given = tables[section]
        if isinstance(fields, dict):
            missing = set(fields) - set(given) - {"percentile"}
            assert not missing, (section, missing)


def test_every_schedule_is_documented() -> None:
    shown = re.findall(r"^\| `(\w+)` \|", STUDY_FILE, flags=re.MULTILINE)
    assert set(shown) == {name for name in SCHEDULES if ":" not in name}


@pytest.mark.parametrize("name", sorted(example_studies()))
def test_example_studies_load_and_match_their_description(name: str) -> None:
    path = example_studies()[name]
    study = read_study(path)
    assert study.name == name
    header = path.read_text(encoding="utf-8").split("[study]")[0]
    for word in ("Claim", "Cost", "Expected"):
        assert f"# {word}" in header
    assert "TODO" not in header


@pytest.mark.parametrize("name", sorted(example_studies()))
def test_example_studies_can_be_planned(name: str) -> None:
    study = read_study(example_studies()[name])
    points = plan(study.spec, study.code.defaults)
    assert len(points) == study.spec.budget.trials
    assert [p["epsilon"] for p in points[:1] if p is not None] == [0.0]


def test_every_hyperparameter_of_built_in_tasks_is_documented() -> None:
    section = STUDY_FILE.split("## Tasks")[1].split("\n## ")[0]
    for ready in BUILT_IN_TASKS.values():
        task = ready.factory()()
        for name in task.accepts():
            assert f"`{name}`" in section
        for option in signature(ready.factory()).parameters:
            assert f"`{option}`" in section


# ---- links -------------------------------------------------------------------------------

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)


def without_code(page: Path) -> str:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+?)(?: \{ *#.*\})?$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b((?:docs|tests|benchmarks|sweeper)/[\w./-]+\.(?:py|md|toml))\b", text)
    modules = re.findall(r"python -m ((?:benchmarks|tests)[\w.]+\w)", text)
    named += [f"{module.replace('.', '/')}.py" for module in modules]
    assert [file for file in named if not (ROOT / file).is_file()] == []


# ---- commands ----------------------------------------------------------------------------


def shown_commands() -> list[str]:
    """Return the commands that the pages in docs/ show, each once."""
    found = [
        line
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for line in re.findall(
            r"^(?:    |\$ )(sweeper (?:.*\\\n)*.*)$", page.read_text("utf-8"), flags=re.MULTILINE
        )
    ]
    return [*dict.fromkeys(found)]


@pytest.mark.parametrize("line", shown_commands())
def test_a_shown_command_can_be_parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWEEPER_STORAGE", "SWEEPER_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)
    command: Any = get_command(app)
    name, *arguments = shlex.split(line.replace("\\\n", " "), comments=True)[1:]
    if name in ("import", "token"):
        command, (name, *arguments) = command.commands[name], arguments
    assert name in command.commands
    command.commands[name].make_context(name, arguments)


def test_many_commands_are_shown() -> None:
    assert len(shown_commands()) > 30


# ---- executors ---------------------------------------------------------------------------

EXECUTOR_PAGES = ("executors", "ray", "slurm", "kubernetes", "databases")


def launches(page: str) -> list[str]:
    """Return the launches that a page shows, without those of a template that it does not."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    shown = re.findall(r"^    (sweeper launch .*)$", text, flags=re.MULTILINE)
    return [line for line in shown if "mine.sh.j2" not in line]


@pytest.mark.parametrize("line", [line for page in EXECUTOR_PAGES for line in launches(page)])
def test_every_launch_of_the_executor_pages_can_be_planned(
    line: str,
    mine: Path,
    postgresql: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(ROOT / "studies", mine / "studies")
    for file in ("mine.py", "mine.toml"):
        (mine / file).rename(mine / "studies" / file)
    words = [word for word in shlex.split(line) if word != "--dry-run"]
    results = ["--results", "results"] if "/shared/results" in words else []
    given = [*words, "--dry-run", "--storage", postgresql, *results]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (None, 0), capsys.readouterr().err
    assert "Nothing was written." in capsys.readouterr().out


@pytest.mark.chaos
@pytest.mark.parametrize("page", ["ray", "slurm", "databases"])
def test_the_first_launch_of_an_executor_page_runs(
    page: str, request: pytest.FixtureRequest, start_sweeper: StartSweeper
) -> None:
    if page == "ray":
        pytest.importorskip("ray")
    if page == "slurm":
        request.getfixturevalue("slurm")
    url = request.getfixturevalue(
        {"slurm": "postgresql", "databases": "mysql"}.get(page, "storage")
    )
    _, *words = shlex.split(launches(page)[0])
    process = start_sweeper(*words, "--trials", 6, "--no-confirm", url=url)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "best.json" in output


def test_the_tests_that_guard_the_threat_model_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "threat-model.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    defined = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert named <= defined
