"""The verb `review`; importing it is cheap, as the command line asks."""

from pathlib import Path
from typing import Annotated

import typer

from factory.ui.options import STORE, Overrides, Store


def review(
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
) -> None:
    """Accept, edit or reject the traces of a review stage, one by one; goes on where you left."""
    from rich.console import Console

    from factory.ui.review import open_queue, review_queue, status

    queue = open_queue(target, overrides or [], stage=stage, decisions=decisions, store=store)
    if only_status:
        status(queue, Console())
        return
    review_queue(queue, reviewer=reviewer, review_pass=2 if second else 1, console=Console())
