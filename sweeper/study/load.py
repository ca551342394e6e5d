"""Load study files and stored studies."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sweeper import limits
from sweeper.errors import StudyDamaged, SweeperError, suggestion
from sweeper.store.studies import StudyRecord
from sweeper.study.bounds import check_size_limits
from sweeper.study.bounds import parse_toml as parse_toml
from sweeper.study.budget import BudgetSection
from sweeper.study.code import Inspect, checked_code, inspect_code
from sweeper.study.examples import example_studies as example_studies
from sweeper.study.examples import find_study_file as find_study_file
from sweeper.study.plan import check_length, iterate_plan
from sweeper.study.schema_errors import error_lines, prefix_errors, toml_value
from sweeper.study.space import Point
from sweeper.study.spec import StudySpec, canonical_json, digest, identity
from sweeper.tasks.facts import CodeFacts
from sweeper.training.versions import versions
from sweeper.version import __version__


@dataclass(frozen=True)
class StudyFile:
    """A validated study file with facts about its code; `folder` contains the code.

    `check` is the result of the check before the launch, {} without one.
    """

    spec: StudySpec
    folder: Path
    code: CodeFacts
    check: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.study.name

    def points(self, first: int = 0, earlier: int = 0) -> Iterator[Point | None]:
        """Yield the point of each ticket from `first` on, None if the sampler proposes it later.

        `earlier` is the number of trials of an earlier study that inform the sampler.
        """
        return iterate_plan(self.spec, self.code.defaults, first, earlier)

    def hash(self) -> str:
        """Return the SHA-256 of the identity and the code; budget and pruner do not affect it."""
        identifying = {**identity(self.spec), "sources": dict(self.code.sources)}
        return digest(canonical_json(identifying).encode())

    def stored(self) -> str:
        """Return the JSON that is stored in the database."""
        return canonical_json(
            {
                "spec": self.spec.model_dump(mode="json"),
                "packages": versions(),
                "label_source": dict(self.code.label_source),
                **({"check": self.check} if self.check else {}),
            }
        )


def read_study(
    reference: str | Path,
    *,
    trials: int | None = None,
    pack: str | int | None = None,
    confirm: bool | None = None,
    inspect: Inspect = inspect_code,
) -> StudyFile:
    """Read and check a study, given as a path or as the name of an example study.

    `trials`, `pack` and `confirm` override the values of the file unless they are None. `inspect`
    loads the code and builds the task once. Raises `SweeperError` if the study is invalid.
    """
    path = find_study_file(reference)
    tables = _resolve_first(_read_toml(path), path)
    with prefix_errors(path):
        spec = parse_spec(tables)
    spec = _with_overrides(spec, trials, pack, confirm)
    with prefix_errors(path):
        return with_code(spec, path.parent.resolve(), inspect)


def study_of(
    tables: Mapping[str, Any],
    folder: Path,
    *,
    trials: int | None = None,
    pack: str | int | None = None,
    confirm: bool | None = None,
    inspect: Inspect = inspect_code,
) -> StudyFile:
    """Check a study that is given as the tables of a study file in `folder`; see `read_study`."""
    spec = parse_spec(_resolve_first(dict(tables), folder / "launch"))
    return with_code(_with_overrides(spec, trials, pack, confirm), folder, inspect)


def _with_overrides(
    spec: StudySpec, trials: int | None, pack: str | int | None, confirm: bool | None
) -> StudySpec:
    options = {"trials": trials, "pack": pack}
    spec = _with_budget(spec, {key: value for key, value in options.items() if value is not None})
    return spec if confirm is None else with_confirm(spec, confirm)


def with_code(spec: StudySpec, folder: Path, inspect: Inspect) -> StudyFile:
    """Load the code of a study from `folder` and return the study.

    Raises `SweeperError` if the code cannot be loaded or no trial could run.
    """
    check_length(spec)
    return StudyFile(spec, folder, checked_code(spec, folder, inspect))


def parse_spec(tables: Mapping[str, Any]) -> StudySpec:
    """Validate the tables of a study file; raises `SweeperError` with one line per wrong key."""
    check_size_limits(tables)
    try:
        return StudySpec.model_validate(tables)
    except ValidationError as error:
        raise SweeperError("\n".join(error_lines(error, StudySpec))) from None


def submitted_study(tables: Mapping[str, Any], folders: Sequence[Path]) -> StudyFile:
    """Validate a study that was sent over the network; code is loaded only from `folders`.

    Raises `SweeperError` with one line per wrong key, also if the study uses a file that is not
    directly in one of the folders. `from` in a first point is not supported here.
    """
    spec = parse_spec(tables)
    return with_code(spec, _code_folder(spec, folders), inspect_code)


# A file name without a folder or drive; hidden files are not allowed.
_SUBMITTED: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.py:[A-Za-z_][A-Za-z0-9_]*")


def _code_folder(spec: StudySpec, folders: Sequence[Path]) -> Path:
    """Return the first folder that contains every file that a spec uses."""
    if spec.task.command:
        raise SweeperError(
            "task.command: a study that is sent over the network cannot contain a command; set "
            "task.program to a script of the server"
        )
    references = {"task.use": [spec.task.use], "space.schedule": list(spec.space.schedule)}
    files = {
        reference: key
        for key, names in references.items()
        for reference in names
        if ":" in reference
    }
    folder = folders[0] if folders else Path()
    for reference, key in files.items():
        if not _SUBMITTED.fullmatch(reference):
            raise SweeperError(f'{key}: must be "file.py:name" without a folder, got {reference!r}')
    program = spec.task.program
    if program:
        if not _SUBMITTED.fullmatch(f"{program}:name"):
            raise SweeperError(
                f'task.program: must be "file.py" without a folder, got {toml_value(program)}'
            )
        files[program] = "task.program"
    for folder in folders:
        if all((folder / name.partition(":")[0]).is_file() for name in files):
            return folder
    if not files:
        return folder
    available = sorted({path.name for path_folder in folders for path in path_folder.glob("*.py")})
    reference, key = next(iter(files.items()))
    file = reference.partition(":")[0]
    raise SweeperError(
        f"{key}: {file!r} is not a file of this server{suggestion(file, available)}; "
        f"available: {', '.join(available) or 'none'}"
    )


def _with_budget(spec: StudySpec, options: Mapping[str, Any]) -> StudySpec:
    try:
        budget = BudgetSection.model_validate({**spec.budget.model_dump(), **options})
    except ValidationError as error:
        raise SweeperError("\n".join(error_lines(error, BudgetSection))) from None
    return spec.model_copy(update={"budget": budget})


def with_confirm(spec: StudySpec, enabled: bool) -> StudySpec:
    """Return the spec with the confirmation enabled or disabled."""
    confirm = spec.confirm.model_copy(update={"enabled": enabled})
    return spec.model_copy(update={"confirm": confirm})


@dataclass(frozen=True)
class StoredStudy:
    """The part of a study file that is stored in the database; it does not need the code.

    `label_source` says for each split where its labels come from; it is empty if the task does
    not say. `packages` are the package versions at the last launch, and `check` is the result of
    the check before it.
    """

    spec: StudySpec
    label_source: Mapping[str, str]
    packages: Mapping[str, str] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def name(self) -> str:
        return self.spec.study.name


_STORED: Final = TypeAdapter(StoredStudy)


def read_stored(record: StudyRecord) -> StoredStudy:
    """Parse the stored study, as written by `StudyFile.stored`.

    Raises `StudyDamaged` if it cannot be parsed or a value exceeds the limits of this version.
    """
    if record.problem:
        raise StudyDamaged(record.name, record.problem)
    try:
        fields = json.loads(record.spec)
        # Studies from versions without confirmation are not confirmed.
        fields["spec"].setdefault("confirm", {"enabled": False})
        fields["spec"] = parse_spec(fields["spec"])
        fields.pop("sources", None)  # older versions stored the sources here
        stored = _STORED.validate_python(fields)
    except SweeperError as error:
        raise _damaged_spec(record, "; ".join(str(error).splitlines())) from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = f"not the JSON of a study ({type(error).__name__}: {error})"
        raise _damaged_spec(record, reason.splitlines()[0]) from error
    if stored.name != record.name:
        raise _damaged_spec(record, f"it belongs to study {stored.name!r}")
    return stored


def _damaged_spec(record: StudyRecord, problem: str) -> StudyDamaged:
    """Return the error for an invalid stored spec, with its version if it differs from ours."""
    here = __version__
    other = f" (launched with sweeper {record.version}; this is {here})"
    other = "" if record.version == here else other
    return StudyDamaged(record.name, f"its stored spec is invalid: {problem}{other}")


def findings_of(check: Mapping[str, Any]) -> list[str]:
    """Return the findings of a stored check as sentences."""
    return [line["text"] for line in check.get("lines", ()) if line["outcome"] == "finding"]


def with_confirmation_enabled(stored: str) -> str:
    """Return the stored JSON with the confirmation enabled."""
    fields = json.loads(stored)
    fields["spec"].setdefault("confirm", {})["enabled"] = True
    return canonical_json(fields)


# Number of version parts that must match. A patch release of torch changes results no more than
# another processor does. Optuna 5 interprets stored times differently from Optuna 4.
_SAME_PARTS: Final = {"sweeper": 3, "torch": 2, "optuna": 1}


def check_packages(name: str, launched: Mapping[str, str]) -> None:
    """Raise `SweeperError` if package versions differ from those that a study was launched with.

    Trials from different versions would not be comparable.
    """
    other = other_package(launched)
    if other is not None:
        package, theirs, ours = other
        raise SweeperError(
            f"study {name!r} was launched with {package} {theirs}, but this worker has "
            f"{package} {ours}, so the trials would not be comparable; install {package} "
            f"{theirs}, or launch the study again from here"
        )


def other_package(launched: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Return the first package with another version: its name, that version and ours; or None."""
    here = versions()
    for package, parts in _SAME_PARTS.items():
        theirs, ours = launched.get(package), here.get(package)
        if theirs and ours and _first_parts(theirs, parts) != _first_parts(ours, parts):
            return package, theirs, ours
    return None


