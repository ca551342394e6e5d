"""The wheel, without the checkout: it carries its studies and its pages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("sweeper-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(unpacked: Path, folder: Path, *arguments: str) -> str:
    # -P and a foreign folder: the checkout must not be found by accident.
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); from sweeper.cli import main; main()"
    )
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_ready_study_is_launched_without_a_checkout(unpacked: Path, tmp_path: Path) -> None:
    assert "digits" in run(unpacked, tmp_path, "studies")
    run(unpacked, tmp_path, "launch", "digits", "--trials", "2", "--workers", "0", "--no-confirm")
    assert (tmp_path / "results" / "digits" / "report.html").is_file()
    assert (tmp_path / "results" / "digits" / "best.json").is_file()


def test_the_wheel_holds_what_is_read_at_run_time_and_no_tests(unpacked: Path) -> None:
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert {
        "sweeper/py.typed",
        "sweeper/_bundled/studies/digits.toml",
        "sweeper/executors/templates/kubernetes.yaml.j2",
        "sweeper/service/pages/assets/service.css",
        "sweeper/service/pages/templates/base.html",
        "sweeper/_bundled/dashboards/trade-offs.toml",
        "sweeper/executors/templates/slurm.sh.j2",
        "sweeper/report/templates/page.html",
        "sweeper/store/migrations/env.py",
    } <= held
    assert not any("test" in name for name in held)
