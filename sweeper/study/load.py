"""From a study file (or a ready study's name) to a study that can be launched."""

import json
import re
import tomllib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from sweeper.errors import SweeperError, nearest
from sweeper.smoothing import SCHEDULES, Smoothing, register_schedule
from sweeper.study.ready import find_study_file as find_study_file
from sweeper.study.ready import ready_studies as ready_studies
from sweeper.study.schema_errors import found_in, problems, shown
from sweeper.study.spec import (
    SMOOTHING_KEYS,
    Budget,
    Dimension,
    Range,
    StudySpec,
    canonical_json,
    digest,
    identity,
)
from sweeper.tasks.loading import LoadedTask, load_function, load_task
from sweeper.training.device import pick_device, versions
from sweeper.training.loop import check_logits, predict, start
from sweeper.training.run import TrainingRun
from sweeper.training.seeding import own_randomness
from sweeper.training.task import Task


@dataclass(frozen=True)
class StudyFile:
    """A study file with its code: the task is loaded, its own schedules are registered.

    `sources` are the digests of the Python files that it names, by their name in the file.
    """

    spec: StudySpec
    folder: Path
    task: LoadedTask
    sources: Mapping[str, str]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.study.name

    def identity(self) -> dict[str, Any]:
        """Return what makes this study the one it is."""
        return identity(self.spec, self.sources)

    def hash(self) -> str:
        """Return the identity as one SHA-256; it does not cover budget and pruner."""
        return digest(canonical_json(self.identity()).encode())

    def stored(self) -> str:
        """Return the JSON that the database keeps."""
        return canonical_json(
            {
                "spec": self.spec.model_dump(mode="json"),
                "sources": dict(self.sources),
                "packages": versions(),
                "label_source": {} if self.task.task is None else dict(self.task.task.label_source),
            }
        )


def read_study(
    reference: str | Path,
    *,
    trials: int | None = None,
    pack: str | int | None = None,
    confirm: bool | None = None,
) -> StudyFile:
    """Read, check and load a study; what is given beside it replaces what the file says."""
    path = find_study_file(reference)
    tables = _resolve_first(_read_toml(path), path)
    with found_in(path):
        spec = parse_spec(tables)
    given = {"trials": trials, "pack": pack}
    spec = _with_budget(spec, {key: value for key, value in given.items() if value is not None})
    if confirm is not None:
        spec = with_confirm(spec, confirm)
    with found_in(path):
        return load_code(spec, path.parent.resolve())


def parse_spec(tables: Mapping[str, Any]) -> StudySpec:
    """Check the tables of a study file; raises `SweeperError`, a line for each wrong key."""
    try:
        return StudySpec.model_validate(tables)
    except ValidationError as error:
        raise SweeperError("\n".join(problems(error, StudySpec))) from None


def offered_study(tables: Mapping[str, Any], folders: Sequence[Path]) -> StudyFile:
    """Check and load a study that came over a network: code is taken from these folders alone.

    Raises `SweeperError`, a line for each wrong key, also where it names a file that is not
    directly in one of the folders. (An export that a first point names is not looked for.)
    """
    spec = parse_spec(tables)
    return load_code(spec, _offering(spec, folders))


# A file beside others: no folder, no drive, nothing hidden.
_OFFERED: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.py:[A-Za-z_][A-Za-z0-9_]*")


def _offering(spec: StudySpec, folders: Sequence[Path]) -> Path:
    """Return the folder that has every file that a spec names."""
    named = {"task.use": [spec.task.use], "space.schedule": list(spec.space.schedule)}
    files = {
        reference: key for key, names in named.items() for reference in names if ":" in reference
    }
    folder = folders[0] if folders else Path()
    for reference, key in files.items():
        if not _OFFERED.fullmatch(reference):
            raise SweeperError(f'{key}: {reference!r}; allowed: "file.py:name", without a folder')
    for folder in folders:
        if all((folder / name.partition(":")[0]).is_file() for name in files):
            return folder
    if not files:
        return folder
    there = sorted({path.name for place in folders for path in place.glob("*.py")})
    reference, key = next(iter(files.items()))
    raise SweeperError(
        f"{key}: {reference.partition(':')[0]!r} is not among the files of this server"
        f"{nearest(reference.partition(':')[0], there)}; there are: {', '.join(there) or 'none'}"
    )


