"""Functions and tasks that are given to `sweeper.launch`, and `setup(options)`."""

import linecache
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import sweeper
from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.tasks.digest import source_digest
from sweeper.tasks.given import PickleFile, given_object
from sweeper.tasks.importing import StudyModules
from sweeper.tasks.loading import load_task
from tests.support.in_process_runs import text

TRAIN = """
    import torch
    from sweeper import Evaluation

    EPOCHS = 3
    MARK = "this text is only in the source"

    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, logits):
            return logits * self.by * FACTOR

    FACTOR = 1.0

    def labels():
        return torch.arange(30) % 3

    def train(run, by=1.0):
        print(len(MARK))
        for epoch in range(1, EPOCHS + 1):
            logits = Scale(by)(torch.eye(3)[labels()] * (epoch - run.smoothing.epsilon))
            yield Evaluation(logits, labels(), epoch / EPOCHS, extra={"lr": run.hparams["lr"]})
"""
SETTINGS: dict[str, Any] = {
    "name": "mine",
    "space": {"lr": {"low": 0.1, "high": 1.0}},
    "trials": 3,
    "sampler": {"name": "random"},
    "confirm": False,
}
Main = Callable[[str], ModuleType]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Main]:
    """Return a function that runs code as the main module, as a cell of a notebook does."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    cells = list[str]()

    def run(code: str) -> ModuleType:
        code, name = dedent(code), f"<cell {len(cells)}>"
        cells.append(name)
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        exec(compile(code, name, "exec"), vars(module))
        return module

    yield run
    for name in cells:
        linecache.cache.pop(name, None)


def launch(given: Any, storage: str, **settings: Any) -> Study:
    return sweeper.launch(given, **{"workers": 0, "storage": storage, **SETTINGS, **settings})


# ---- functions of the main module --------------------------------------------------------


def test_a_function_of_the_main_module_is_trained_and_not_stored(
    main: Main, storage: str, tmp_path: Path
) -> None:
    study = launch(main(TRAIN).train, storage, options={"by": 2.0})
    frame = study.frame()
    assert frame["state"].tolist() == ["complete"] * 3
    assert frame["epochs"].tolist() == [3] * 3
    assert frame["extra_lr"].tolist() == frame["hp_lr"].tolist()
    assert study.spec.task.use == "__main__:train"
    assert study.spec.task.options == {"by": 2.0}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not any(b"only in the source" in path.read_bytes() for path in files)


@pytest.mark.slow
def test_trainers_get_a_function_with_all_that_it_uses(
    main: Main, storage: str, tmp_path: Path
) -> None:
    (tmp_path / "beside_of_test.py").write_text("def one():\n    return 1.0\n")
    module = main(TRAIN + "    import beside_of_test\n    FACTOR = beside_of_test.one()\n")
    main("def scaled(run):\n    import beside_of_test as b\n    yield from train(run, b.one())\n")
    here = launch(module.scaled, storage).frame()
    there = launch(module.scaled, storage, name="there", workers=2)
    assert there.frame()["nll"].tolist() == here["nll"].tolist()
    sources = there.snapshot().code[-1].sources
    assert sources.keys() == {"__main__:scaled", "beside_of_test.py"}


@pytest.mark.parametrize(
    "change",
    ["EPOCHS = 4", "FACTOR = 2.0", "class Scale(Scale):\n    pass", "def labels():\n    return 0"],
)
def test_a_changed_helper_is_changed_code(main: Main, storage: str, change: str) -> None:
    module = main(TRAIN)
    launch(module.train, storage)
    main("UNRELATED = 1")
    launch(module.train, storage)
    main(change)
    with pytest.raises(sweeper.SweeperError, match=r"train or something that it uses has changed"):
        launch(module.train, storage, trials=4)
    assert launch(module.train, storage, accept_code=True).snapshot().record.code == 2


GIVEN = {
    "function of the main module": "given = train",
    "lambda": "other = train\ngiven = lambda run: other(run, 2.0)",
    "function of a function": """
def make():
    def train(run):
        return other(run, 2.0)
    return train
