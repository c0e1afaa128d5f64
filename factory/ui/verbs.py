"""What all verbs share: how their errors, their first line and their next step are told."""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

from factory.core.errors import REPAIRABLE, FactoryError
from factory.text.visible import visible_json
from factory.ui.notes import print_notes

if TYPE_CHECKING:
    from factory.ui.console import Console

REFUSED = 3
"""Exit status where a gate says no: 2 is a mistake of the user's, 1 a bug of ours."""

P = ParamSpec("P")


def errors_in_words(verb: Callable[P, None]) -> Callable[P, None]:
    """Load the plug-ins that were typed; print a FactoryError in its own words and exit 2; leave
    bugs their traceback."""

    @wraps(verb)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        print_notes()
        try:
            files = kwargs.get("plugins")
            if isinstance(files, list):
                from factory.core.plugin_files import load_plugins

                load_plugins(files)
            verb(*args, **kwargs)
        except FactoryError as error:
            say_error(str(error))
            raise typer.Exit(2) from error
        except OSError as error:
            # A file that was typed is the user's; any other that is missing is a bug of ours.
            is_typed = error.filename is not None and Path(error.filename) in _paths(kwargs)
            if error.errno not in REPAIRABLE and not is_typed:
                raise
            # What the standard library writes to, without a name, lies in the store or is printed.
            target = error.filename or f"{kwargs.get('store', '.')} or standard output"
            say_error(f"{target}: {error.strerror}")
            raise typer.Exit(2) from error

    return wrapped


def _paths(values: Mapping[str, object]) -> set[Path]:
    """The paths among a verb's arguments and options."""
    lists = [value if isinstance(value, list) else [value] for value in values.values()]
    return {value for every in lists for value in every if isinstance(value, Path)}


def begin(what: object, *, stderr: bool = False) -> "Console":
    """A console that has said something already: a large recipe takes seconds to be planned."""
    console = open_console(stderr=stderr)
    console.print(f"reading {what}", highlight=False, soft_wrap=True)
    return console


def say_next(console: "Console", command: str) -> None:
    console.print(f"next: {command}", highlight=False, soft_wrap=True)


def print_json(console: "Console", **fields: Any) -> None:
    """One JSON document for programs; `schema` says which fields to expect."""
    text = json.dumps({"schema": 1, **fields}, indent=1, ensure_ascii=False, default=str)
    console.print(visible_json(text), highlight=False, soft_wrap=True)


def say_error(text: str) -> None:
    open_console(stderr=True).print(f"error: {text}", style="red", highlight=False, soft_wrap=True)


def open_console(*, stderr: bool = False) -> "Console":
    from factory.ui.console import Console

    return Console(stderr=stderr)
