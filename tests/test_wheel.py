"""The wheel and its extras, installed into environments that have no other packages.

The environments are empty but for links to the running environment's copies of the distributions
that the wheel's metadata requires. A package that is imported but not required is missing there.
"""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Final, get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sweeper
from sweeper.extras import MODULES, Extra, pip_install
from sweeper.version import DISTRIBUTION

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parent.parent
NEEDS_SWEEP: Final = (
    "needs packages that are not installed (alembic, cloudpickle, optuna and 12 more); "
    'run: pip install "label-smoothing-sweeper[sweep]"'
)
NEEDS_SERVE: Final = (
    "needs packages that are not installed (alembic, cloudpickle, optuna and 16 more); "
    'run: pip install "label-smoothing-sweeper[serve]"'
)
# Prints the outermost packages and modules that cannot be imported. Triton is part of torch's CUDA
# builds; Alembic alone can import the migrations.
IMPORT_ALL: Final = """
import importlib, pkgutil, sweeper
failed = []
for module in pkgutil.walk_packages(sweeper.__path__, "sweeper.", onerror=failed.append):
    if ".migrations." not in module.name and not module.name.endswith((".fused", "__main__")):
        try:
            importlib.import_module(module.name)
        except ImportError:
            failed.append(module.name)
print(*set(failed))
"""
# Not in the extra `all`: they are large, and timm requires torchvision.
FRAMEWORKS: Final = {"huggingface", "lightning", "timm"}
ADAPTERS: Final = {f"sweeper.training.adapters.{name}" for name in ("huggingface", "lightning")}
# PYTHONPATH would let the checkout be found.
ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@dataclass(frozen=True)
class Installation:
    """A virtual environment that contains the wheel and the packages of some extras."""

    folder: Path
    packages: frozenset[str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the interpreter outside the checkout."""
        command = [str(self.folder / "bin" / "python"), "-P", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True
        )

    def sweeper(self, *arguments: str) -> str:
        """Return what a command prints; it must succeed."""
        return printed(self.run("-m", "sweeper", *arguments))

    def error(self, *arguments: str) -> str:
        """Return the error message of a command; it must fail as for other user errors."""
        done = self.run("-m", "sweeper", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    def execute(self, code: str) -> str:
        """Return what a piece of Python code prints; it must succeed."""
        return printed(self.run("-c", code))


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, "sdist", folder)
    with tarfile.open(sdist_of(folder)) as archive:
        archive.extractall(folder, filter="data")
    (sources,) = filter(Path.is_dir, folder.iterdir())
    build(sources, "wheel", folder)
    return folder


def build(sources: Path, target: str, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "-d", str(folder)]
    subprocess.run(command, cwd=sources, env=ENVIRONMENT, check=True, capture_output=True)


def sdist_of(folder: Path) -> Path:
    (file,) = folder.glob("label_smoothing_sweeper-*.tar.gz")
    return file


def wheel_of(folder: Path) -> Path:
    (file,) = folder.glob("label_smoothing_sweeper-*-py3-none-any.whl")
    return file


def empty_environment(folder: Path) -> Path:
    """Create a virtual environment; return its site-packages."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    assert not any(site.iterdir())
    return site


def installed(folder: Path, built: Path, *extras: Extra) -> Installation:
    """Unpack the wheel, and link the packages that it requires with these extras."""
    site = empty_environment(folder)
    with zipfile.ZipFile(wheel_of(built)) as archive:
        archive.extractall(site)
    packages = required_by(requirements(site), extras)
    for name in packages:
        link(name, site)
    return Installation(folder, frozenset(packages))


def requirements(site: Path) -> list[str]:
    """Return the requirements of the installed wheel."""
    (info,) = site.glob("label_smoothing_sweeper-*.dist-info")
    return metadata.Distribution.at(info).requires or []


def required_by(lines: Iterable[str], extras: Iterable[str]) -> set[str]:
    """Return the distributions that the wheel's requirements need, directly or not."""
    found: set[str] = set()
    waiting = list(selected(lines, extras))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found or requirement.extras:
            waiting += selected(metadata.requires(name) or [], requirement.extras)
        found.add(name)
    return found


def selected(lines: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield the requirements of a distribution that apply here, with some of its extras."""
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def link(name: str, site: Path) -> None:
    """Link the files of a distribution of the running environment."""
    distribution = metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


@pytest.fixture(scope="module")
def base(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return installed(tmp_path_factory.mktemp("base"), built)


@pytest.fixture(scope="module")
def sweep(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return installed(tmp_path_factory.mktemp("sweep"), built, "sweep")


@pytest.fixture(scope="module")
def serve(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return installed(tmp_path_factory.mktemp("serve"), built, "serve")


@pytest.fixture(scope="module")
def lines(built: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the requirements in the metadata of the wheel."""
    folder = tmp_path_factory.mktemp("metadata")
    with zipfile.ZipFile(wheel_of(built)) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if ".dist-info/" in name])
    return requirements(folder)


