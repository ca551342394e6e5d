"""Bad input: one line a problem, exit status 2, no traceback, nothing written, nothing lost."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from sweeper import api
from sweeper.errors import SweeperError
from sweeper.store import database
from tests.support.processes import Done, process, run
from tests.support.studies import STUDY, copy_task

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)


def tree() -> dict[str, bytes]:
    """Return every file and folder below the current one, with the files' bytes."""
    found = [path for path in Path().rglob("*") if path.name != "__pycache__"]
    return {
        str(path): path.read_bytes() if path.is_file() else b"" for path in found if _kept(path)
    }


def _kept(path: Path) -> bool:
    return "__pycache__" not in path.parts and stat.S_ISSOCK(path.stat().st_mode) is False


def refused(*arguments: object) -> list[str]:
    """Run a command that has to be refused; return its lines without `error: `."""
    before = tree()
    done = run(*arguments)
    assert done.status == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    assert all(line.startswith("error: ") for line in lines), done.err
    assert tree() == before
    return [line.removeprefix("error: ") for line in lines]


def study(tables: str, write_study: Write) -> Path:
    """Write a study file with these tables in place of, or beside, the usual ones."""
    usual = {"study": 'name = "quick"', "task": 'use = "quick.py:train"'}
    for name, content in usual.items():
        if f"[{name}]" not in tables:
            tables = f"[{name}]\n{content}\n{tables}"
    return write_study(tables)


SCHEDULES = "fixed, linear, cosine, exponential, step, confidence, error"
TABLE = "a table { low, high, log, integer }"
DIMENSION = f"{TABLE} or a list of values: texts, numbers, true or false, at least one"
SEED = "a whole number from 0, below 4,294,967,296"

