"""The verbs `publish` and `verify`: what leaves the store, and whether it is as it left."""

from pathlib import Path
from typing import Annotated

import typer

from factory.ui.commands import command_line
from factory.ui.options import STORE, ArtifactName, AsJson, MachinePath, Store
from factory.ui.verbs import errors_in_words, open_console, print_json, say_error, say_next


@errors_in_words
def publish(
    context: typer.Context,
    artifact: ArtifactName,
    to: Annotated[str, typer.Option("--to", help="A new folder, or hub:ORG/NAME.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only show what would be.")] = (
        False
    ),
    private: Annotated[
        bool,
        typer.Option("--private", help="For yourself: write it, and name what others would miss."),
    ] = False,
    licence: Annotated[
        list[str] | None,
        typer.Option("--licence", help="State a source's licence: base=apache-2.0."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Longest answer of the gate, tokens.")] = 512,
    machine: MachinePath = None,
    store: Store = STORE,
) -> None:
    """Export a checkpoint or a trace set with card and lineage, if the gate lets it through.

    With --private it is for your own use: what the gate would refuse for others is named instead.
    """
    from factory.building.recipe import load_machine
    from factory.publish.folder import target_of
    from factory.ui.publishing import publish as publish_artifact
    from factory.ui.publishing import stated_licences
    from factory.ui.tables import resolve

    folder = publish_artifact(
        resolve(artifact, store),
        target_of(to, store),
        load_machine(machine),
        licences=stated_licences(licence or []),
        is_agreed=yes or private,
        is_private=private,
        tokens=tokens,
        console=open_console(),
    )
    if folder is None:
        say_error("refused: nothing is published")
        raise typer.Exit(2)
    done = command_line(context, "verify", folder=folder)
    say_next(open_console(), done if yes or private else command_line(context, yes=True))


@errors_in_words
def verify(
    folder: Annotated[Path, typer.Argument(help="A published folder.")],
    file: Annotated[
        Path | None, typer.Option("--file", help="Say where in the lineage this file stands.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of a published folder with the hashes of its lineage."""
    from factory.ui.publishing import show_place, show_verified

    console = open_console(stderr=as_json)
    faults_of_folder = (
        show_verified(folder, console) if file is None else show_place(file, folder, console)
    )
    for fault in faults_of_folder:
        say_error(fault)
    if as_json:
        print_json(open_console(), folder=str(folder), faults=faults_of_folder)
    if faults_of_folder:
        raise typer.Exit(2)
