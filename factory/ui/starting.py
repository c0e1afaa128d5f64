"""The verbs `init` and `pin`: a first recipe, and the commits that one leaves open."""

from pathlib import Path
from typing import Annotated

import typer

from factory.errors import RecipeError
from factory.ui.commands import command_line
from factory.ui.options import RecipePath
from factory.ui.verbs import errors_in_words, open_console, say_next


@errors_in_words
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the recipe; it is written to NAME.yaml here.")],
    traces: Annotated[str, typer.Option("--traces", help="A file or folder of traces, or hub:ID.")],
    student: Annotated[
        str, typer.Option("--student", help="A model folder, hub:ID, or `embedded`.")
    ] = "embedded",
    questions: Annotated[
        str,
        typer.Option(
            "--questions", help="Questions with answers, to measure by: a file or hub:ID."
        ),
    ] = "",
    machine: Annotated[str, typer.Option("--machine", help="A machine file for the build.")] = "",
) -> None:
    """Write a recipe for your own traces and your own model; it guesses, and says what it guessed.

    factory init mine --traces traces.jsonl --student embedded
    """
    from factory.drafting import draft
    from factory.recipe import load_recipe

    console, target = open_console(), Path(f"{name}.yaml")
    if target.exists():
        raise RecipeError(f"{target}: exists already; take another name, or remove it")
    written = draft(
        name, traces=traces, student=student, questions=questions, machine=machine,
        command=command_line(context),
    )  # fmt: skip
    with target.open("x", encoding="utf-8") as file:
        file.write(written.text)
    load_recipe(target)
    for line in written.said:
        console.print(line, soft_wrap=True)
    given: dict[str, object] = {"recipe": str(target)}
    if machine:
        given["machine"] = machine
    say_next(console, command_line(context, "build", **given))


@errors_in_words
def pin(
    context: typer.Context,
    recipe: RecipePath,
    check: Annotated[bool, typer.Option("--check", help="Only look: exit 3 if one is open.")] = (
        False
    ),
) -> None:
    """Write the commits of hub models and data sets that a recipe leaves open into its file."""
    from factory.pinning import open_revisions, pinned

    console = open_console()
    gaps = open_revisions(recipe)
    for gap in gaps if check else []:
        console.print(f"open: {gap.label}", soft_wrap=True)
    if check and gaps:
        raise typer.Exit(3)
    if not gaps:
        console.print("every revision is pinned")
    for gap, commit in pinned(recipe, gaps) if gaps else []:
        console.print(f"{gap.label} -> {commit}", soft_wrap=True)
    say_next(console, command_line(context, "plan", recipe=str(recipe)))
