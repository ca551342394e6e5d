"""What the documentation shows is run, and what it names exists."""

import json
import re
import shlex
import shutil
import tomllib
from inspect import signature
from pathlib import Path

import pytest
import torch
from typer.main import get_command

import sweeper
from sweeper.cli import main
from sweeper.cli.app import app
from sweeper.smoothing import SCHEDULES, SmoothingLoss
from sweeper.study.load import check_runs, read_study, ready_studies
from sweeper.study.plan import plan
from sweeper.study.registration import defaults_of
from sweeper.study.spec import StudySpec
from sweeper.tasks import READY
from sweeper.training import Optimiser
from tests.support.processes import StartSweeper

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDY_FILE = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the two files of the README."""
    (tmp_path / "mine.py").write_text(blocks(README, "python")[0])
    (tmp_path / "mine.toml").write_text(blocks(README, "toml")[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_readmes_own_model_and_its_export_work(mine: Path) -> None:
    sweeper.launch("mine.toml", workers=0, trials=4)
    names: dict[str, object] = {}
    exec(blocks(README, "python")[2], names)
    loss = names["loss"]
    assert isinstance(loss, SmoothingLoss)
    best = json.loads(Path("results/mine/best.json").read_text())
    assert loss.smoothing.epsilon == best["epsilon"]
    assert torch.isfinite(loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])))


@pytest.mark.slow
def test_the_readmes_notebook_works(mine: Path) -> None:
    sweeper.launch("mine.toml", workers=0, trials=4)
    code = blocks(README, "python")[1].replace("workers=2", "workers=0, trials=4")
    names: dict[str, object] = {}
    exec(code, names)
    study = names["study"]
    assert isinstance(study, sweeper.Study)
    assert len(study.frame()) == 4


def test_ones_own_model_takes_few_lines() -> None:
    lines = [line for line in blocks(README, "python")[0].splitlines() if line.strip()]
    assert len(lines) <= 15


def test_every_command_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^    sweeper (\w+)", README, flags=re.MULTILINE))
    assert documented == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_study_file_of_the_documentation_is_one_and_names_every_key() -> None:
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


@pytest.mark.parametrize("name", sorted(ready_studies()))
def test_ready_studies_load_and_say_what_they_claim(name: str) -> None:
    path = ready_studies()[name]
    study = read_study(path)
    assert study.name == name
    header = path.read_text(encoding="utf-8").split("[study]")[0]
    for word in ("Claim", "Cost", "Expected"):
        assert f"# {word}" in header
    assert "TODO" not in header


@pytest.mark.parametrize("name", sorted(ready_studies()))
def test_ready_studies_can_be_run_and_lay_out_their_points(name: str) -> None:
    study = read_study(ready_studies()[name])
    check_runs(study)
    points = plan(study.spec, defaults_of(study))
    assert len(points) == study.spec.budget.trials
    assert [p["epsilon"] for p in points[:1] if p is not None] == [0.0]


def test_every_hyperparameter_of_the_ready_tasks_is_documented() -> None:
    section = STUDY_FILE.split("## Tasks")[1].split("\n## ")[0]
    for ready in READY.values():
        task = ready.factory()()
        for name in task.accepts() | Optimiser("sgd").accepts():
            assert f"`{name}`" in section
        for option in signature(ready.factory()).parameters:
            assert f"`{option}`" in section


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), (page.name, target)


# ---- engines -----------------------------------------------------------------------------

ENGINES = ("engines", "ray", "slurm", "kubernetes", "mysql")


def launches(page: str) -> list[str]:
    """Return the launches that a page shows, without those of a template that it does not."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    shown = re.findall(r"^    (sweeper launch .*)$", text, flags=re.MULTILINE)
    return [line for line in shown if "mine.sh.j2" not in line]


@pytest.mark.parametrize("line", [line for page in ENGINES for line in launches(page)])
def test_every_launch_of_the_engines_pages_can_be_planned(
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
@pytest.mark.parametrize("page", ["ray", "slurm", "mysql"])
def test_the_first_launch_of_an_engines_page_runs(
    page: str, request: pytest.FixtureRequest, start_sweeper: StartSweeper
) -> None:
    if page == "ray":
        pytest.importorskip("ray")
    if page == "slurm":
        request.getfixturevalue("slurm")
    url = request.getfixturevalue({"slurm": "postgresql", "mysql": "mysql"}.get(page, "storage"))
    _, *words = shlex.split(launches(page)[0])
    process = start_sweeper(*words, "--trials", 6, "--no-confirm", url=url)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "best.json" in output