# What stands in the file, and the lines that it gets after "quick.toml: ".
WRONG = {
    "unknown table": (
        "[spaec]\nx = 1",
        "spaec: unknown key (did you mean 'space'?); allowed: study, task, space, objective, "
        "budget, sampler, pruner, confirm, resources, first",
    ),
    "unknown key": (
        "[budget]\ntrails = 3",
        "budget.trails: unknown key (did you mean 'trials'?); allowed: trials, timeout, "
        "trial_timeout, patience, pack",
    ),
    "unknown key of a range": (
        "[space]\nepsilon = { low = 0, high = 0.4, lg = true }",
        "space.epsilon.lg: unknown key (did you mean 'log'?); allowed: low, high, log, integer",
    ),
    "unknown key of a hyperparameter": (
        "[space]\nlr = { low = 0.1, high = 0.4, logg = true }",
        "space.lr.logg: unknown key (did you mean 'log'?); allowed: low, high, log, integer",
    ),
    "misspelt epsilon": (
        "[space]\nepsilonn = { low = 0, high = 0.4 }",
        "space.epsilonn: unknown key (did you mean 'epsilon'?); a hyperparameter of the training "
        "loop needs a name that is less like it",
    ),
    "epsilon below 0": (
        "[space]\nepsilon = { low = -0.1, high = 0.4 }",
        "space.epsilon: low = -0.1; it must be 0, since every study tries epsilon = 0 first",
    ),
    "epsilon above 1": (
        "[space]\nepsilon = { low = 0, high = 1.5 }",
        "space.epsilon: high = 1.5; epsilon lies in [0, 1]",
    ),
    "low above high": (
        "[space]\nepsilon = { low = 0.5, high = 0.4 }",
        "space.epsilon: low = 0.5 and high = 0.4; low must be below high",
    ),
    "no high": (
        "[space]\nlr = { low = 0.5 }",
        "space.lr.high: missing; give a finite number",
    ),
    "a log range from 0": (
        "[space]\nlr = { low = 0, high = 1, log = true }",
        "space.lr: low = 0 with log = true; a log range starts above 0",
    ),
    "a rate of 0": (
        "[space]\nrate = { low = 0, high = 1 }",
        "space.rate: low = 0; a rate is above 0",
    ),
    "halves of an integer": (
        "[space]\nwidth = { low = 1.5, high = 3, integer = true }",
        "space.width: low = 1.5 and high = 3 with integer = true; both have to be whole numbers",
    ),
    "epsilon as a number": ("[space]\nepsilon = 0.1", f"space.epsilon: 0.1; allowed: {TABLE}"),
    "a hyperparameter as text": ('[space]\nlr = "x"', f"space.lr: 'x'; allowed: {DIMENSION}"),
    "a hyperparameter as a date": (
        "[space]\nlr = 2020-01-01",
        f"space.lr: 2020-01-01; allowed: {DIMENSION}",
    ),
    "no choice": ("[space]\nlr = []", f"space.lr: []; allowed: {DIMENSION}"),
    "a list in a list": (
        "[space]\nlr = [[1]]",
        "space.lr[0]: [1]; allowed: text, a finite number, true or false",
    ),
    "a choice twice": ("[space]\nlr = [1, true]", "space.lr: [1, True] names a choice twice"),
    "NaN among choices": (
        "[space]\nlr = [1, nan]",
        "space.lr[1]: nan; allowed: text, a finite number, true or false",
    ),
    "texts as ends": (
        '[space]\nepsilon = { low = "0", high = true }',
        "space.epsilon.low: '0'; allowed: a finite number",
        "space.epsilon.high: true; allowed: a finite number",
    ),
    "infinity": (
        "[space]\nepsilon = { low = 0, high = inf }",
        "space.epsilon.high: inf; allowed: a finite number",
    ),
    "unknown schedule": (
        '[space]\nschedule = ["fixed", "linaer"]',
        f"space.schedule: 'linaer' is no schedule (did you mean 'linear'?); allowed: {SCHEDULES}, "
        "or file.py:function",
    ),
    "a schedule that is no text": (
        "[space]\nschedule = [1]",
        "space.schedule[0]: 1; allowed: text in quotes",
    ),
    "no schedule": (
        "[space]\nschedule = []",
        "space.schedule: []; allowed: a list of texts in quotes, at least one",
    ),
    "one schedule, not in a list": (
        '[space]\nschedule = "fixed"',
        "space.schedule: 'fixed'; allowed: a list of texts in quotes, at least one",
    ),
    "no name": ("[study]\nseed = 1", "study.name: missing; give text in quotes"),
    "a name that leaves its folder": (
        '[study]\nname = "../x"',
        "study.name: '../x'; allowed: Letters, digits, '.', '_' and '-', a letter or digit first, "
        "at most 100; unique in the database, names results/NAME.",
    ),
    "a seed as text": ('[study]\nname = "q"\nseed = "1"', f"study.seed: '1'; allowed: {SEED}"),
    "a seed too large": (
        "[study]\nname = 'q'\nseed = 4294967296",
        f"study.seed: 4294967296; allowed: {SEED}",
    ),
    "no trials": (
        "[budget]\ntrials = 0",
        "budget.trials: 0; allowed: a whole number from 1 to 1,000,000",
    ),
    "half a trial": (
        "[budget]\ntrials = 1.5",
        "budget.trials: 1.5; allowed: a whole number from 1 to 1,000,000",
    ),
    "no time": ("[budget]\ntimeout = 0", "budget.timeout: 0; allowed: a finite number above 0"),
    "unknown metric": (
        '[objective]\nmetric = "nlll"',
        "objective.metric: 'nlll' (did you mean 'nll'?); allowed: nll, nll_calibrated",
    ),
    "unknown sampler": (
        '[sampler]\nname = "cmaes"',
        "sampler.name: 'cmaes'; allowed: tpe, gp, random, grid, qmc",
    ),
    "a percentile above 100": (
        "[pruner]\npercentile = 120",
        "pruner.percentile: 120; allowed: a finite number above 0, below 100",
    ),
    "one replicate": (
        "[confirm]\nreplicates = 1",
        "confirm.replicates: 1; allowed: a whole number from 2 to 1,000",
    ),
    "a constraint that does not parse": (
        '[confirm]\nconstraint = "accuracy > 0.9"',
        "confirm.constraint: 'accuracy > 0.9'; write SCORE >= BOUND or SCORE <= BOUND, where BOUND "
        "is a number, baseline, baseline - 0.005 or baseline * 1.1",
    ),
    "a constraint on no score": (
        '[confirm]\nconstraint = "acuracy >= 0.9"',
        "confirm.constraint: no score 'acuracy' (did you mean 'accuracy'?); allowed: nll, ",
    ),
    "unknown choice": (
        '[confirm]\nchoice = "bst"',
        "confirm.choice: 'bst' (did you mean 'best'?); allowed: best, one_standard_error, knee",
    ),
    "unknown task": (
        '[task]\nuse = "digit"',
        "task.use: no ready task 'digit' (did you mean 'digits'?); allowed: digits, or "
        '"file.py:name" beside the study file',
    ),
    "unknown option": (
        '[task]\nuse = "digits"\noptions = { label_nose = 0.1 }',
        "task.options.label_nose: digits takes no such option (did you mean 'label_noise'?); "
        "allowed: label_noise, valid_noise, train_fraction, model",
    ),
    "option out of range": (
        '[task]\nuse = "digits"\noptions = { label_noise = 2 }',
        "task.options.label_noise: label_noise is 2; allowed: a number from 0 to 1",
    ),
    "an option that JSON cannot hold": (
        '[task]\nuse = "quick.py:train"\noptions = { a = { b = nan } }',
        "task.options: a.b: nan; allowed: text, a finite number, true or false",
    ),
    "unknown device": (
        '[task]\nuse = "digits"\ndevice = "gpu"',
        "task.device: device is 'gpu'; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...",
    ),
    "a device that is not there": (
        '[task]\nuse = "digits"\ndevice = "cuda:99"',
        "task.device: device is 'cuda:99', but torch ",
    ),
    "a hyperparameter that the task lacks": (
        '[task]\nuse = "digits"\n[space]\nwidht = [16]',
        "space.widht: the task takes no such hyperparameter (did you mean 'width'?); allowed: "
        "epsilon, schedule, rate, dropout, l1, lr, noise, shift, weight_decay, width",
    ),
    "a hyperparameter that the optimiser refuses": (
        '[task]\nuse = "digits"\n[space]\nlr = { low = -1, high = 1 }',
        "space.lr: lr is -1.0; allowed: a finite number above 0",
    ),
    "first points outside the space": (
        "[[first]]\nepsilon = 0.9\n[[first]]\nepsilon = 0.1\nschedule = 'linaer'\nrate = 50",
        "first[0].epsilon: 0.9; allowed: 0 to 0.4, as space.epsilon says",
        "first[1].rate: 50; allowed: 0.3 to 12, as space.rate says",
        f"first[1].schedule: 'linaer' (did you mean 'linear'?); allowed: {SCHEDULES}",
    ),
    "a first point with what is not searched": (
        "[[first]]\nepsilon = 0.1\nlr = 1",
        "first[0].lr: not searched; add it to [space] or leave it out",
    ),
    "a first point with another choice": (
        "[space]\nlr = [1, 2]\n[[first]]\nepsilon = 0.1\nlr = 3",
        "first[0].lr: 3; allowed: 1, 2, as space.lr says",
    ),
    "a misspelt first point": (
        "[[first]]\nepsilonn = 0.1",
        "first[0].epsilon: missing; give a finite number from 0 to 1 (is 'epsilonn' it, misspelt?)",
    ),
    "a first table that is no list": (
        "[first]\nepsilon = 0.1",
        "first: {'epsilon': 0.1}; allowed: a list of tables with epsilon, schedule, rate",
    ),
    "a first point from nowhere": (
        '[[first]]\nfrom = "best.json"',
        "first[0].from: best.json cannot be read: No such file or directory",
    ),
    "a first point from something else": (
        '[[first]]\nfrom = "quick.toml"',
        "first[0].from: quick.toml is not the best.json of a study (sweeper export writes one): ",
    ),
    "a first point from a number": (
        "[[first]]\nfrom = 3",
        "first[0].from: 3; allowed: the path of a study's best.json",
    ),
    "not TOML": ("[budget\ntrials", "not valid TOML: "),
    "no pack": (
        "[budget]\npack = 0",
        "budget.pack: 0; allowed: 'auto', 'off' or a whole number from 1 to budget.trials",
    ),
    "a negative pack": (
        "[budget]\npack = -4",
        "budget.pack: -4; allowed: 'auto', 'off' or a whole number from 1 to budget.trials",
    ),
    "a pack of a word": (
        "[budget]\npack = 'all'",
        "budget.pack: 'all'; allowed: 'auto', 'off' or a whole number from 1 to budget.trials",
    ),
    "a pack larger than the budget": (
        "[budget]\ntrials = 8\npack = 9",
        "budget.pack: 9; allowed: at most trials = 8",
    ),
    "several at once": (
        '[study]\nnme = "a"\n[budget]\ntrials = 0',
        "study.name: missing; give text in quotes (is 'nme' it, misspelt?)",
        "study.nme: unknown key (did you mean 'name'?); allowed: name, seed",
        "budget.trials: 0; allowed: a whole number from 1 to 1,000,000",
    ),
}


