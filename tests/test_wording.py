"""Text in the project: American spelling, percentages, and phrases that were replaced."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
FOLDERS: Final = ("sweeper", "studies", "dashboards", "docs", "benchmarks", "tests")
SUFFIXES: Final = frozenset({".py", ".html", ".js", ".css", ".md", ".toml", ".j2", ".yml"})
# A phrase as a regular expression, with what is written instead.
REPLACED: Final = {
    r"\b[Ll]ucky\b": "optimistically biased",
    r"\bno luck\b": "(nothing)",
    r"\btold from none\b": "power to detect",
    r"\bcases of five\b": "80% power",
    r"\b[Nn]obody is at it\b": "no active worker",
    r"\bNo worker is at it\b": "No workers are running",
    r"\bLet a study (rest|go on)\b": "Pause a study, Resume a study",
    r"\bis no (folder|file|schedule|token|directory|trial)\b": "is not a ...",
    r"\b(row|line|entry) a (trial|line|study)\b": "per",
    r"\btrainings\b": "training runs",
    r"\bdoes not serve us\b": "database error",
    r"\bof another time\b": "of a different version",
    r"\bSay how far\b": "Show the progress",
    r"\bgoes? on with it\b": "resume",
    r"\bgone on with\b": "resumed",
    r"\bgoes by another name\b": "Host header not allowed",
    r"\bmistake of the service\b": "internal error",
    r"\bmend the task\b": "fix the task",
    r"\bNo trial is like that\b": "No trials match",
    r"\bWords used here\b": "Glossary",
    r"\bWhat mattered\b": "Hyperparameter importance",
    r"\bHow the search goes\b": "Search progress",
    r"\bWhat each side would say\b": "Effect by metric",
    r"\bready (study|studies|task|tasks|loop|page|pages)\b": "example, built-in",
    r"\bof (its|one's|their) own loop\b": "custom training function",
    r"\btraining loop of (one's|your) own\b": "custom training function",
    r"\bso-manieth\b": "every n-th",
    r"\btrained anew\b": "retrained",
    r"\bbear_trial\b|\bBornTrial\b": "create_optuna_trial, OptunaTrial",
    r"\blaid_points\b": "planned_points",
    r"\bhand_back\b": "release_ticket",
    r"\bfree_leases\b": "revoke_leases",
}
SPACED_PERCENT: Final = re.compile(r"[0-9]\s%(?!\s?[0-9a-z(}])")


def texts() -> list[Path]:
    """Return the files that people read, except this one."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *inside]
    return sorted(
        path
        for path in found
        if path.suffix in SUFFIXES and "recorded" not in path.parts and path != Path(__file__)
    )


def hits(pattern: str) -> list[str]:
    """Return where a pattern occurs, as "file:line: text"."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("phrase", REPLACED)
def test_a_replaced_phrase_does_not_come_back(phrase: str) -> None:
    assert hits(phrase) == [], f"write: {REPLACED[phrase]}"


def test_a_percentage_has_no_space() -> None:
    assert hits(SPACED_PERCENT.pattern) == []


def test_the_spelling_is_american() -> None:
    # asyncio and Slurm spell "cancelled" so.
    options = ["--builtin", "en-GB_to_en-US", "--ignore-words-list", "cancelled"]
    command = [sys.executable, "-m", "codespell_lib", *options]
    done = subprocess.run(
        [*command, *map(str, texts())], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr
