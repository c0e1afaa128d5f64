"""The verbs that say what there is: the reference of all settings, and the rows behind doors."""

from pathlib import Path
from typing import Annotated, cast

import typer
from typer.core import TyperGroup

from factory.core.errors import RecipeError
from factory.ui.options import AsJson, Plugins
from factory.ui.verbs import errors_in_words, open_console


@errors_in_words
def reference(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", help="A Markdown file; else standard output.")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Write every setting, every name and every command, from the docstrings, as Markdown."""
    from factory.core.files import write_file
    from factory.ui.reference import reference as written

    text = written(cast(TyperGroup, context.find_root().command))
    if out is None:
        open_console().print(text, markup=False, highlight=False, soft_wrap=True, end="")
        return
    try:
        write_file(out, text)
    except OSError as error:
        raise RecipeError(f"--out {out}: cannot be written: {error.strerror}") from error


@errors_in_words
def list_plugins(as_json: AsJson = False, plugins: Plugins = None) -> None:
    """List what a recipe may name behind each door: the factory's, packages' and files' rows."""
    from factory.core.registry import open_doors
    from factory.ui.tables import show_doors

    open_doors()
    show_doors(open_console(), as_json=as_json)


@errors_in_words
def explain(
    context: typer.Context, verb: Annotated[str, typer.Argument(help="All without it.")] = ""
) -> None:
    """Show the help of a command, as `factory COMMAND -h` does."""
    from factory.building.edges import near_keys

    root = context.find_root()
    commands = cast(TyperGroup, root.command).commands
    if verb and verb not in commands:
        raise RecipeError(f"help {verb}: no such command{near_keys(verb, list(commands))}")
    chosen = typer.Context(commands[verb], info_name=verb, parent=root) if verb else root
    chosen.get_help()  # prints it