@pytest.mark.parametrize("problem", WRONG)
@pytest.mark.parametrize("dry", [False, True], ids=["launch", "dry run"])
def test_a_study_file_that_says(problem: str, dry: bool, write_study: Write) -> None:
    text, *expected = WRONG[problem]
    study(text, write_study)
    lines = refused("launch", "quick.toml", *(["--dry-run"] if dry else []))
    assert len(lines) == len(expected)
    for line, wanted in zip(lines, expected, strict=True):
        assert line.startswith(f"quick.toml: {wanted}")
        assert line == f"quick.toml: {wanted}" or wanted.endswith(" ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"epsilon": 0.1}', "it has no 'convention'"),
        ("[]", "it holds no JSON object"),
        (
            '{"convention": "uniform", "epsilon": 0.1, "schedule": "fixed", "rate": null}',
            "its convention is 'uniform', a study's is 'others'",
        ),
        ("nonsense", "Expecting value"),
    ],
)
def test_a_first_point_from_a_file_that_is_no_export(
    content: str, said: str, write_study: Write
) -> None:
    Path("best.json").write_text(content)
    study('[[first]]\nfrom = "best.json"', write_study)
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: first[0].from: best.json is not the best.json of a study")
    assert said in line


# ---- study files and their code ----------------------------------------------------------