other = train
given = make()
""",
}


@pytest.mark.parametrize("kind", GIVEN)
def test_what_was_given_is_replayed_and_confirmed(main: Main, storage: str, kind: str) -> None:
    """In the last case, the main module has another function with the same name."""
    module = main(dedent(TRAIN) + GIVEN[kind])
    launch(module.given, storage)
    assert sweeper.replay("mine", 1, storage).same
    with pytest.raises(sweeper.SweeperError, match="no test split"):
        sweeper.confirm("mine", workers=0, storage=storage)
    main("del given, train")
    assert sweeper.replay("mine", 1, storage).same
    main("FACTOR = 3.0")
    with pytest.raises(sweeper.SweeperError, match="something that it uses has changed"):
        sweeper.replay("mine", 1, storage)


def test_another_process_needs_the_same_function(
    main: Main, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = main(TRAIN)
    launch(module.train, storage)
    monkeypatch.setattr("sweeper.tasks.given._launched", {})
    assert sweeper.replay("mine", 1, storage).same
    main("def train(run): ...")
    with pytest.raises(sweeper.SweeperError, match="train is not the object that was launched"):
        sweeper.replay("mine", 1, storage)
    del module.train
    message = "train was defined in a notebook, a script or another function, and its code is not"
    for again in (
        lambda: sweeper.confirm("mine", workers=0, storage=storage),
        lambda: sweeper.replay("mine", 1, storage),
    ):
        with pytest.raises(sweeper.SweeperError, match=message) as caught:
            again()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("given", [{"executor": "slurm"}, {"detach": True}])
def test_functions_that_cannot_be_imported_are_not_sent_to_other_machines(
    main: Main, storage: str, given: dict[str, Any]
) -> None:
    with pytest.raises(sweeper.SweeperError) as caught:
        launch(main(TRAIN).train, storage, workers=1, **given)
    place = "detach" if "detach" in given else "executor slurm"
    assert str(caught.value).startswith(f"{place}: train is defined in a notebook, a script or ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_function_with_a_lock_is_refused_in_one_line(main: Main, storage: str) -> None:
    module = main(TRAIN + "    import threading\n    FACTOR = threading.Lock()\n")
    with pytest.raises(sweeper.SweeperError, match=r"^launch: train cannot be sent to .*pickle"):
        launch(module.train, storage)


def test_a_task_object_is_trained(main: Main, storage: str) -> None:
    module = main(
        """
        import torch
        from sweeper import Optimizer, Splits, Task

        def splits(seed):
            x = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
            y = (x[:, 0] > 0).long()
            return Splits((x[:20], y[:20]), (x[20:40], y[20:40]), (x[40:], y[40:]), 2)

        own = Task("own", 2, lambda hparams: torch.nn.Linear(4, 2), splits, epochs=2)
        """
    )
    study = launch(module.own, storage, space={})
    assert study.spec.task.use == "__main__:own"
    assert study.frame()["state"].tolist() == ["complete"] * 3


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_pickle_can_be_read_while_its_object_lives(
    monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    pickled = PickleFile(b"content", None, "")
    path = pickled.path
    command = [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read(), end='')", path]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"content"
    assert path.startswith("/proc/") == in_memory
    del pickled
    assert not os.path.exists(path)


# ---- functions of modules ----------------------------------------------------------------


def test_a_function_of_a_package_is_named_and_its_files_are_hashed(
    main: Main, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(dedent(TRAIN))
    (package / "run.py").write_text("from .parts import train as inner\n\n\ndef train(run):\n"
                                    "    yield from inner(run)\n")  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    module = main("from package_of_test.run import train")
    study = launch(module.train, storage)
    assert study.spec.task.use == "package_of_test.run:train"
    assert study.frame()["state"].tolist() == ["complete"] * 3
    assert {"package_of_test/run.py", "package_of_test/parts.py"} <= set(
        study.snapshot().code[-1].sources
    )
    for name in [name for name in sys.modules if name.startswith("package_of_test")]:
        del sys.modules[name]
    modules = StudyModules(tmp_path)
    assert callable(load_task("package_of_test.run:train", {}, modules).trainer)
    assert modules.sources.keys() == {
        f"package_of_test/{n}.py" for n in ("__init__", "run", "parts")
    }


def test_an_unknown_module_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(sweeper.SweeperError, match="neither next to the study file nor installed"):
        load_task("no_such_module:train", {}, StudyModules(tmp_path))


# ---- keywords ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tirals": 3}, r"launch: unknown keyword 'tirals' \(did you mean 'trials'\?\); allowed:"),
        ({"seed": 1, "study": {"seed": 2}}, "launch: seed is given twice, also in study; remove"),
        ({"space": {"epsilon": 3}}, r"space\.epsilon: "),
        ({"pruner": {"name": "none", "warm": 1}}, r"pruner\.warm: unknown key .*warmup"),
        ({"name": "a b"}, r"study\.name: "),
        ({"options": {"bye": 1}}, r"task\.options\.bye: __main__:train has no such option .*'by'"),
    ],
)
def test_invalid_settings_are_reported_like_those_of_a_file(
    main: Main, storage: str, tmp_path: Path, keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(sweeper.SweeperError, match=message):
        launch(main(TRAIN).train, storage, **keywords)
    assert not list(tmp_path.glob("*.db"))


def test_wrong_keywords_are_refused_with_a_reason(storage: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("")

    def train(run: object) -> None: ...

    wrong: Any = 3
    calls: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: sweeper.launch(file, options={"depth": 3}), "options is a setting of the study"),
        (lambda: sweeper.launch(file, options=wrong), "options is a setting of the study"),
        (lambda: sweeper.launch(file, name="x"), "name is a setting of the study"),
        (lambda: sweeper.launch(file, wokers=3), r"'wokers' \(did you mean 'workers'\?\)"),
        (lambda: sweeper.launch(train, name="x", task="x"), "task must be a dict of the keys"),
        (lambda: sweeper.launch(train, name="x", options=wrong), "task.options: must be a table"),
        (lambda: sweeper.confirm("x", trials=3), "trials is a setting of the study"),
        (lambda: sweeper.retry("x", wokers=3), "unknown keyword 'wokers'"),
    )
    for call, reason in calls:
        with pytest.raises(SweeperError, match=reason):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": "two"}, "workers: must be a whole number, got 'two'"),
        ({"workers": 2.0}, "workers: must be a whole number, got 2.0"),
        ({"workers": True}, "workers: must be a whole number, got True"),
        ({"executor": 3}, "executor: must be the name of an executor or the result of"),
        ({"storage": 3}, "storage: must be a text: a database URL or the path of an SQLite file"),
        ({"timeout": "1h"}, "timeout: must be a number of seconds, got '1h'"),
        ({"results": 3}, "results: must be the path of a folder, got 3"),
        ({"check": "no"}, "check: must be True or False, got 'no'"),
        ({"trials": "x"}, "trials: must be an integer"),
        ({"name": None}, "study.name: "),
        ({"name": "x", "study": 3}, "study: must be a table"),
    ],
)
def test_options_of_a_wrong_type_are_refused_by_their_name(
    main: Main, storage: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SweeperError) as caught:
        sweeper.launch(main(TRAIN).train, **{"storage": storage, "name": "x", **options})
    assert str(caught.value).startswith(message)


def test_a_missing_name_is_named(main: Main, storage: str) -> None:
    module = main(TRAIN)
    for call in (sweeper.launch, sweeper.check):
        with pytest.raises(SweeperError, match=r'^name: missing; .* for example name="train"$'):
            call(module.train, trials=4, storage=storage)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def train(): ...", "train returned NoneType; .*first parameter must be named run"),
        ("def train(): run.report()", "'run' is not defined; .* parameter run: def train"),
        ("def train(trial): ...", "train requires trial; .*first parameter must be run"),
    ],
)
def test_a_function_without_the_parameter_run_is_explained(
    main: Main, storage: str, code: str, message: str
) -> None:
    with pytest.raises(SweeperError, match=message):
        launch(main(code).train, storage, space={})


@pytest.mark.parametrize("returned", ["{'nll': 0.3}", "'done'", "0.3"])
def test_a_returned_score_is_explained_and_a_failed_study_is_a_warning(
    main: Main, storage: str, returned: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = launch(main(f"def train(run):\n    return {returned}").train, storage, space={})
    assert study.state == "failed"
    (failed, *_) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert failed.startswith("study mine: 3 failed; trial 0: ")
    assert "the training function returned a " in failed
    assert "after each epoch call run.report" in failed
    assert "(sweeper logs mine 0)" in failed


def test_a_script_shows_the_first_failure(storage: str, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys, sweeper\ndef train(run):\n    raise ValueError('no data')\n"
        f"study = sweeper.launch(train, name='mine', trials=2, storage={storage!r}, workers=0, "
        "check=False)\nsys.exit(study.state == 'failed')\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no data (sweeper logs mine 0)" in done.stderr


def test_settings_are_keywords_or_tables(main: Main, storage: str) -> None:
    study = launch(
        main(TRAIN).train, storage, seed=np.int64(5), metric="nll_calibrated", patience=7,
        first=[{"epsilon": 0.1, "lr": 0.5}], confirm={"replicates": 3, "enabled": False},
        space={"lr": {"low": 0.1, "high": 1.0}, "schedule": ("fixed",)}, threads=2,
    )  # fmt: skip
    spec = study.spec
    assert (spec.study.name, spec.study.seed, spec.objective.metric) == (
        "mine",
        5,
        "nll_calibrated",
    )
    assert (spec.budget.patience, spec.budget.trials, spec.task.threads) == (7, 3, 2)
    assert (spec.confirm.replicates, spec.confirm.enabled) == (3, False)
    assert (spec.sampler.name, spec.space.schedule) == ("random", ("fixed",))
    assert study.frame()["epsilon"].tolist()[1] == 0.1


@pytest.mark.parametrize("given", [3, int, [].append])
def test_other_objects_are_refused(given: Any, storage: str) -> None:
    with pytest.raises(sweeper.SweeperError, match="allowed: the path of a study file, the name"):
        launch(given, storage)


# ---- the digest of the source ------------------------------------------------------------


USE = "\ndef f(run):\n    return VALUE"
CLASS = "class C:\n    def __init__(self, x):\n        self.x = x\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(run):\n    return 1", "def f(run):\n    return 2"),
        ("def f(run, c=1):\n    return c", "def f(run, c=2):\n    return c"),
        (
            "def g():\n    return 1\ndef f(run):\n    return [g() for _ in run]",
            "def g():\n    return 2\ndef f(run):\n    return [g() for _ in run]",
        ),
        (
            "def make(c):\n    def f(run):\n        return c\n    return f\nf = make(1)",
            "def make(c):\n    def f(run):\n        return c\n    return f\nf = make(2)",
        ),
        (
            "class B:\n    x = 1\nclass A(B):\n    pass\ndef f(run):\n    return A.x",
            "class B:\n    x = 2\nclass A(B):\n    pass\ndef f(run):\n    return A.x",
        ),
        (
            "c = 1\nclass A:\n    def m(self):\n        return c\ndef f(run):\n    return A().m()",
            "c = 2\nclass A:\n    def m(self):\n        return c\ndef f(run):\n    return A().m()",
        ),
        # Of two functions on a line, the source is the same.
        (
            "fs = [lambda: 1, lambda: 2]\ng = fs[0]\ndef f(run):\n    return g()",
            "fs = [lambda: 1, lambda: 2]\ng = fs[1]\ndef f(run):\n    return g()",
        ),
        (
            "import functools\n@functools.cache\ndef g():\n    return 1\n"
            "def f(run):\n    return g()",
            "import functools\n@functools.cache\ndef g():\n    return 2\n"
            "def f(run):\n    return g()",
        ),
        ("def f(run):\n    return f.x\nf.x = 1", "def f(run):\n    return f.x\nf.x = 2"),
    ],
)
def test_the_digest_covers_the_code_that_a_function_uses(
    main: Main, before: str, after: str
) -> None:
    first = source_digest(main(before).f)
    assert source_digest(main(before + "\nunrelated = 1").f) == first
    assert source_digest(main(after).f) != first


# Kinds of values: the code that sets VALUE, and code that sets another value.
VALUES = {
    "number": ("VALUE = 1", "VALUE = 1.0"),
    "text": ("VALUE = 'a'", "VALUE = b'a'"),
    "list": ("VALUE = [[1], 2]", "VALUE = [1, [2]]"),
    "dict": ("VALUE = {'a': [1]}", "VALUE = {'a': [2]}"),
    "ordered": (
        "from collections import OrderedDict\nVALUE = OrderedDict(a=1, b=2)",
        "from collections import OrderedDict\nVALUE = OrderedDict(b=2, a=1)",
    ),
    "object": (f"{CLASS}VALUE = C(1)", f"{CLASS}VALUE = C(2)"),
    "nested": (f"{CLASS}VALUE = [C((1, C('a')))]", f"{CLASS}VALUE = [C((1, C('b')))]"),
    "class": (f"{CLASS}VALUE = C(1)", f"{CLASS}    y = 0\nVALUE = C(1)"),
    "slots": (
        "class C:\n    __slots__ = ('x',)\nVALUE = C()\nVALUE.x = 1",
        "class C:\n    __slots__ = ('x',)\nVALUE = C()\nVALUE.x = 2",
    ),
    "base": (
        "class C(dict):\n    pass\nVALUE = C(x=1)",
        "class C(dict):\n    pass\nVALUE = C(x=2)",
    ),
    "namespace": (
        "from types import SimpleNamespace\nVALUE = SimpleNamespace(lr=1)",
        "from types import SimpleNamespace\nVALUE = SimpleNamespace(lr=2)",
    ),
    "dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    x: int = 1\nVALUE = C(1)",
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    x: int = 1\nVALUE = C(2)",
    ),
    "default": (
        "import dataclasses\n@dataclasses.dataclass\nclass VALUE:\n    x: int = 1",
        "import dataclasses\n@dataclasses.dataclass\nclass VALUE:\n    x: int = 2",
    ),
    "named tuple": (
        "import typing\nclass C(typing.NamedTuple):\n    x: int\nVALUE = C(1)",
        "import typing\nclass C(typing.NamedTuple):\n    x: int\nVALUE = C(2)",
    ),
    "enum": (
        "import enum\nclass C(enum.Enum):\n    A = 1\n    B = 2\nVALUE = C.A",
        "import enum\nclass C(enum.Enum):\n    A = 1\n    B = 2\nVALUE = C.B",
    ),
    "property": (
        "class C:\n    @property\n    def x(self):\n        return 1\nVALUE = C()",
        "class C:\n    @property\n    def x(self):\n        return 2\nVALUE = C()",
    ),
    "static method": (
        "class C:\n    @staticmethod\n    def x():\n        return 1\nVALUE = C.x",
        "class C:\n    @staticmethod\n    def x():\n        return 2\nVALUE = C.x",
    ),
    "method": (
        f"{CLASS}    def m(self):\n        pass\nVALUE = C(1).m",
        f"{CLASS}    def m(self):\n        pass\nVALUE = C(2).m",
    ),
    "path": (
        "from pathlib import Path\nVALUE = Path('a/b')",
        "from pathlib import Path\nVALUE = Path('a/c')",
    ),
    "date": ("import datetime as d\nVALUE = d.date(2026, 1, 1)",
             "import datetime as d\nVALUE = d.date(2026, 1, 2)"),
    "scalar": ("import numpy\nVALUE = numpy.float32(1)", "import numpy\nVALUE = numpy.float32(2)"),
    "scalar type": (
        "import numpy\nVALUE = numpy.float32(1)",
        "import numpy\nVALUE = numpy.float64(1)",
    ),
    "dtype": ("import torch\nVALUE = torch.float32", "import torch\nVALUE = torch.float64"),
    "device": (
        "import torch\nVALUE = torch.device('cpu')",
        "import torch\nVALUE = torch.device('cuda')",
    ),
    "array": ("import numpy\nVALUE = numpy.zeros(3)", "import numpy\nVALUE = numpy.ones(3)"),
    "objects": (
        "import numpy\nVALUE = numpy.array([{'a': 1}, None])",
        "import numpy\nVALUE = numpy.array([{'a': 2}, None])",
    ),
    "generator": (
        "import numpy\nVALUE = numpy.random.default_rng(1)",
        "import numpy\nVALUE = numpy.random.default_rng(2)",
    ),
    "frame": (
        "import pandas\nVALUE = pandas.DataFrame({'a': [1.0, 2.0], 'b': ['x', 'y']})",
        "import pandas\nVALUE = pandas.DataFrame({'a': [1.0, 2.0], 'b': ['x', 'z']})",
    ),
    "tensor": ("import torch\nVALUE = torch.zeros(3)", "import torch\nVALUE = torch.ones(3)"),
    "shape": ("import torch\nVALUE = torch.zeros(6)", "import torch\nVALUE = torch.zeros(2, 3)"),
    "scalar tensor": (
        "import torch\nVALUE = torch.tensor(1.0)",
        "import torch\nVALUE = torch.tensor(2.0)",
    ),
    "bfloat16": (
        "import torch\nVALUE = torch.zeros(2, dtype=torch.bfloat16)",
        "import torch\nVALUE = torch.ones(2, dtype=torch.bfloat16)",
    ),
    "empty tensor": (
        "import torch\nVALUE = torch.zeros(0, 3)",
        "import torch\nVALUE = torch.zeros(0, 2)",
    ),
    "sparse": (
        "import torch\nVALUE = torch.eye(2).to_sparse()",
        "import torch\nVALUE = 2 * torch.eye(2).to_sparse()",
    ),
    "module": (
        "import torch\nVALUE = torch.nn.Linear(2, 1)\ntorch.nn.init.zeros_(VALUE.weight)\n"
        "torch.nn.init.zeros_(VALUE.bias)",
        "import torch\nVALUE = torch.nn.Linear(2, 1)\ntorch.nn.init.ones_(VALUE.weight)\n"
        "torch.nn.init.zeros_(VALUE.bias)",
    ),
    "partial": (
        "from functools import partial\nVALUE = partial(max, 1)",
        "from functools import partial\nVALUE = partial(max, 2)",
    ),
    "built-in": ("VALUE = max", "VALUE = min"),
    "pattern": ("import re\nVALUE = re.compile('a')", "import re\nVALUE = re.compile('b')"),
    "set": ("VALUE = {'a', 'b', ('c', 1)}", "VALUE = {'a', 'b', ('c', 2)}"),
    "functions in a set": (
        "VALUE = {(lambda: 1), (lambda: 2), (lambda: VALUE)}",
        "VALUE = {(lambda: 1), (lambda: 3), (lambda: VALUE)}",
    ),
    "function as a key": (
        "def g():\n    return 1\nVALUE = {g: 1}",
        "def g():\n    return 2\nVALUE = {g: 1}",
    ),
    "class as a key": (
        "class C:\n    a = 1\nVALUE = {C: 1}",
        "class C:\n    a = 2\nVALUE = {C: 1}",
    ),
    "recursive": ("VALUE = []\nVALUE.append(VALUE)", "VALUE = []\nVALUE.append([VALUE])"),
    "task": (
        "from sweeper import Task\nVALUE = Task('t', 2, lambda hparams: None, lambda seed: None)",
        "from sweeper import Task\nVALUE = Task('t', 2, lambda hparams: None, lambda seed: 1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_the_digest_covers_the_values_that_a_function_uses(main: Main, kind: str) -> None:
    before, after = VALUES[kind]
    first = source_digest(main(before + USE).f)
    assert source_digest(main("x = 1\n" + before + USE).f) == first
    assert source_digest(main(after + USE).f) != first


def test_the_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Each process has other memory addresses and another order of sets."""
    digests = []
    script = tmp_path / "digests.py"
    script.write_text(
        "import sys\nfrom sweeper.tasks.digest import source_digest\n"
        f"codes = {[before + USE for before, _ in VALUES.values()]!r}\n"
        "if int(sys.argv[1]) > 1:\n    wasted = [object() for _ in range(1001)]\n"
        "for code in codes:\n    exec(code, globals())\n    print(source_digest(f))\n"
    )
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, script, seed],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert not done.returncode, done.stderr
        digests.append(dict(zip(VALUES, done.stdout.split(), strict=True)))
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests[0].values())) == len({before for before, _ in VALUES.values()})


