"""YAML as people read it: 1e-6 is a number, `on` is a word, a key stands once.

PyYAML follows YAML 1.1: it reads 1e-6 as text and `on` as true, and keeps the last of two equal
keys. It also expands aliases without limit.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from factory.core.errors import RecipeError
from factory.core.files import read_bounded

MAX_BYTES = 1_000_000
MAX_YAML_BYTES = 100_000
"""Reading so much takes a second."""
MAX_DEPTH = 50


def is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value of a file is a mapping; its keys are text, as reading it makes sure."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars, unique keys and no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not supported; use extends", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"tags are not supported: {event.tag}", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key: Any = self.construct_object(key_node, deep=True)
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


def load_mapping(path: Path, *, may_be_pipe: bool = False, read: int = 0) -> dict[str, Any]:
    """The mapping of a YAML or JSON file; RecipeError names file and line of what is wrong.

    `read` are bytes of other files of the same recipe, which count towards the most.
    """
    is_json = path.suffix == ".json"
    most = MAX_BYTES if is_json else MAX_YAML_BYTES
    try:
        raw = read_bounded(path, most=most, may_be_pipe=may_be_pipe)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    if read + len(raw) > most:
        more = "" if is_json else "; JSON is read faster and may have ten times as many"
        raise RecipeError(f"{path}: too large: at most {most} bytes are allowed{more}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 ({error.reason})") from error
    data = _parse_json(text, str(path)) if is_json else parse(text, str(path))
    if not is_mapping(data):
        raise RecipeError(f"{path}: must be a mapping of keys to values")
    return data


def check_values(value: Any, where: str) -> None:
    """RecipeError for what no setting can be: nested too deeply, infinite, or no text of a file."""
    level: list[tuple[str, Any]] = [("", value)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for path, item in level:
            if fault := _value_fault(item):
                raise RecipeError(f"{where}: {path.removeprefix('.') or 'a key'}: {fault}")
            if is_mapping(item):
                below += [("", key) for key in item]
                below += [(f"{path}.{key}"[:200], inner) for key, inner in item.items()]
            elif is_list(item):
                below += [(f"{path}.{index}", inner) for index, inner in enumerate(item)]
        level = below
    if level:
        raise RecipeError(f"{where}: {level[0][0].removeprefix('.')[:60]}...: nested too deeply")


def _value_fault(value: Any) -> str:
    """What is wrong with a single value; empty where nothing is."""
    if isinstance(value, str) and ("\0" in value or not _is_utf8(value)):
        return "a NUL or a lone surrogate, which no setting can hold"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number of a setting; write a finite one"
    return "a number of too many digits" if isinstance(value, int) and abs(value) >= 2**63 else ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; YAML reads some characters and escapes of JSON otherwise."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise RecipeError(f"{where}: key {twice!r} stands twice")
        return value

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{where}:{error.lineno}: not readable as JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits or brackets
        raise RecipeError(f"{where}: not readable as JSON: {error}") from error
    check_values(value, where)
    return value


def parse(text: str, where: str) -> Any:
    """The value of a YAML text; `where` names it in errors."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(f"{where}{line}: {message}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{where}: not readable as YAML: {error}") from error
    check_values(value, where)
    return value


def line_of(path: Path, keys: Sequence[str]) -> int | None:
    """The line, from 1, on which a file states the setting at a path of keys; None if nowhere."""
    node = yaml.compose(read_bounded(path, most=MAX_BYTES).decode("utf-8"), Loader=_Loader)
    line = 0
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == key), None)
        elif isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            pair = (node.value[int(key)],) * 2
        else:
            pair = None
        if pair is None:
            return None
        line, node = pair[0].start_mark.line, pair[1]
    return line + 1
