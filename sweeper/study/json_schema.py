"""Helpers to read a JSON Schema: references and alternatives."""

from collections.abc import Mapping
from typing import Any


def resolve_ref(node: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a node with its `$ref` replaced by the definition; its other keys take precedence."""
    while "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        node = {**root["$defs"][node["$ref"].rsplit("/", 1)[-1]], **rest}
    return node


def alternatives(node: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the alternatives (anyOf, oneOf) of a node, without null."""
    node = resolve_ref(node, root)
    forms = node.get("anyOf") or node.get("oneOf") or [node]
    return [resolve_ref(form, root) for form in forms if form.get("type") != "null"]
