"""The verb `review`: a person's decisions about traces, one by one."""

from pathlib import Path
from typing import Annotated

import typer

from factory.ui.commands import command_line
from factory.ui.options import STORE, Overrides, Plugins, Store
from factory.ui.verbs import errors_in_words, open_console


@errors_in_words
def review(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A recipe with a review stage, or an artifact.")],
    reviewer: Annotated[str, typer.Option("--reviewer", help="Your name, kept with decisions.")],
    second: Annotated[
        bool, typer.Option("--second", help="The second pass: what others decided, unseen.")
    ] = False,
    stage: Annotated[
        str | None, typer.Option(help="Which review stage, where there are several.")
    ] = None,
    decisions: Annotated[
        Path | None, typer.Option(help="File for the decisions about an artifact's traces.")
    ] = None,
    only_status: Annotated[
        bool, typer.Option("--status", help="Only say what is decided and how far passes agree.")
    ] = False,
    overrides: Overrides = None,
    store: Store = STORE,
    plugins: Plugins = None,
) -> None:
    """Accept, edit or reject the traces of a review stage, one by one; goes on where you left."""
    from factory.ui.review import open_queue, review_queue, status

    def build_until(made: str) -> str:
        return command_line(context, "build", recipe=target, until=made)

    queue = open_queue(
        target, overrides or [], stage=stage, decisions=decisions, store=store, build=build_until
    )
    if only_status:
        status(queue, open_console())
        return
    review_queue(queue, reviewer=reviewer, review_pass=2 if second else 1, console=open_console())
