"""Checking the training code of a study, by itself or before a launch."""

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sweeper.errors import SweeperError
from sweeper.store.database import SchemaMissing, open_reader
from sweeper.store.studies import find_study
from sweeper.study.code import code_request
from sweeper.study.load import StudyFile, read_stored

if TYPE_CHECKING:
    from sweeper.api.launching import LaunchPlan
    from sweeper.checking.check import OnRun
    from sweeper.checking.finding import Check
    from sweeper.training.task import Task

# The executors whose workers run on this machine; others may have other devices.
_LOCAL: Final = ("local", "inline")

_log = logging.getLogger(__name__)


def check(
    study: "str | Path | Callable[..., Any] | Task",
    /,
    options: Mapping[str, Any] | None = None,
    *,
    on_run: "OnRun" = lambda _: None,
    **keywords: Any,
) -> "Check":
    """Train three short runs of a study and look for common faults; store nothing.

    The arguments are those of `launch`. Two runs have ε = 0 and one ε = 0.3, with the same seed;
    together they take at most 2% of the budget, but at least one report each. `on_run` is called
    with ε before each run. The result has one line per question, and `findings` are the lines that
    say what to change. Raises `SweeperError` for errors in the study.
    """
    from sweeper.api.launching import read_given  # late: it imports this module
    from sweeper.checking.check import run_check

    read = read_given(study, options, keywords)
    return run_check(read.file, read.pool.given, on_run)


def checked_before_launch(planned: "LaunchPlan") -> StudyFile:
    """Check the training code before a launch; return the study with the result.

    Built-in tasks, studies that were checked with the same code, and launches whose workers run
    elsewhere are not checked. Raises `SweeperError` for findings that make the result of the study
    meaningless.
    """
    file, options = planned.file, planned.options
    stored = _stored_check(planned)
    file = replace(file, check=stored)
    local = planned.pool.executor.traits.name in _LOCAL and not options.detach
    user_code = code_request(file.spec, file.folder).has_files
    if not options.check or not local or not user_code or planned.finished:
        return file
    if stored.get("code") == file.hash():
        return file
    from sweeper.checking.check import run_check

    _log.info("checking the training with three short runs (skip: --no-check)")
    result = run_check(file, planned.pool.given)
    if result.stops:
        raise SweeperError(_refusal(result))
    for line in result.findings:
        _log.warning("check: %s", line.text)
    _log.info("check: %s, %.1f s", result.count, result.seconds)
    return replace(file, check=result.to_dict())


def _stored_check(planned: "LaunchPlan") -> Mapping[str, Any]:
    try:
        reader = open_reader(planned.options.storage)
    except SchemaMissing:
        return {}
    with closing(reader):
        record = find_study(reader, planned.name)
        return {} if record is None else read_stored(record).check


def _refusal(result: "Check") -> str:
    lines = [f"check: {line.text}" for line in result.findings]
    return "\n".join([*lines, "to launch without the check: --no-check, or check=False in Python"])