def _with_budget(spec: StudySpec, given: Mapping[str, Any]) -> StudySpec:
    try:
        budget = Budget.model_validate({**spec.budget.model_dump(), **given})
    except ValidationError as error:
        raise SweeperError("\n".join(problems(error, Budget))) from None
    return spec.model_copy(update={"budget": budget})


def with_confirm(spec: StudySpec, enabled: bool) -> StudySpec:
    """Return the spec with its confirmation to be done, or not."""
    confirm = spec.confirm.model_copy(update={"enabled": enabled})
    return spec.model_copy(update={"confirm": confirm})


@dataclass(frozen=True)
class StoredStudy:
    """What the database keeps of a study file, readable without its code.

    `label_source` says for each split where its labels come from; empty where the task
    does not say. `packages` are the versions that it was launched with last.
    """

    spec: StudySpec
    sources: Mapping[str, str]
    label_source: Mapping[str, str]
    packages: Mapping[str, str] = field(default_factory=dict)


def read_stored(stored: str) -> StoredStudy:
    """Read the text that `StudyFile.stored` gave."""
    kept = json.loads(stored)
    # Of a study that was launched before there were confirmations none is still to come.
    kept["spec"].setdefault("confirm", {"enabled": False})
    kept["spec"] = StudySpec.model_validate(kept["spec"])
    return StoredStudy(**kept)


def stored_to_confirm(stored: str) -> str:
    """Return the same text with the confirmation to be done."""
    kept = json.loads(stored)
    kept["spec"].setdefault("confirm", {})["enabled"] = True
    return canonical_json(kept)


def stored_study(stored: str, folder: Path, *, any_versions: bool = False) -> StudyFile:
    """Load a study with its code as it was launched; `folder` is where its files lie here.

    Raises `SweeperError` where a file that it names is not the one it was launched with, or a
    package has another version (unless `any_versions`): what its trials give would not compare.
    """
    kept = read_stored(stored)
    name = kept.spec.study.name
    if not any_versions:
        _check_packages(name, kept.packages)
    _check_there(name, kept.sources, folder)
    study = load_code(kept.spec, folder)
    changed = [file for file, have in study.sources.items() if kept.sources.get(file) != have]
    if changed:
        raise SweeperError(
            f"study {name!r}: {folder / changed[0]} has changed since the launch; "
            "bring the file back, or launch it under another name"
        )
    return study


def _check_there(name: str, sources: Mapping[str, str], folder: Path) -> None:
    missing = [file for file in sources if not (folder / file).is_file()]
    if missing:
        raise SweeperError(
            f"study {name!r}: {folder / missing[0]} is not on this machine; bring the file, or say "
            "where it lies here: --folder FOLDER"
        )


# How much of a version has to be the same: a patch of torch changes no more than another
# processor does, and Optuna 4 wrote times that 5 reads otherwise.
_SAME_PARTS: Final = {"sweeper": 3, "torch": 2, "optuna": 1}


def _check_packages(name: str, launched: Mapping[str, str]) -> None:
    here = versions()
    for package, parts in _SAME_PARTS.items():
        there, mine = launched.get(package), here.get(package)
        if there and mine and _beginning(there, parts) != _beginning(mine, parts):
            raise SweeperError(
                f"study {name!r} was launched with {package} {there}, and this worker has {mine}: "
                "their trials would not compare; install the same, or launch the study from here"
            )


def _beginning(version: str, parts: int) -> list[str]:
    return version.partition("+")[0].split(".")[:parts]


def load_code(spec: StudySpec, folder: Path) -> StudyFile:
    """Load the task and the schedules that a spec names; `folder` is where its files lie."""
    sources: dict[str, str] = {}
    for name in spec.space.schedule:
        if name not in SCHEDULES or ":" in name:
            with _under("space.schedule"):
                function, path = load_function(name, folder)
                _register(name, function)
            sources[name.split(":")[0]] = digest(path.read_bytes())
    with _under("task.use"):
        task = load_task(spec.task.use, spec.task.options, folder)
    if task.source is not None:
        sources[spec.task.use.split(":")[0]] = digest(task.source.read_bytes())
    _check_extras(spec, task)
    return StudyFile(spec, folder, task, sources)


def check_runs(study: StudyFile) -> None:
    """Raise `SweeperError` where no trial could run: no such device, bad data, another model.

    It builds the model once and shows it two validation rows, on the CPU. Nothing is known
    before it runs of a training loop of the user's own.
    """
    with _under("task.device"):
        pick_device(study.spec.task.device)
    task = study.task.task
    if task is None:
        return
    with _under("task.use"), _own_code(study.spec.task.use):
        _try(task, study.spec)


