"""The verb that writes the reference of all settings, names and commands."""

from pathlib import Path
from typing import Annotated, cast

import typer
from typer.core import TyperGroup

from factory.errors import RecipeError
from factory.ui.options import Plugins
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
    from factory.files import write_file
    from factory.reference import reference as written

    text = written(cast(TyperGroup, context.find_root().command))
    if out is None:
        open_console().print(text, markup=False, highlight=False, soft_wrap=True, end="")
        return
    try:
        write_file(out, text)
    except OSError as error:
        raise RecipeError(f"--out {out}: cannot be written: {error.strerror}") from error