def test_a_study_file_that_is_not_there(write_study: Write) -> None:
    write_study()
    assert refused("launch", "quik.toml") == [
        "quik.toml: there is no such study file (did you mean 'quick.toml'?); the ready ones: "
        + ", ".join(sorted(api_ready()))
    ]
    [line] = refused("launch", "digts")
    assert line.startswith("digts: neither a file nor a ready study (did you mean 'digits'?)")


def api_ready() -> list[str]:
    from sweeper.study.ready import ready_studies

    return list(ready_studies())


def test_a_study_file_that_is_not_text() -> None:
    Path("quick.toml").write_bytes(b"[study]\nname = '\xff\xfe'\n")
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: not UTF-8 text, as TOML has to be: ")


def test_a_folder_is_no_study_file() -> None:
    Path("quick.toml").mkdir()
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: there is no such study file")


CODE = {
    "raises": ("import math\n1 / 0\n", "own.py:2: ZeroDivisionError: division by zero"),
    "imports what is not there": ("import nosuch", "own.py:1: ModuleNotFoundError: No module"),
    "does not parse": ("def train(run:\n", "own.py:1: SyntaxError"),
    "exits": ("raise SystemExit(3)", "own.py:1: SystemExit: 3"),
    "has another name": ("def trian(run): yield", "has no 'train' (did you mean 'trian'?)"),
    "is no task": ("train = 3", "own.py:train is of type int; allowed: a Task"),
}


@pytest.mark.parametrize("problem", CODE)
def test_a_task_file_that(problem: str, write_study: Write) -> None:
    content, said = CODE[problem]
    study('[task]\nuse = "own.py:train"', write_study)
    Path("own.py").write_text(content)
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: task.use: ")
    assert said in line


