"""From a study file (or a ready study's name) to a study that can be launched."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sweeper.errors import SweeperError, nearest
from sweeper.shipped import shipped
from sweeper.smoothing import SCHEDULES, register_schedule
from sweeper.study.spec import StudySpec, canonical_json, digest, identity
from sweeper.tasks.loading import LoadedTask, load_function, load_task


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
                "label_source": {} if self.task.task is None else dict(self.task.task.label_source),
            }
        )


def ready_studies() -> dict[str, Path]:
    """Return the studies that ship with the package, by name."""
    return {path.stem: path for path in sorted(shipped("studies").glob("*.toml"))}


def find_study_file(reference: str | Path) -> Path:
    """Return the path of a study given as a file or as a ready study's name."""
    path, ready = Path(reference), ready_studies()
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise SweeperError(
                f"{path}: there is no such study file; the ready ones: {', '.join(ready)}"
            )
        return path
    if str(reference) not in ready:
        raise SweeperError(
            f"{reference}: neither a file nor a ready study{nearest(str(reference), ready)}; "
            f"the ready ones: {', '.join(ready)}"
        )
    return ready[str(reference)]


def read_study(reference: str | Path, *, trials: int | None = None) -> StudyFile:
    """Read, check and load a study; `trials` replaces its budget."""
    path = find_study_file(reference)
    tables = _resolve_first(_read_toml(path), path)
    if trials is not None:
        tables["budget"] = {**tables.get("budget", {}), "trials": trials}
    return load_code(parse_spec(tables, path), path.parent.resolve())


def parse_spec(tables: Mapping[str, Any], origin: object) -> StudySpec:
    """Check the tables of a study file; raises `SweeperError`, a line for each wrong key."""
    try:
        return StudySpec.model_validate(tables)
    except ValidationError as error:
        raise SweeperError("\n".join(f"{origin}: {line}" for line in _lines(error))) from None


@dataclass(frozen=True)
class StoredStudy:
    """What the database keeps of a study file, readable without its code.

    `label_source` says for each split where its labels come from; empty where the task
    does not say.
    """

    spec: StudySpec
    sources: Mapping[str, str]
    label_source: Mapping[str, str]


def read_stored(stored: str) -> StoredStudy:
    """Read the text that `StudyFile.stored` gave."""
    kept = json.loads(stored)
    kept["spec"] = StudySpec.model_validate(kept["spec"])
    return StoredStudy(**kept)


def stored_study(stored: str, folder: Path) -> StudyFile:
    """Load a study with its code as it was launched.

    Raises `SweeperError` where a file that it names is not the one it was launched with.
    """
    kept = read_stored(stored)
    study = load_code(kept.spec, folder)
    changed = [name for name, have in study.sources.items() if kept.sources.get(name) != have]
    if changed:
        raise SweeperError(
            f"study {study.name!r}: {folder / changed[0]} has changed since the launch; "
            "bring the file back, or launch it under another name"
        )
    return study


def load_code(spec: StudySpec, folder: Path) -> StudyFile:
    """Load the task and the schedules that a spec names; `folder` is where its files lie."""
    sources: dict[str, str] = {}
    for name in spec.space.schedule:
        if name not in SCHEDULES or ":" in name:
            function, path = load_function(name, folder)
            _register(name, function)
            sources[name.split(":")[0]] = digest(path.read_bytes())
    task = load_task(spec.task.use, spec.task.options, folder)
    if task.source is not None:
        sources[spec.task.use.split(":")[0]] = digest(task.source.read_bytes())
    _check_extras(spec, task)
    return StudyFile(spec, folder, task, sources)


def _register(name: str, function: Any) -> None:
    try:
        register_schedule(name, function)
    except ValueError as error:
        raise SweeperError(f"space.schedule: {error}") from None


def _check_extras(spec: StudySpec, task: LoadedTask) -> None:
    for name in spec.space.extras:
        if task.accepts is not None and name not in task.accepts:
            raise SweeperError(
                f"space.{name}: task {spec.task.use!r} takes no such hyperparameter"
                f"{nearest(name, task.accepts)}; allowed: {', '.join(sorted(task.accepts))}"
            )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SweeperError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweeperError(f"{path}: cannot be read: {error}") from None


def _resolve_first(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace `from = "best.json"` in the first points by the point that the file holds."""
    first = tables.get("first")
    if not isinstance(first, list):
        return tables
    return {**tables, "first": [_resolved(entry, path) for entry in first]}


def _resolved(entry: Any, path: Path) -> Any:
    if not isinstance(entry, dict) or "from" not in entry:
        return entry
    source = path.parent / str(entry["from"])
    try:
        best = json.loads(source.read_text(encoding="utf-8"))
        point = {key: best[key] for key in ("epsilon", "schedule", "rate")}
        point.update(best.get("hparams", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SweeperError(
            f"{path}: first.from: {source} is no export of sweeper: {error}"
        ) from None
    rest = {key: value for key, value in entry.items() if key != "from"}
    return {**point, **rest}


def _lines(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if part not in ("Range", _CHOICES))
        yield f"{key}: {_words(item)}" if key else _words(item)


_CHOICES = "tuple[union[bool,int,float,str],...]"


def _words(item: Mapping[str, Any]) -> str:
    """Return one problem in words: what was given, and what is allowed."""
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key{_near_key(item['loc'])}"
        case "missing":
            return "missing; it has to be given"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            allowed = item["msg"].removeprefix("Input ").removeprefix("should be ")
            return f"given {item['input']!r}; allowed: {allowed}"


def _near_key(loc: tuple[int | str, ...]) -> str:
    fields = _fields_at(loc[:-1])
    return f"{nearest(str(loc[-1]), fields)}; allowed: {', '.join(fields)}"


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a table of the study file may have."""
    node: Any = StudySpec.model_json_schema()
    definitions = node["$defs"]
    for part in loc:
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif "items" in node:
            node = node["items"]
        while "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    return list(node.get("properties", {}))