class TestFiles:
    """What the wheel, the sdist and their metadata contain."""

    def test_wheel_contains_runtime_files_and_no_tests(self, built: Path) -> None:
        with zipfile.ZipFile(wheel_of(built)) as archive:
            held = set(archive.namelist())
        assert {
            "sweeper/py.typed",
            "sweeper/_bundled/studies/digits.toml",
            "sweeper/executors/templates/kubernetes.yaml.j2",
            "sweeper/service/pages/assets/service.css",
            "sweeper/service/pages/templates/base.html",
            "sweeper/_bundled/dashboards/overview.toml",
            "sweeper/executors/templates/slurm.sh.j2",
            "sweeper/report/templates/page.html",
            "sweeper/store/migrations/env.py",
        } <= held
        assert not any("test" in name for name in held)

    def test_readme_names_the_wheel(self, built: Path) -> None:
        assert f"dist/{wheel_of(built).name}[sweep]" in (ROOT / "README.md").read_text()

    def test_sdist_contains_tests_and_tested_versions(self, built: Path) -> None:
        with tarfile.open(sdist_of(built)) as archive:
            held = {name.partition("/")[2] for name in archive.getnames()}
        assert {"tests/test_wheel.py", "constraints.txt", "Makefile", "CHANGELOG.md"} <= held

    def test_base_requires_only_torch_and_numpy(self, lines: list[str]) -> None:
        assert {requirement.name for requirement in selected(lines, [])} == {"torch", "numpy"}

    @pytest.mark.parametrize("extra", get_args(Extra))
    def test_extra_requires_the_packages_that_are_checked(
        self, extra: Extra, lines: list[str]
    ) -> None:
        names = {canonicalize_name(found.name) for found in selected(lines, [extra])}
        names -= {"torch", "numpy"}
        distributions = metadata.packages_distributions()
        missing = [module for module in MODULES[extra] if module not in distributions]
        if extra in FRAMEWORKS and missing:
            pytest.skip(f"{', '.join(missing)} is not installed")
        checked = [map(canonicalize_name, distributions[module]) for module in MODULES[extra]]
        assert names == set(chain.from_iterable(checked))

    def test_extra_all_requires_every_extra_except_frameworks(self, lines: list[str]) -> None:
        others = [extra for extra in get_args(Extra) if extra not in FRAMEWORKS]
        assert required_by(lines, ["all"]) == required_by(lines, others)