def _first_parts(version: str, parts: int) -> list[str]:
    return version.partition("+")[0].split(".")[:parts]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with prefix_errors(path):
            return parse_toml(read_text(path))
    except UnicodeDecodeError as error:
        raise SweeperError(f"{path}: not valid UTF-8, which TOML requires: {error}") from None
    except OSError as error:
        raise SweeperError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """Return the text of a file, truncated just above the maximum length of a study file."""
    with path.open(encoding="utf-8-sig") as stream:
        return stream.read(limits.STUDY_FILE_LENGTH + 1)


def _resolve_first(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace `from = "best.json"` in the first points with the point in that file."""
    first = tables.get("first")
    if not isinstance(first, list):
        return tables
    points = []
    for number, entry in enumerate(first):
        with prefix_errors(f"{path}: first[{number}].from"):
            points.append(_resolve_entry(entry, path.parent))
    return {**tables, "first": points}


def _resolve_entry(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, dict) or "from" not in entry:
        return entry
    rest = {key: value for key, value in entry.items() if key != "from"}
    return {**_exported_point(entry["from"], folder), **rest}


def _exported_point(reference: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(reference, str):
        raise SweeperError(f"must be the path of a study's best.json, got {toml_value(reference)}")
    source = folder / reference
    try:
        best = json.loads(read_text(source))
        if not isinstance(best, dict):
            raise ValueError("not a JSON object")
        if best["convention"] != "others":
            raise ValueError(f"its convention must be 'others', got {best['convention']!r}")
        return {key: best[key] for key in ("epsilon", "schedule", "rate")} | dict(best["hparams"])
    except OSError as error:
        raise SweeperError(f"{source} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"missing key {error}" if isinstance(error, KeyError) else error
        raise SweeperError(
            f"{source} is not a best.json as written by sweeper export: {reason}"
        ) from None
