"""The verb `factory watch`: the live page of a store's builds."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from factory.core.errors import RecipeError
from factory.ui.commands import command_line
from factory.ui.options import STORE, Overrides, Store
from factory.ui.verbs import errors_in_words, open_console

NICENESS = 10
"""The page must not take time from what it shows."""


@errors_in_words
def watch(
    context: typer.Context,
    what: Annotated[
        Path | None, typer.Argument(help="A store, or a recipe whose builds alone are shown.")
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option(help="Your name: the recipe's review queue is on the page.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Which review stage, where there are several.")
    ] = None,
    overrides: Overrides = None,
    store: Store = STORE,
    port: Annotated[
        int | None, typer.Option(help="The port; else the first free one from 8765 on.")
    ] = None,
) -> None:
    """Show the builds of a store on a page of this machine, while they run and after.

    With --reviewer traces are accepted, edited and rejected there, as with `factory review`.
    """
    from factory.live.desk import Desk
    from factory.live.server import application, listen, new_token, run

    recipe, desk = None, None
    if what is not None and what.is_file():
        from factory.building.recipe import load_recipe

        recipe = load_recipe(what, overrides or []).name
    elif what is not None:
        store = what
    if not store.is_dir():
        raise RecipeError(f"{store}: no such store; `factory build` makes one, --store names it")
    if reviewer is not None:
        if recipe is None:
            raise RecipeError("--reviewer: name the recipe whose review stage is meant")
        from factory.ui.review import open_queue

        queue = open_queue(
            str(what), overrides or [], stage=stage, decisions=None, store=store,
            build=lambda made: command_line(context, "build", recipe=str(what), until=made),
        )  # fmt: skip
        desk = Desk(queue)
    own = listen(port)
    token = new_token()
    with suppress(OSError):
        os.nice(NICENESS)
    console = open_console()
    address = f"http://127.0.0.1:{own.getsockname()[1]}/?token={token}"
    console.print(f"live page: {address}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C ends the page, not the builds.", highlight=False)
    run(own, application(store, token=token, recipe=recipe, desk=desk, reviewer=reviewer or ""))