def _try(task: Task, spec: StudySpec) -> None:
    seed, cpu = spec.study.seed, torch.device("cpu")
    with own_randomness(cpu):
        _, fit = start(task, TrainingRun(Smoothing(0.0), seed, seed, cpu))
        check_logits(task, predict(fit.model, fit.valid[0][:2]))


@contextmanager
def _own_code(use: str) -> Iterator[None]:
    """Say in one line what the code of a task raised, and where."""
    try:
        yield
    except SweeperError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise SweeperError(f"{use}: {what} ({frame.filename}:{frame.lineno})") from error


@contextmanager
def _under(key: str) -> Iterator[None]:
    """Name the key of the study file that an error belongs to, unless it says so itself."""
    try:
        yield
    except SweeperError as error:
        if str(error).startswith(key.partition(".")[0] + "."):
            raise
        raise SweeperError(f"{key}: {error}") from error


def _register(name: str, function: Any) -> None:
    """Register a schedule in place of one that an edited or another file gave the same name."""
    earlier = SCHEDULES.pop(name, None)
    try:
        register_schedule(name, function)
    except ValueError as error:
        if earlier is not None:
            SCHEDULES[name] = earlier
        raise SweeperError(str(error)) from None


def _check_extras(spec: StudySpec, task: LoadedTask) -> None:
    """Raise for a hyperparameter that the task does not take, or not with these values."""
    lines = [line for name, of in spec.space.extras.items() for line in _extra(name, of, task)]
    if lines:
        raise SweeperError("\n".join(lines))


def _extra(name: str, dimension: Dimension, task: LoadedTask) -> Iterator[str]:
    if task.accepts is not None and name not in task.accepts:
        allowed = sorted(task.accepts)
        near = nearest(name, [*SMOOTHING_KEYS, *allowed])
        yield (
            f"space.{name}: the task takes no such hyperparameter{near}; "
            f"allowed: {', '.join([*SMOOTHING_KEYS, *allowed])}"
        )
    elif task.accepts is None and get_close_matches(name, SMOOTHING_KEYS, cutoff=0.85):
        yield (
            f"space.{name}: unknown key{nearest(name, SMOOTHING_KEYS)}; a hyperparameter of the "
            "training loop needs a name that is less like it"
        )
    elif task.task is not None:
        yield from _bad_values(name, dimension, task.task)


def _bad_values(name: str, dimension: Dimension, task: Task) -> Iterator[str]:
    ends = isinstance(dimension, Range)
    for value in (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension:
        try:
            task.settings({name: value})
        except (TypeError, ValueError) as error:
            yield f"space.{name}{'' if ends else f': {value!r}'}: {error}"


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a text; raises `SweeperError` where it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SweeperError(f"not valid TOML: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with found_in(path):
            return parse_toml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SweeperError(f"{path}: not UTF-8 text, as TOML has to be: {error}") from None
    except OSError as error:
        raise SweeperError(f"{path}: cannot be read: {error.strerror}") from None


def _resolve_first(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace `from = "best.json"` in the first points by the point that the file holds."""
    first = tables.get("first")
    if not isinstance(first, list):
        return tables
    points = []
    for number, entry in enumerate(first):
        with found_in(f"{path}: first[{number}].from"):
            points.append(_resolved(entry, path.parent))
    return {**tables, "first": points}


def _resolved(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, dict) or "from" not in entry:
        return entry
    rest = {key: value for key, value in entry.items() if key != "from"}
    return {**_exported(entry["from"], folder), **rest}


def _exported(given: Any, folder: Path) -> dict[str, Any]:
    """Return the point of an export."""
    if not isinstance(given, str):
        raise SweeperError(f"{shown(given)}; allowed: the path of a study's best.json")
    source = folder / given
    try:
        best = json.loads(source.read_text(encoding="utf-8"))
        if not isinstance(best, dict):
            raise ValueError("it holds no JSON object")
        if best["convention"] != "others":
            raise ValueError(f"its convention is {best['convention']!r}, a study's is 'others'")
        return {key: best[key] for key in ("epsilon", "schedule", "rate")} | dict(best["hparams"])
    except OSError as error:
        raise SweeperError(f"{source} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise SweeperError(
            f"{source} is not the best.json of a study (sweeper export writes one): {reason}"
        ) from None
