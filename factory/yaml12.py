"""YAML as people read it: 1e-6 is a number, `on` is a word, a key stands once.

PyYAML follows YAML 1.1: it reads 1e-6 as text and `on` as true, and keeps the last of two equal
keys. It also expands aliases without limit.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from factory.errors import RecipeError

MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars, unique keys and no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not supported; use extends", event.start_mark
            )
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"tags are not supported: {event.tag}", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} must be text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def _construct_int(loader: _Loader, node: Any) -> int:
    try:
        return int(node.value)
    except ValueError as error:  # thousands of digits
        raise yaml.constructor.ConstructorError(
            None, None, "a number of too many digits", node.start_mark
        ) from error


def _construct_float(loader: _Loader, node: Any) -> float:
    value = float(node.value)
    if math.isinf(value):
        raise yaml.constructor.ConstructorError(
            None, None, f"number {node.value} is too large", node.start_mark
        )
    return value


# PyYAML's own constructors read 010 as eight and 1:30 as ninety.
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file; RecipeError names file and line of what is wrong."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path}: {len(raw)} bytes; at most {MAX_BYTES} are allowed")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 ({error.reason})") from error
    data = _parse_json(text, str(path)) if path.suffix == ".json" else parse(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: must be a mapping of keys to values")
    return data


def _parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; YAML reads some characters and escapes of JSON otherwise."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise RecipeError(f"{where}: key {key!r} stands twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{where}:{error.lineno}: not readable as JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits or brackets
        raise RecipeError(f"{where}: not readable as JSON: {error}") from error


def parse(text: str, where: str) -> Any:
    """The value of a YAML text; `where` names it in errors."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(f"{where}{line}: {message}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{where}: not readable as YAML: {error}") from error