def test_an_unused_variable_with_the_name_of_an_attribute_is_not_covered(main: Main) -> None:
    code = "def f(run):\n    return run.seed"
    first = source_digest(main("seed = 1\n" + code).f)
    assert source_digest(main("seed = 2\n" + code).f) == first


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import threading\nLOCK = {'a': [threading.Lock()]}\ndef train(run):\n    return LOCK",
            "LOCK, which train uses, cannot be pickled: TypeError: cannot pickle '_thread.lock'",
        ),
        (
            "def rows():\n    yield 1\nROWS = rows()\ndef load():\n    return next(ROWS)\n"
            "def train(run):\n    return load()",
            "ROWS, which load uses, cannot be pickled: TypeError: cannot pickle 'generator' object",
        ),
        (
            "class Client:\n    def __reduce__(self):\n        raise OSError('not\\nconnected')\n"
            "def make(client):\n    def train(run):\n        return client\n    return train\n"
            "train = make(Client())",
            "client, which train uses, cannot be pickled: OSError: not connected",
        ),
    ],
)
def test_a_value_without_a_digest_is_refused_by_its_name(
    main: Main, code: str, message: str
) -> None:
    with pytest.raises(sweeper.SweeperError) as caught:
        given_object(main(code).train)
    assert str(caught.value).startswith("launch: train cannot be sent to a training process: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_imported_task_is_named_by_its_module(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks_of_test.py").write_text(
        "import statistics\nfrom sweeper import Task\n"
        "own = Task('own', 2, statistics.mean, statistics.median)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = main("from tasks_of_test import own")
    assert given_object(module.own).use == "tasks_of_test:own"
    assert given_object(module.own).pickled is None
    del sys.modules["tasks_of_test"]
    assert given_object(module.own).use == "__main__:own"


def test_the_digest_of_a_function_without_source_covers_its_code() -> None:
    def digest(code: str) -> str:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(code, names)
        return source_digest(names["f"])

    assert digest("def f(run): return run + 1") == digest("def f(run): return run + 1")
    assert digest("def f(run): return run + 1") != digest("def f(run): return run + 2")


def test_recursive_functions_and_values_have_a_digest(main: Main) -> None:
    code = "c = []\nc.append(c)\ndef f(run):\n    return g(c)\ndef g(x):\n    return f(x)"
    assert source_digest(main(code).f) == source_digest(main(code).f)


def test_a_lambda_has_a_reference(main: Main) -> None:
    assert given_object(main("g = [lambda run: None]").g[0]).use == "__main__:function"


# ---- setup -------------------------------------------------------------------------------

SETUP = """
from sweeper import Evaluation
import torch
DATA = []

def setup(options):
    if options.get("missing"):
        raise FileNotFoundError("no such data")
    DATA.append(options["size"])

def train(run):
    labels = torch.arange(30) % 3
    yield Evaluation(torch.eye(3)[labels], labels, 1.0, extra={"calls": len(DATA), "size": DATA[0]})
"""


def write_setup(folder: Path, options: str, trials: int = 2) -> Path:
    (folder / "own.py").write_text(SETUP)
    study = folder / "own.toml"
    study.write_text(
        text("own.py:train", f"options = {options}", trials, "[confirm]\nenabled = false")
    )
    return study


@pytest.mark.slow
def test_setup_is_called_once_and_its_data_is_shared(tmp_path: Path, storage: str) -> None:
    file = write_setup(tmp_path, "{ size = 3 }")
    study = sweeper.launch(file, workers=1, storage=storage, results=tmp_path / "results")
    frame = study.frame()
    assert frame["extra_calls"].tolist() == [1.0, 1.0]
    assert frame["extra_size"].tolist() == [3.0, 3.0]


def test_an_exception_in_setup_refuses_the_study_in_one_line(tmp_path: Path, storage: str) -> None:
    file = write_setup(tmp_path, "{ missing = true }")
    with pytest.raises(sweeper.SweeperError) as caught:
        sweeper.launch(file, workers=0, storage=storage, results=tmp_path / "results")
    assert str(caught.value) == (
        f"{file}: task.use: setup of own.py:train failed: {tmp_path}/own.py:8: "
        "FileNotFoundError: no such data"
    )
    assert not list(tmp_path.glob("*.db"))


def test_only_a_function_with_the_signature_is_setup(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SETUP.replace("def setup(options)", "def setup(anything)"))
    load_task("own.py:train", {"missing": True}, StudyModules(tmp_path))


def test_setup_of_the_main_module_shares_its_globals(main: Main, storage: str) -> None:
    study = launch(main(SETUP).train, storage, space={}, options={"size": 4})
    assert study.frame()["extra_size"].tolist() == [4.0] * 3


def test_data_that_setup_loads_is_not_changed_code(main: Main, storage: str) -> None:
    """Without workers, setup assigns the variable in this process."""
    module = main(
        """
        from sweeper import Evaluation
        DATA = None

        def setup(options):
            global DATA
            DATA = [3 * [i] for i in range(3)]

        def train(run):
            yield Evaluation([[1.0, 0.0, 0.5]] * 3, DATA[0], 1.0)
        """
    )
    launch(module.train, storage, space={})
    assert module.DATA
    launch(module.train, storage, space={}, trials=4)


def test_dir_lists_the_public_names() -> None:
    assert dir(sweeper) == sorted(sweeper.__all__)
    assert "launch" in dir(sweeper)