def test_a_schedules_file_that_is_not_there(write_study: Write) -> None:
    study('[space]\nschedule = ["fixed", "own.py:mine"]', write_study)
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: space.schedule: own.py:mine: there is no file ")


def test_a_schedule_that_rises(write_study: Write) -> None:
    study('[space]\nschedule = ["own.py:mine"]', write_study)
    Path("own.py").write_text("def mine(u, r):\n    return 1 + u\n")
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: space.schedule: ")
    assert "own.py:mine" in line


DATA = {
    "with_nan": "valid: the inputs of row 4 hold nan",
    "with_label": "train: the label of row 2 is 7; allowed are 0 to 2 (3 classes)",
    "with_missing": "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/data.csv'",
    "other_classes": "data(0) gave 3; allowed: Splits(train, valid, test, classes=4)",
    "narrow": "the model gives outputs of shape (2, 5); allowed: (rows, 3)",
    "wide": "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
}


@pytest.mark.parametrize("task", DATA)
def test_a_task_whose_data_or_model_do_not_fit(task: str, write_study: Write) -> None:
    study(f'[task]\nuse = "tiny.py:{task}"', write_study)
    copy_task(Path(), "tiny.py")
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: task.use: ")
    assert DATA[task] in line


def test_an_option_that_a_users_task_does_not_take(write_study: Write) -> None:
    study('[task]\nuse = "tiny.py:optional"\noptions = { dept = 3 }', write_study)
    copy_task(Path(), "tiny.py")
    assert refused("launch", "quick.toml") == [
        "quick.toml: task.options.dept: tiny.py:optional takes no such option (did you mean "
        "'depth'?); allowed: depth"
    ]


# ---- options of the commands -------------------------------------------------------------

