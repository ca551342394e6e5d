"""Bad input: one line a problem, exit status 2, no traceback, nothing written, nothing lost."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from sweeper import api
from sweeper.cli.exit_codes import ExitCode
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


def refused(*arguments: object, code: ExitCode = ExitCode.REFUSED) -> list[str]:
    """Run a command that has to be refused; return its lines without `error: `."""
    before = tree()
    done = run(*arguments)
    assert done.status == code, done
    assert done.results == ""
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
DIMENSION = (
    "a table { low, high, log, integer, when } or a non-empty list of values (strings, numbers, "
    "true or false) or a table { values, when } or true or false or an integer or a finite number "
    "or a string"
)
SEED = "an integer >= 0 and < 4,294,967,296"

# What stands in the file, and the lines that it gets after "quick.toml: ".
WRONG = {
    "unknown table": (
        "[spaec]\nx = 1",
        "spaec: unknown key (did you mean 'space'?); allowed: study, task, space, objective, "
        "budget, sampler, pruner, confirm, resources, first",
    ),
    "unknown key": (
        "[budget]\ntrails = 3",
        "budget.trails: unknown key (did you mean 'trials'?); allowed: trials, baseline, "
        "timeout, core_hours, gpu_hours, trial_timeout, patience, pack",
    ),
    "unknown key of a range": (
        "[space]\nepsilon = { low = 0, high = 0.4, lg = true }",
        "space.epsilon.lg: unknown key (did you mean 'log'?); allowed: low, high, log, integer",
    ),
    "unknown key of a hyperparameter": (
        "[space]\nlr = { low = 0.1, high = 0.4, logg = true }",
        "space.lr.logg: unknown key (did you mean 'log'?); allowed: low, high, log, integer, when, "
        "values",
    ),
    "misspelt epsilon": (
        "[space]\nepsilonn = { low = 0, high = 0.4 }",
        "space.epsilonn: unknown key (did you mean 'epsilon'?); if it is a hyperparameter of your "
        "training function, choose a less similar name",
    ),
    "epsilon below 0": (
        "[space]\nepsilon = { low = -0.1, high = 0.4 }",
        "space.epsilon: low must be 0, because every study tries epsilon = 0 first; got -0.1",
    ),
    "epsilon above 1": (
        "[space]\nepsilon = { low = 0, high = 1.5 }",
        "space.epsilon: high must be <= 1, got 1.5",
    ),
    "low above high": (
        "[space]\nepsilon = { low = 0.5, high = 0.4 }",
        "space.epsilon: low = 0.5 and high = 0.4; low must be below high",
    ),
    "no high": (
        "[space]\nlr = { low = 0.5 }",
        "space.lr.high: missing; must be a finite number",
    ),
    "a log range from 0": (
        "[space]\nlr = { low = 0, high = 1, log = true }",
        "space.lr: low = 0 with log = true; low must be > 0",
    ),
    "a rate of 0": (
        "[space]\nrate = { low = 0, high = 1 }",
        "space.rate: low must be > 0, got 0",
    ),
    "halves of an integer": (
        "[space]\nwidth = { low = 1.5, high = 3, integer = true }",
        "space.width: low = 1.5 and high = 3 with integer = true; both must be integers",
    ),
    "epsilon as a number": ("[space]\nepsilon = 0.1", f"space.epsilon: must be {TABLE}, got 0.1"),
    "a fixed value of a wrong type": (
        '[task]\nuse = "digits"\n[space]\nlr = "x"',
        "space.lr: lr must be a number, got 'x'",
    ),
    "a hyperparameter as a date": (
        "[space]\nlr = 2020-01-01",
        f"space.lr: must be {DIMENSION}, got 2020-01-01",
    ),
    "no choice": ("[space]\nlr = []", f"space.lr: must be {DIMENSION}, got []"),
    "a list in a list": (
        "[space]\nlr = [[1]]",
        "space.lr[0]: must be a string, a finite number, true or false, got [1]",
    ),
    "a choice twice": ("[space]\nlr = [1, true]", "space.lr: duplicate choice true in [1, True]"),
    "NaN among choices": (
        "[space]\nlr = [1, nan]",
        "space.lr[1]: must be a string, a finite number, true or false, got nan",
    ),
    "texts as ends": (
        '[space]\nepsilon = { low = "0", high = true }',
        "space.epsilon.low: must be a finite number, got '0'",
        "space.epsilon.high: must be a finite number, got true",
    ),
    "infinity": (
        "[space]\nepsilon = { low = 0, high = inf }",
        "space.epsilon.high: must be a finite number, got inf",
    ),
    "unknown schedule": (
        '[space]\nschedule = ["fixed", "linaer"]',
        "space.schedule: unknown schedule 'linaer' (did you mean 'linear'?); "
        f"allowed: {SCHEDULES} or file.py:function",
    ),
    "a schedule that is no text": (
        "[space]\nschedule = [1]",
        "space.schedule[0]: must be a string, got 1",
    ),
    "no schedule": (
        "[space]\nschedule = []",
        "space.schedule: must be a string or a non-empty list of strings, got []",
    ),
    "no name": ("[study]\nseed = 1", "study.name: missing; must be a string"),
    "a name that leaves its folder": (
        '[study]\nname = "../x"',
        "study.name: invalid value '../x'; allowed: Letters, digits, '.', '_' and '-', starting "
        "with a letter or digit; at most 100 characters",
    ),
    "a seed as text": ('[study]\nname = "q"\nseed = "1"', f"study.seed: must be {SEED}, got '1'"),
    "a seed too large": (
        "[study]\nname = 'q'\nseed = 4294967296",
        f"study.seed: must be {SEED}, got 4294967296",
    ),
    "no trials": (
        "[budget]\ntrials = 0",
        "budget.trials: must be an integer from 1 to 1,000,000, got 0",
    ),
    "half a trial": (
        "[budget]\ntrials = 1.5",
        "budget.trials: must be an integer from 1 to 1,000,000, got 1.5",
    ),
    "no time": (
        "[budget]\ntimeout = 0",
        "budget.timeout: must be a finite number > 0 and <= 100,000,000, got 0",
    ),
    "unknown metric": (
        '[objective]\nmetric = "nlll"',
        "objective.metric: must be nll or nll_calibrated, got 'nlll' (did you mean 'nll'?)",
    ),
    "unknown sampler": (
        '[sampler]\nname = "cmaes"',
        "sampler.name: must be tpe, gp, random, grid or qmc, got 'cmaes'",
    ),
    "a percentile above 100": (
        "[pruner]\npercentile = 120",
        "pruner.percentile: must be a finite number > 0 and < 100, got 120",
    ),
    "one replicate": (
        "[confirm]\nreplicates = 1",
        "confirm.replicates: must be an integer from 2 to 1,000, got 1",
    ),
    "a constraint that does not parse": (
        '[confirm]\nconstraint = "accuracy > 0.9"',
        "confirm.constraint: invalid constraint 'accuracy > 0.9'; write SCORE >= BOUND or SCORE <= "
        "BOUND, where BOUND is a number, baseline, baseline - 0.005 or baseline * 1.1",
    ),
    "a constraint on no score": (
        '[confirm]\nconstraint = "acuracy >= 0.9"',
        "confirm.constraint: unknown score 'acuracy' (did you mean 'accuracy'?); allowed: nll, ",
    ),
    "unknown choice": (
        '[confirm]\nchoice = "bst"',
        "confirm.choice: must be best, one_standard_error or knee, got 'bst' (did you mean "
        "'best'?)",
    ),
    "unknown task": (
        '[task]\nuse = "digit"',
        "task.use: unknown task 'digit' (did you mean 'digits'?); allowed: digits, or "
        '"file.py:name" or "module:name"',
    ),
    "unknown option": (
        '[task]\nuse = "digits"\noptions = { label_nose = 0.1 }',
        "task.options.label_nose: digits has no such option (did you mean 'label_noise'?); "
        "allowed: label_noise, valid_noise, train_fraction, model",
    ),
    "option out of range": (
        '[task]\nuse = "digits"\noptions = { label_noise = 2 }',
        "task.options.label_noise: label_noise must be a number in [0, 1], got 2",
    ),
    "an option that JSON cannot hold": (
        '[task]\nuse = "quick.py:train"\noptions = { a = { b = nan } }',
        "task.options: a.b: must be a string, a finite number, true or false, got nan",
    ),
    "unknown device": (
        '[task]\nuse = "digits"\ndevice = "gpu"',
        "task.device: unknown device 'gpu'; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...",
    ),
    "a device that is not there": (
        '[task]\nuse = "digits"\ndevice = "cuda:99"',
        "task.device: device 'cuda:99' is not available: torch ",
    ),
    "a hyperparameter that the task lacks": (
        '[task]\nuse = "digits"\n[space]\nwidht = [16]',
        "space.widht: unknown hyperparameter of the task (did you mean 'width'?); allowed: "
        "epsilon, schedule, rate, beta1, beta2, dropout, l1, lr, momentum, noise, optimizer, "
        "shift, weight_decay, width",
    ),
    "a hyperparameter that the optimizer refuses": (
        '[task]\nuse = "digits"\n[space]\nlr = { low = -1, high = 1 }',
        "space.lr: lr must be a finite number > 0, got -1.0",
    ),
    "first points outside the space": (
        "[[first]]\nepsilon = 0.9\n[[first]]\nepsilon = 0.1\nschedule = 'linaer'\nrate = 50",
        "first[0].epsilon: must be from 0 to 0.4 (space.epsilon), got 0.9",
        "first[1].rate: must be from 0.3 to 12 (space.rate), got 50",
        "first[1].schedule: must be fixed, linear, cosine, exponential, step, confidence or error "
        "(space.schedule), got 'linaer' (did you mean 'linear'?)",
    ),
    "a first point with what is not searched": (
        "[[first]]\nepsilon = 0.1\nlr = 1",
        "first[0].lr: is not a key of [space]; add it there or remove it here",
    ),
    "a first point with another choice": (
        "[space]\nlr = [1, 2]\n[[first]]\nepsilon = 0.1\nlr = 3",
        "first[0].lr: must be 1 or 2 (space.lr), got 3",
    ),
    "a misspelt first point": (
        "[[first]]\nepsilonn = 0.1",
        "first[0].epsilon: missing; must be a finite number from 0 to 1 (is 'epsilonn' a "
        "misspelling of it?)",
    ),
    "a first table that is no list": (
        "[first]\nepsilon = 0.1",
        "first: must be a list of tables { epsilon, schedule, rate }, got {'epsilon': 0.1}",
    ),
    "a first point from nowhere": (
        '[[first]]\nfrom = "best.json"',
        "first[0].from: best.json cannot be read: No such file or directory",
    ),
    "a first point from something else": (
        '[[first]]\nfrom = "quick.toml"',
        "first[0].from: quick.toml is not a best.json as written by sweeper export: ",
    ),
    "a first point from a number": (
        "[[first]]\nfrom = 3",
        "first[0].from: must be the path of a study's best.json, got 3",
    ),
    "not TOML": ("[budget\ntrials", "not valid TOML: "),
    "no pack": (
        "[budget]\npack = 0",
        "budget.pack: must be 'auto', 'off' or an integer from 1 to budget.trials, got 0",
    ),
    "a negative pack": (
        "[budget]\npack = -4",
        "budget.pack: must be 'auto', 'off' or an integer from 1 to budget.trials, got -4",
    ),
    "a pack of a word": (
        "[budget]\npack = 'all'",
        "budget.pack: must be 'auto', 'off' or an integer from 1 to budget.trials, got 'all'",
    ),
    "a pack larger than the budget": (
        "[budget]\ntrials = 8\npack = 9",
        "budget.pack: must be at most trials = 8, got 9",
    ),
    "several at once": (
        '[study]\nnme = "a"\n[budget]\ntrials = 0',
        "study.name: missing; must be a string (is 'nme' a misspelling of it?)",
        "study.nme: unknown key (did you mean 'name'?); allowed: name, seed, extends",
        "budget.trials: must be an integer from 1 to 1,000,000, got 0",
    ),
}


@pytest.mark.parametrize("problem", WRONG)
@pytest.mark.parametrize("dry", [False, True], ids=["launch", "dry run"])
def test_invalid_study_file_is_rejected(problem: str, dry: bool, write_study: Write) -> None:
    text, *expected = WRONG[problem]
    study(text, write_study)
    lines = refused("launch", "quick.toml", *(["--dry-run"] if dry else []))
    assert len(lines) == len(expected)
    for line, wanted in zip(lines, expected, strict=True):
        assert line.startswith(f"quick.toml: {wanted}")
        assert line == f"quick.toml: {wanted}" or wanted.endswith(" ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epsilon": 0.1}', "missing key 'convention'"),
        ("[]", "not a JSON object"),
        (
            '{"convention": "uniform", "epsilon": 0.1, "schedule": "fixed", "rate": null}',
            "its convention must be 'others', got 'uniform'",
        ),
        ("nonsense", "Expecting value"),
    ],
)
def test_first_point_from_non_export_is_rejected(
    content: str, message: str, write_study: Write
) -> None:
    Path("best.json").write_text(content)
    study('[[first]]\nfrom = "best.json"', write_study)
    [line] = refused("launch", "quick.toml")
    assert line.startswith(
        "quick.toml: first[0].from: best.json is not a best.json as written by sweeper export"
    )
    assert message in line


# ---- study files and their code ----------------------------------------------------------


def test_missing_study_file_is_rejected(write_study: Write) -> None:
    write_study()
    assert refused("launch", "quik.toml") == [
        "quik.toml: no such study file (did you mean 'quick.toml'?); example studies: "
        + ", ".join(sorted(api_ready()))
    ]
    [line] = refused("launch", "digts")
    assert line.startswith("digts: neither a file nor an example study (did you mean 'digits'?)")


def api_ready() -> list[str]:
    from sweeper.study.examples import example_studies

    return list(example_studies())


def test_binary_study_file_is_rejected() -> None:
    Path("quick.toml").write_bytes(b"[study]\nname = '\xff\xfe'\n")
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: not valid UTF-8, which TOML requires: ")


def test_folder_as_study_file_is_rejected() -> None:
    Path("quick.toml").mkdir()
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml is a directory, not a study file; example studies: ")


CODE = {
    "raises": ("import math\n1 / 0\n", "own.py:2: ZeroDivisionError: division by zero"),
    "imports what is not there": ("import nosuch", "own.py:1: ModuleNotFoundError: No module"),
    "does not parse": ("def train(run:\n", "own.py:1: SyntaxError"),
    "exits": ("raise SystemExit(3)", "own.py:1: SystemExit: 3"),
    "has another name": ("def trian(run): yield", "has no 'train' (did you mean 'trian'?)"),
    "is no task": ("train = 3", "own.py:train is of type int; allowed: a Task"),
}


@pytest.mark.parametrize("problem", CODE)
def test_invalid_task_file_is_rejected(problem: str, write_study: Write) -> None:
    content, message = CODE[problem]
    study('[task]\nuse = "own.py:train"', write_study)
    Path("own.py").write_text(content)
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: task.use: ")
    assert message in line


def test_missing_schedule_file_is_rejected(write_study: Write) -> None:
    study('[space]\nschedule = ["fixed", "own.py:mine"]', write_study)
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: space.schedule: own.py:mine: file ")
    assert "own.py does not exist" in line


def test_increasing_schedule_is_rejected(write_study: Write) -> None:
    study('[space]\nschedule = ["own.py:mine"]', write_study)
    Path("own.py").write_text("def mine(u, r):\n    return 1 + u\n")
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: space.schedule: ")
    assert "own.py:mine" in line


DATA = {
    "with_nan": "valid: the inputs of row 4 contain nan",
    "with_label": "train: the label of row 2 is 7; allowed: 0 to 2 (3 classes)",
    "with_missing": "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/data.csv'",
    "other_classes": "data(0) returned Splits with 3 classes; "
    "allowed: Splits(train, valid, test, classes=4)",
    "narrow": "the model returned outputs of shape (2, 5); allowed: (rows, 3)",
    "wide": "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
}


@pytest.mark.parametrize("task", DATA)
def test_task_with_mismatched_data_or_model_is_rejected(task: str, write_study: Write) -> None:
    study(f'[task]\nuse = "tiny.py:{task}"', write_study)
    copy_task(Path(), "tiny.py")
    [line] = refused("launch", "quick.toml")
    assert line.startswith("quick.toml: task.use: ")
    assert DATA[task] in line


def test_unknown_task_option_is_rejected(write_study: Write) -> None:
    study('[task]\nuse = "tiny.py:optional"\noptions = { dept = 3 }', write_study)
    copy_task(Path(), "tiny.py")
    assert refused("launch", "quick.toml") == [
        "quick.toml: task.options.dept: tiny.py:optional has no such option (did you mean "
        "'depth'?); allowed: depth"
    ]


# ---- options of the commands -------------------------------------------------------------

BOUNDS = "must be a number of seconds above 0 and at most 100,000,000"
OPTIONS = {
    "--workers -1": "workers: must be from 0 (train in this process) to 256, got -1",
    "--workers 9999": "workers: must be from 0 (train in this process) to 256, got 9999",
    "--workers two": "Invalid value for '--workers': ",
    "--trials 0": "trials: must be an integer from 1 to 1,000,000, got 0",
    "--trials 1.5": "Invalid value for '--trials': ",
    "--timeout 0": f"timeout: {BOUNDS}, got 0",
    "--timeout -3": f"timeout: {BOUNDS}, got -3",
    "--timeout nan": f"timeout: {BOUNDS}, got nan",
    "--worker 2": "No such option: --worker (Possible options: --workers); ",
    "--results quick.py": "results: quick.py is not a writable directory; choose another with "
    "--results",
    "--results quick.py/a": "results: ",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_invalid_launch_option_is_rejected(option: str, write_study: Write) -> None:
    [line] = refused("launch", write_study(), *option.split())
    assert line.startswith(OPTIONS[option])


def test_missing_or_unknown_arguments_are_rejected() -> None:
    assert refused("launch") == ["Missing argument 'study'; see sweeper launch --help"]
    assert refused("lunch") == [
        "No such command 'lunch'. Did you mean 'launch'? See sweeper --help"
    ]


@pytest.fixture
def finished(write_study: Write) -> Path:
    path = write_study()
    assert run("launch", path, "--workers", 0).status == 0
    run("status")
    return path


@pytest.mark.parametrize("command", ["status", "report", "export", "logs", "delete", "worker"])
def test_unknown_study_is_rejected(command: str, finished: Path) -> None:
    more = {"logs": ["0"], "delete": ["--yes"]}.get(command, [])
    before = api.open_study("quick").frame()
    done = run(command, "qiuck", *more)
    assert done.status == 2
    assert done.err == (
        "error: no study 'qiuck' in sqlite:///sweeper.db (did you mean 'quick'?); "
        "existing studies: quick\n"
    )
    assert api.open_study("quick").frame().equals(before)
    assert not Path("results/qiuck").exists()


@pytest.mark.parametrize("number", ["12", "999999999999"])
def test_unknown_trial_is_rejected(number: str, finished: Path) -> None:
    assert run("logs", "quick", number).err == (
        f"error: study 'quick': trial {number} does not exist (trials 0-11)\n"
    )


def test_unknown_export_format_is_rejected(finished: Path) -> None:
    [line] = refused("export", "quick", "--format", "xml", "-o", "x/best.xml")
    assert line.startswith(
        "Invalid value for '--format': 'xml' is not one of 'json', 'yaml', 'python'"
    )


@pytest.mark.parametrize("command", ["report", "export"])
def test_unwritable_output_file_is_an_error(command: str, finished: Path) -> None:
    done = run(command, "quick", "-o", "quick.py/x")
    assert done.status == 2
    assert done.err.startswith("error: quick.py/x")
    assert len(done.err.splitlines()) == 1


def test_export_without_finished_trial_is_an_error(write_study: Write) -> None:
    study('[task]\nuse = "own.py:train"\n[budget]\ntrials = 1', write_study)
    Path("own.py").write_text("def train(run):\n    raise ValueError\n    yield\n")
    assert run("launch", "quick.toml", "--workers", 0).status == 1
    done = run("export", "quick", "-o", "x/best.json")
    assert done == Done(2, "", "error: study 'quick' has no finished trial to export yet\n")
    assert not Path("x").exists()


# ---- a name that is taken ----------------------------------------------------------------


@pytest.mark.parametrize("dry", [False, True], ids=["launch", "dry run"])
def test_launch_of_changed_study_is_rejected(dry: bool, finished: Path, write_study: Write) -> None:
    before = api.open_study("quick").frame()
    text = STUDY.replace("seed = 3", "seed = 4") + "[space]\nepsilon = { low = 0, high = 0.3 }\n"
    results = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    done = run("launch", write_study(text), "--workers", 0, *(["--dry-run"] if dry else []))
    assert done.status == 2
    assert done.err == (
        "error: study 'quick' was launched with other settings (space.epsilon.high: 0.4 -> 0.3; "
        "study.seed: 3 -> 4); choose another name, or delete the stored study: "
        "sweeper delete quick\n"
    )
    assert api.open_study("quick").frame().equals(before)
    assert results == {p: p.read_bytes() for p in Path("results").rglob("*") if p.is_file()}


def test_launch_from_python_rejects_changed_spec(finished: Path, write_study: Write) -> None:
    before = api.open_study("quick").spec
    path = write_study(STUDY.replace("seed = 3", "seed = 4"))
    with pytest.raises(SweeperError, match=r"other settings \(study\.seed: 3 -> 4\)"):
        api.launch(path, workers=0)
    assert api.open_study("quick").spec == before


def test_changed_task_file_is_rejected(finished: Path) -> None:
    with Path("quick.py").open("a") as stream:
        stream.write("# changed\n")
    done = run("launch", finished, "--workers", 0)
    assert done.status == 2
    assert "quick.py has changed since launch; restore the file" in done.err
    assert "--accept-code" in done.err
    assert run("worker", "quick").err.startswith("error: study 'quick': ")


# ---- databases ---------------------------------------------------------------------------

SERVER = "postgresql://user:sekret@127.0.0.1:1/db"
STORAGES = {
    "none/sweeper.db": "storage: none/sweeper.db: folder none does not exist; create it first",
    "folder": "storage: folder is a directory; give the name of a file",
    "": "storage: must not be empty; allowed: a file path, sqlite:///FILE, postgresql://",
    "text.db": "sqlite:///text.db: database error: file is not a database",
    "foo://x": "storage: 'foo' databases are not supported; allowed: sqlite, postgresql, mysql",
    "mysql+mysqldb://u:sekret@h/db": "storage: 'mysql+mysqldb' databases are not supported",
    "mysql://u:sekret@127.0.0.1:1/db": "mysql+pymysql://u:***@127.0.0.1:1/db: database error: ",
    "postgresql+asyncpg://u:sekret@h/db": "storage: 'postgresql+asyncpg' databases are not",
    "postgresql://u:sekret@h:port/db": "the storage is not a database URL; allowed: a file path",
    "sqlite://": "storage: an in-memory SQLite database cannot be shared by workers",
    SERVER: "postgresql+psycopg://user:***@127.0.0.1:1/db: database error: ",
    f"{SERVER}?password=sekret": "postgresql+psycopg://user:***@127.0.0.1:1/db: database error: ",
}


def code_of(storage: str) -> ExitCode:
    """Return the exit code of a command with one of `STORAGES`."""
    fails = "database error" in STORAGES[storage]
    return ExitCode.DATABASE if fails else ExitCode.REFUSED


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dry", [False, True], ids=["launch", "dry run"])
def test_unopenable_database_is_an_error(storage: str, dry: bool, write_study: Write) -> None:
    write_study()
    Path("folder").mkdir()
    Path("text.db").write_text("no database " * 1000)
    arguments = ["launch", "quick.toml", "--storage", storage, *(["--dry-run"] if dry else [])]
    before = tree()
    done = run(*arguments)
    left = {name for name in tree() if not name.endswith(".lock")}
    assert done.status == code_of(storage)
    assert done.out == "checking quick.toml\n"
    assert done.err.startswith(f"error: {STORAGES[storage]}")
    assert len(done.err.splitlines()) == 1
    assert left == set(before)
    assert "sekret" not in done.err


@pytest.mark.parametrize("command", [["status"], ["report", "x"], ["export", "x"], ["worker", "x"]])
@pytest.mark.parametrize("storage", STORAGES)
def test_commands_do_not_create_databases_or_print_passwords(
    storage: str, command: list[str]
) -> None:
    Path("folder").mkdir()
    Path("text.db").write_text("no database " * 1000)
    [line] = refused(*command, "--storage", storage, code=code_of(storage))
    assert "sekret" not in line


def test_traceback_does_not_contain_password(write_study: Write) -> None:
    done = run("launch", write_study(), "--storage", SERVER, "--debug")
    assert "Traceback" in done.err
    assert "sekret" not in done.err


def test_missing_driver_is_a_one_line_error(write_study: Write) -> None:
    path = write_study()
    with patch.dict("sys.modules", {"psycopg": None}):
        [line] = refused("launch", path, "--storage", SERVER)
    assert "storage needs packages that are not installed (psycopg); run: pip install" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_read_only_folder_is_an_error(write_study: Write) -> None:
    write_study()
    Path("closed").mkdir(mode=0o500)
    storage = "closed/sweeper.db"
    [line] = refused("launch", "quick.toml", "--storage", storage, code=ExitCode.DATABASE)
    assert line.startswith("sqlite:///closed/sweeper.db")


def test_locked_database_is_an_error(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = api.open_study("quick").frame()
    monkeypatch.setattr(database, "LOCK_TIMEOUT_SECONDS", 0.2)
    holder = sqlite3.connect("sweeper.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    done = run("launch", finished, "--workers", 0, "--trials", 14)
    reading = run("status", "quick", "--json")
    holder.execute("ROLLBACK")
    holder.close()
    assert done.status == ExitCode.DATABASE
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
    assert done.err.splitlines()[-1].startswith("error: quick.toml: budget.trials: must be ")


def test_debug_shows_the_failing_line_of_a_user_file(write_study: Write) -> None:
    study('[task]\nuse = "own.py:train"', write_study)
    Path("own.py").write_text("import math\n\n1 / 0\n")
    assert 'own.py", line 3' in run("--debug", "launch", "quick.toml").err


def test_unexpected_error_is_one_line() -> None:
    with patch("sweeper.api.studies", side_effect=KeyError("x")):
        done = run("status")
        shown = run("status", "--debug")
    assert done == Done(
        ExitCode.UNEXPECTED,
        "",
        "error: unexpected KeyError: 'x' (use --debug to show the traceback)\n",
    )
    assert "Traceback" in shown.err


@pytest.mark.slow
def test_process_exit_status_of_usage_error_is_2(write_study: Write) -> None:
    path = study("[budget]\ntrials = 0", write_study)
    done = process("launch", path)
    assert done.returncode == 2
    assert done.stdout == f"checking {path}\n"
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