class TestBase:
    """Without extras: the loss, the schedules and the scores."""

    def test_no_other_package_is_installed(self, base: Installation) -> None:
        found = base.execute(
            "from importlib.metadata import distributions\n"
            "for found in distributions(): print(found.name)"
        )
        names = set(map(canonicalize_name, found.split()))
        assert names == base.packages | {DISTRIBUTION}
        assert not names & {"optuna", "pandas", "pydantic", "scipy", "sqlalchemy", "typer"}

    def test_public_name_works_or_names_the_extra(self, base: Installation) -> None:
        found = base.execute(
            "import sweeper, sweeper.scoring, sweeper.smoothing\n"
            "for package in (sweeper.scoring, sweeper.smoothing):\n"
            "    for name in package.__all__: getattr(package, name)\n"
            "for name in sweeper.__all__:\n"
            "    try: getattr(sweeper, name); print(name)\n"
            "    except sweeper.SweeperError as error: print(error)\n"
        )
        here = {line for line in found.splitlines() if " " not in line}
        others = {line.partition(" ")[0]: line for line in found.splitlines() if " " in line}
        assert here == {
            *("Evaluation", "Optimizer", "Scorer", "Splits", "Task", "TrainingRun", "current_run"),
            *("Smoothing", "SmoothingLoss", "smooth_targets", "smoothing_loss"),
            *("SweeperError", "TrialPruned", "TrialReleased", "__version__"),
        }
        assert others.keys() == {f"sweeper.{name}" for name in set(sweeper.__all__) - here}
        assert others["sweeper.launch"] == f"sweeper.launch {NEEDS_SWEEP}"

    def test_training_and_scoring_work(self, base: Installation, tmp_path: Path) -> None:
        exported = tmp_path / "best.json"
        values = {"epsilon": 0.1, "schedule": "cosine", "rate": 1.0, "convention": "others"}
        exported.write_text(json.dumps(values))
        losses = base.execute(
            "import torch, sweeper\n"
            "from sweeper.scoring import fit_temperature, score\n"
            "torch.manual_seed(0)\n"
            "x = torch.randn(64, 4)\n"
            "y = (x[:, 0] > 0).long()\n"
            "model = torch.nn.Linear(4, 2)\n"
            f"loss = sweeper.SmoothingLoss.from_file({str(exported)!r})\n"
            "optimizer = torch.optim.SGD(model.parameters(), lr=1.0)\n"
            "for step in range(20):\n"
            "    loss.progress = step / 20\n"
            "    optimizer.zero_grad()\n"
            "    loss(model(x), y).backward()\n"
            "    optimizer.step()\n"
            "logits = model(x).detach()\n"
            "print(score(logits, y).nll, sweeper.smoothing_loss(logits, y, 0.0).item())\n"
        )
        scored, smoothed = map(float, losses.split())
        assert scored == pytest.approx(smoothed, abs=1e-6)
        assert scored < 0.4

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], f"error: sweeper {NEEDS_SWEEP}\n"),
            (["--help"], f"error: sweeper --help {NEEDS_SWEEP}\n"),
            (["launch", "digits"], f"error: sweeper launch {NEEDS_SWEEP}\n"),
            (["serve"], f"error: sweeper serve {NEEDS_SERVE}\n"),
        ],
    )
    def test_command_prints_the_pip_command(
        self, base: Installation, arguments: list[str], message: str
    ) -> None:
        assert base.error(*arguments) == message

    def test_version_needs_no_extra(self, base: Installation) -> None:
        assert base.sweeper("--version") == f"sweeper {sweeper.__version__}\n"