OPTIONS = {
    "--workers -1": "workers: -1; allowed: 0 (this process alone) to 256",
    "--workers 9999": "workers: 9999; allowed: 0 (this process alone) to 256",
    "--workers two": "Invalid value for '--workers': ",
    "--trials 0": "trials: 0; allowed: a whole number from 1 to 1,000,000",
    "--trials 1.5": "Invalid value for '--trials': ",
    "--timeout 0": "timeout: 0; allowed: a finite number of seconds above 0",
    "--timeout -3": "timeout: -3; allowed: a finite number of seconds above 0",
    "--timeout nan": "timeout: nan; allowed: a finite number of seconds above 0",
    "--worker 2": "No such option: --worker (Possible options: --workers); ",
    "--results quick.py": "results: quick.py is no folder that can be written to; name another",
    "--results quick.py/a": "results: ",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_launch(option: str, write_study: Write) -> None:
    [line] = refused("launch", write_study(), *option.split())
    assert line.startswith(OPTIONS[option])


def test_arguments_that_are_missing_or_unknown() -> None:
    assert refused("launch") == ["Missing argument 'study'; sweeper launch --help says more"]
    assert refused("lunch") == [
        "No such command 'lunch'. Did you mean 'launch'?; sweeper --help says more"
    ]


@pytest.fixture
def finished(write_study: Write) -> Path:
    path = write_study()
    assert run("launch", path, "--workers", 0).status == 0
    run("status")
    return path


@pytest.mark.parametrize("command", ["status", "report", "export", "logs", "delete", "worker"])
def test_an_unknown_study(command: str, finished: Path) -> None:
    more = {"logs": ["0"], "delete": ["--yes"]}.get(command, [])
    before = api.open_study("quick").frame()
    done = run(command, "qiuck", *more)
    assert done.status == 2
    assert done.err == (
        "error: no study 'qiuck' in sqlite:///sweeper.db (did you mean 'quick'?); it holds quick\n"
    )
    assert api.open_study("quick").frame().equals(before)
    assert not Path("results/qiuck").exists()


@pytest.mark.parametrize("number", ["12", "999999999999"])
def test_a_trial_that_is_not_there(number: str, finished: Path) -> None:
    assert run("logs", "quick", number).err == (
        f"error: study 'quick' has no trial {number}; it has 12, from 0\n"
    )


def test_an_export_format_that_is_not_there(finished: Path) -> None:
    [line] = refused("export", "quick", "--format", "xml", "-o", "x/best.xml")
    assert line.startswith(
        "Invalid value for '--format': 'xml' is not one of 'json', 'yaml', 'python'"
    )


@pytest.mark.parametrize("command", ["report", "export"])
def test_a_file_that_cannot_be_written(command: str, finished: Path) -> None:
    done = run(command, "quick", "-o", "quick.py/x")
    assert done.status == 2
    assert done.err.startswith("error: quick.py/x")
    assert len(done.err.splitlines()) == 1


def test_an_export_without_a_finished_trial(write_study: Write) -> None:
    study('[task]\nuse = "own.py:train"\n[budget]\ntrials = 1', write_study)
    Path("own.py").write_text("def train(run):\n    raise ValueError\n    yield\n")
    assert run("launch", "quick.toml", "--workers", 0).status == 1
    done = run("export", "quick", "-o", "x/best.json")
    assert done == Done(2, "", "error: study 'quick' has no finished trial to export yet\n")
    assert not Path("x").exists()


# ---- a name that is taken ----------------------------------------------------------------


@pytest.mark.parametrize("dry", [False, True], ids=["launch", "dry run"])
def test_a_study_that_differs_from_the_stored_one(
    dry: bool, finished: Path, write_study: Write
) -> None:
    before = api.open_study("quick").frame()
    text = STUDY.replace("seed = 3", "seed = 4") + "[space]\nepsilon = { low = 0, high = 0.3 }\n"
    results = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    done = run("launch", write_study(text), "--workers", 0, *(["--dry-run"] if dry else []))
    assert done.status == 2
    assert done.err == (
        "error: study 'quick' was launched with another spec (space.epsilon.high: 0.4 -> 0.3; "
        "study.seed: 3 -> 4); give this one another name, or delete the stored one: "
        "sweeper delete quick\n"
    )
    assert api.open_study("quick").frame().equals(before)
    assert results == {p: p.read_bytes() for p in Path("results").rglob("*") if p.is_file()}


def test_a_launch_from_python_compares_specs_too(finished: Path, write_study: Write) -> None:
    before = api.open_study("quick").spec
    path = write_study(STUDY.replace("seed = 3", "seed = 4"))
    with pytest.raises(SweeperError, match=r"another spec \(study\.seed: 3 -> 4\)"):
        api.launch(path, workers=0)
    assert api.open_study("quick").spec == before


def test_a_task_file_that_changed_since_the_launch(finished: Path) -> None:
    with Path("quick.py").open("a") as stream:
        stream.write("# changed\n")
    done = run("launch", finished, "--workers", 0)
    assert done.status == 2
    assert "(quick.py is another file); give this one another name, or delete" in done.err
    assert run("worker", "quick").err.startswith("error: study 'quick': ")


# ---- databases ---------------------------------------------------------------------------

SERVER = "postgresql://user:sekret@127.0.0.1:1/db"
STORAGES = {
    "none/sweeper.db": "storage: none/sweeper.db: there is no folder none; make it first",
    "folder": "storage: folder is a folder; name a file in it",
    "text.db": "sqlite:///text.db: the database does not serve us: file is not a database",
    "foo://x": "storage: 'foo' databases are not served; allowed: sqlite, postgresql, mysql",
    "mysql+mysqldb://u:sekret@h/db": "storage: 'mysql+mysqldb' databases are not served",
    "mysql://u:sekret@127.0.0.1:1/db": "mysql+pymysql://u:***@127.0.0.1:1/db: the database does",
    "postgresql+asyncpg://u:sekret@h/db": "storage: 'postgresql+asyncpg' databases are not",
    "postgresql://u:sekret@h:port/db": "the storage is not a database URL; allowed: a file path",
    "sqlite://": "storage: an SQLite database in memory cannot be shared by workers",
    SERVER: "postgresql+psycopg://user:***@127.0.0.1:1/db: the database does not serve us: ",
    f"{SERVER}?password=sekret": "postgresql+psycopg://user:***@127.0.0.1:1/db: the database",
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dry", [False, True], ids=["launch", "dry run"])
def test_a_database_that_cannot_be_opened(storage: str, dry: bool, write_study: Write) -> None:
    write_study()
    Path("folder").mkdir()
    Path("text.db").write_text("no database " * 1000)
    arguments = ["launch", "quick.toml", "--storage", storage, *(["--dry-run"] if dry else [])]
    before = tree()
    done = run(*arguments)
    left = {name for name in tree() if not name.endswith(".lock")}
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith(f"error: {STORAGES[storage]}")
    assert len(done.err.splitlines()) == 1
    assert left == set(before)
    assert "sekret" not in done.err


@pytest.mark.parametrize("command", [["status"], ["report", "x"], ["export", "x"], ["worker", "x"]])
@pytest.mark.parametrize("storage", STORAGES)
def test_no_command_makes_a_database_or_tells_a_password(storage: str, command: list[str]) -> None:
    Path("folder").mkdir()
    Path("text.db").write_text("no database " * 1000)
    [line] = refused(*command, "--storage", storage)
    assert "sekret" not in line


def test_a_password_is_not_in_a_traceback_either(write_study: Write) -> None:
    done = run("launch", write_study(), "--storage", SERVER, "--debug")
    assert "Traceback" in done.err
    assert "sekret" not in done.err


def test_a_missing_driver_is_one_line(write_study: Write) -> None:
    path = write_study()
    with patch.dict("sys.modules", {"psycopg": None}):
        [line] = refused("launch", path, "--storage", SERVER)
    assert line.startswith("postgresql+psycopg://user:***@127.0.0.1:1/db cannot be opened: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_to(write_study: Write) -> None:
    write_study()
    Path("closed").mkdir(mode=0o500)
    [line] = refused("launch", "quick.toml", "--storage", "closed/sweeper.db")
    assert line.startswith("sqlite:///closed/sweeper.db")


def test_a_database_that_stays_locked(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = api.open_study("quick").frame()
    monkeypatch.setattr(database, "LOCK_TIMEOUT_SECONDS", 0.2)
    holder = sqlite3.connect("sweeper.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    done = run("launch", finished, "--workers", 0, "--trials", 14)
    reading = run("status", "quick", "--json")
    holder.execute("ROLLBACK")
    holder.close()
    assert done.status == 2
    assert done.err == (
        "error: sqlite:///sweeper.db: locked by another process for more than 0.2 s; "
        "end that process, or try again\n"
    )
    assert reading.json["complete"] == len(before[before["state"] == "complete"])
    assert api.open_study("quick").frame().equals(before)


# ---- --debug -----------------------------------------------------------------------------


def test_debug_shows_the_traceback_and_keeps_the_status(write_study: Write) -> None:
    study("[budget]\ntrials = 0", write_study)
    done = run("launch", "quick.toml", "--debug")
    assert done.status == 2
    assert done.err.startswith("Traceback (most recent call last):")
    assert done.err.splitlines()[-1].startswith("error: quick.toml: budget.trials: 0; ")


def test_debug_shows_where_a_users_file_failed(write_study: Write) -> None:
    study('[task]\nuse = "own.py:train"', write_study)
    Path("own.py").write_text("import math\n\n1 / 0\n")
    assert 'own.py", line 3' in run("--debug", "launch", "quick.toml").err


def test_what_nobody_foresaw_is_one_line_too() -> None:
    with patch("sweeper.api.studies", side_effect=KeyError("x")):
        done = run("status")
        shown = run("status", "--debug")
    assert done == Done(1, "", "error: unexpected KeyError: 'x' (--debug shows where)\n")
    assert "Traceback" in shown.err


@pytest.mark.slow
def test_the_status_of_a_real_process_is_2(write_study: Write) -> None:
    path = study("[budget]\ntrials = 0", write_study)
    done = process("launch", path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
