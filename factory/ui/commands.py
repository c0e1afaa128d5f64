"""Commands that are printed to be typed next: whole, quoted for a shell, and on one line."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import typer
from typer.core import TyperGroup

from factory.text.visible import visible

if TYPE_CHECKING:
    from factory.core.artifacts import Artifact

_UNPRINTABLE = re.compile(r"[\\']|[^ -~]")


def command_line(context: typer.Context, verb: str = "", **values: object) -> str:
    """`factory VERB ...` with everything that was typed of the command under way, as far as that
    verb takes it, and with `values` by parameter name in the place of what was typed.

    Without a verb it is the command under way.
    """
    root = context.find_root()
    command = context.command
    if verb:
        command = cast(TyperGroup, root.command).commands[verb]
    typed = {
        name: value
        for name, value in context.params.items()
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    given = {**typed, **values}
    options: list[str] = []
    arguments: list[str] = []
    for parameter in command.params:
        if parameter.name not in given:
            continue
        words = [str(word) for word in _as_list(given[parameter.name])]
        if parameter.param_type_name == "argument":
            arguments += words
        elif getattr(parameter, "is_flag", False):
            chosen = parameter.opts if given[parameter.name] else parameter.secondary_opts
            options += chosen[:1]
        else:
            options += [part for word in words for part in (parameter.opts[0], word)]
    if any(word.startswith("-") for word in arguments):
        arguments, options = options, ["--", *arguments]
    return " ".join(map(quoted, ["factory", str(command.name), *arguments, *options]))


def quoted(word: str) -> str:
    """A word for a POSIX shell; one that holds what is not printed on a line, for bash and zsh."""
    if visible(word) == word and not set(word) & {"\n", "\t"}:
        return shlex.quote(word)
    return "$'" + _UNPRINTABLE.sub(_escaped, word) + "'"


def next_of(context: typer.Context, made: Sequence["Artifact"]) -> str:
    """What to do with what a build made, in its plan's order: with the last of it where the build
    was to stop there, else with the last model that was trained if there is any."""
    last = made[-1]
    if not context.params.get("until"):
        manifests = [(artifact, artifact.manifest) for artifact in made]
        trained = [a for a, m in manifests if m.kind == "model" and m.stage != "model"]
        last = [*made, *trained][-1]
    verb = "chat" if last.manifest.kind == "model" else "show"
    return command_line(context, verb, artifact=last.path.name)


def _as_list(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else [value]


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character in "\\'":
        return "\\" + character
    if visible(character) == character and character not in "\n\t":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
