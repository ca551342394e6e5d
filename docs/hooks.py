"""Hooks of the site: pages from the code, and links to files of the repository outside docs/."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent
LINK: Final = re.compile(r"\]\(([^)\s#]*)(#[^)\s]*)?\)")
# Pages outside docs/ that the site has too.
OUTSIDE_PAGES: Final = ("benchmarks/RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md")
# Where the site has files from outside docs/.
OUTSIDE: Final = "repository"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages link to, and the pages of OUTSIDE_PAGES."""
    texts = [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    texts += [ROOT / page for page in OUTSIDE_PAGES]
    linked = {path for text in texts for path in _linked_outside(text)}
    for path in sorted(linked | {*OUTSIDE_PAGES}):
        file = File.generated(config, f"{OUTSIDE}/{path}", abs_src_path=str(ROOT / path))
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the generated parts of a page, and let its links lead to the files of the site."""
    source = page.file.src_uri
    text = insert_generated(markdown)
    return LINK.sub(lambda link: _in_site(link, source), text)


def insert_generated(markdown: str) -> str:
    """Return a page with the parts that its `<!-- generated: NAME -->` comments stand for."""
    return re.sub(
        r"<!-- generated: (\w+) -->", lambda match: GENERATED[match[1]]().strip(), markdown
    )


def _linked_outside(page: Path) -> Iterator[str]:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if target and ":" not in target and path.is_file() and path.is_relative_to(ROOT):
            relative = path.relative_to(ROOT).as_posix()
            if not relative.startswith("docs/"):
                yield relative


def _in_site(link: re.Match[str], source: str) -> str:
    """Return a link of a page of the site, given as it is in the repository."""
    target, anchor = link[1], link[2] or ""
    if not target or ":" in target:
        return link[0]
    outside = source.removeprefix(f"{OUTSIDE}/")
    page = outside if outside != source else f"docs/{source}"
    path = os.path.normpath(PurePosixPath(page).parent / target)
    place = path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}/{path}"
    return f"]({os.path.relpath(place, PurePosixPath(source).parent)}{anchor})"


# ---- commands ----------------------------------------------------------------------------


def commands() -> str:
    """Return a section for each command, from its own help."""
    from typer.main import get_command

    from sweeper.cli.app import app

    return "\n\n".join(_command_sections("sweeper", get_command(app)))


def _command_sections(path: str, command: Any) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _command_sections(f"{path} {name}", below)
        return
    pieces = " ".join(command.collect_usage_pieces(context))
    rows = [
        (f"`{names}`".replace("|", "\\|"), text.replace("|", "\\|"))
        for names, text in filter(None, (p.get_help_record(context) for p in command.params))
    ]
    yield f"### {path}"
    yield command.help.replace("\n\n", "\n").replace("\n", "\n\n").strip()
    yield f"    {path} {pieces}"
    if rows:
        yield _table(("argument or option", ""), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- the JSON API ------------------------------------------------------------------------


def json_api() -> str:
    """Return a section for each route of the JSON API, and one for each schema."""
    document = openapi()
    routes = [
        section
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for section in _route_sections(f"{method.upper()} {path}", operation)
    ]
    schemas = [
        section
        for name, schema in document["components"]["schemas"].items()
        for section in _schema_sections(name, schema)
    ]
    return "\n\n".join(["## Routes", *routes, "## Schemas", *schemas])


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the JSON API, as /v1/openapi.json has it."""
    from fastapi import FastAPI

    from sweeper.service.api.v1 import router

    app = FastAPI()
    app.include_router(router)
    return app.openapi()


def _route_sections(title: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{title}`"
    yield operation["description"]
    rows = [
        (f"`{one['name']}`", _type(one["schema"]), one.get("description", ""))
        for one in operation.get("parameters", ())
        if one["in"] == "query"
    ]
    if rows:
        yield _table(("parameter", "type", ""), rows)
    for what, content in (
        ("Body", operation.get("requestBody", {}).get("content", {})),
        ("Response", _success(operation).get("content", {})),
    ):
        for kind, media in content.items():
            yield f"{what}: {_type(media.get('schema', {}))} (`{kind}`)"


def _success(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(
        (answer for code, answer in operation["responses"].items() if code.startswith("2")), {}
    )


def _schema_sections(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if schema.get("description"):
        yield schema["description"]
    rows = [
        (f"`{key}`", _type(value), value.get("description", ""))
        for key, value in schema.get("properties", {}).items()
    ]
    if rows:
        yield _table(("field", "type", ""), rows)


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of a JSON schema in words, with links to the schemas of the page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


# ---- the study file ----------------------------------------------------------------------


def study_keys() -> str:
    """Return a table of the keys of each section of a study file, from the JSON Schema."""
    from sweeper.study.spec import json_schema

    schema = json_schema()
    definitions = schema["$defs"]
    sections = []
    for key, value in schema["properties"].items():
        name = next((ref.rpartition("/")[2] for ref in _references(value)), None)
        if name is None or "properties" not in definitions[name]:
            continue
        section = definitions[name]
        heading = f"[[{key}]]" if value.get("type") == "array" else f"[{key}]"
        rows = [
            (
                f"`{field}`",
                _plain_type(about, definitions),
                _default(about),
                about.get("description", "").replace("|", "\\|"),
            )
            for field, about in section["properties"].items()
        ]
        table = _table(("key", "type", "default", ""), rows)
        sections += [f"### `{heading}`", section.get("description", ""), table]
    return "\n\n".join(filter(None, sections))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for below in value.values():
            yield from _references(below)
    elif isinstance(value, list):
        for below in value:
            yield from _references(below)


def _plain_type(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _plain_type(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema or "oneOf" in schema:
        choices = schema.get("anyOf") or schema["oneOf"]
        types = [_plain_type(one, definitions) for one in choices]
        return " or ".join(dict.fromkeys(one for one in types if one != "null"))
    return "table" if schema.get("type") == "object" else _type(schema)


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default is None or default == {}:
        return ""
    return f"`{_toml(default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(below)}' for key, below in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "commands": commands,
    "json_api": json_api,
    "study_keys": study_keys,
}