class TestSweep:
    """With the extra `sweep`: studies on one machine."""

    def test_example_study_is_launched(self, sweep: Installation) -> None:
        assert "digits" in sweep.sweeper("studies")
        sweep.sweeper("launch", "digits", "--trials=2", "--workers=1", "--no-confirm")
        assert (sweep.folder / "results" / "digits" / "report.html").is_file()
        assert (sweep.folder / "results" / "digits" / "best.json").is_file()
        assert "epsilon: " in sweep.sweeper("export", "digits", "--format=yaml")

    def test_every_module_except_the_service_and_adapters_is_importable(
        self, sweep: Installation
    ) -> None:
        assert set(sweep.execute(IMPORT_ALL).split()) == {"sweeper.service", *ADAPTERS}

    def test_help_of_serve_needs_no_other_extra(self, sweep: Installation) -> None:
        assert "--dashboard-writes" in sweep.sweeper("serve", "--help")

    @pytest.mark.parametrize(
        ("arguments", "needs", "extra"),
        [
            (
                ["serve"],
                "sweeper serve needs packages that are not installed "
                "(a2wsgi, fastapi, python_multipart and 1 more)",
                "serve",
            ),
            (
                ["status", "--storage=postgresql://user@host/database"],
                "postgresql:// storage needs packages that are not installed (psycopg)",
                "postgresql",
            ),
        ],
    )
    def test_missing_extra_is_named(
        self, sweep: Installation, arguments: list[str], needs: str, extra: Extra
    ) -> None:
        assert sweep.error(*arguments) == f"error: {needs}; run: {pip_install(extra)}\n"

    def test_functions_name_the_missing_extra(self, sweep: Installation) -> None:
        errors = sweep.execute(
            "import sweeper\n"
            "def print_error(function, *arguments, **options):\n"
            "    try: function(*arguments, **options)\n"
            "    except sweeper.SweeperError as error: print(error)\n"
            "print_error(sweeper.studies, 'mariadb://user@host/database')\n"
            "print_error(sweeper.launch, 'digits', executor='ray', storage='unused.db', "
            "results='unused')\n"
        )
        assert errors.splitlines() == [
            "mysql:// storage needs packages that are not installed (pymysql); "
            f"run: {pip_install('mysql')}",
            f"executor ray needs packages that are not installed (ray); run: {pip_install('ray')}",
        ]


class TestServe:
    """With the extra `serve`: the service."""

    def test_every_module_except_the_adapters_is_importable(self, serve: Installation) -> None:
        assert set(serve.execute(IMPORT_ALL).split()) == ADAPTERS

    def test_an_adapter_names_its_extra(self, serve: Installation) -> None:
        expected: tuple[tuple[Extra, str], ...] = (
            ("huggingface", "accelerate, transformers"),
            ("lightning", "lightning"),
        )
        errors = serve.execute(
            "import importlib, sweeper\n"
            "for name in ('huggingface', 'lightning'):\n"
            "    try: importlib.import_module('sweeper.training.adapters.' + name)\n"
            "    except sweeper.SweeperError as error: print(error)\n"
        )
        assert errors.splitlines() == [
            f"sweeper.training.adapters.{name} needs packages that are not installed ({missing}); "
            f"run: {pip_install(name)}"
            for name, missing in expected
        ]


def test_pip_installs_the_base_and_then_sweep(built: Path, tmp_path: Path) -> None:
    """Only torch and its dependencies are linked: they can be gigabytes."""
    site = empty_environment(tmp_path)
    for name in required_by(["torch", "numpy"], []):
        link(name, site)
    wheel = wheel_of(built)
    done = pip_into(tmp_path, "--no-index", str(wheel))
    assert done.returncode == 0, done.stderr
    command = str(tmp_path / "bin" / "sweeper")
    launch = [command, "launch", "digits", "--trials=2", "--workers=1", "--no-confirm"]
    refused = subprocess.run(launch, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (2, f"error: sweeper launch {NEEDS_SWEEP}\n")
    if pip_into(tmp_path, "--dry-run", "--no-deps", "optuna").returncode:
        pytest.skip("no package index can be reached")
    done = pip_into(tmp_path, "-c", str(ROOT / "constraints.txt"), f"{wheel}[sweep]")
    assert done.returncode == 0, done.stderr
    subprocess.run(launch, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True)
    assert (tmp_path / "results" / "digits" / "best.json").is_file()


def pip_into(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    options = ["--quiet", "--no-compile", "--disable-pip-version-check"]
    return subprocess.run(
        [*command, *options, *arguments], env=ENVIRONMENT, capture_output=True, text=True
    )
