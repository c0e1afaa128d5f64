"""The verbs `init` and `pin`: a first recipe, and the commits that one leaves open."""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.errors import RecipeError
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
    from factory.building.drafting import draft
    from factory.building.pinning import open_revisions
    from factory.building.recipe import load_machine, load_recipe

    load_machine(Path(machine) if machine else None)
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
    verb = "pin" if open_revisions(target) else "build"
    say_next(console, command_line(context, verb, **given))


@errors_in_words
def pin(
    context: typer.Context,
    recipe: RecipePath,
    check: Annotated[bool, typer.Option("--check", help="Only look: exit 3 if one is open.")] = (
        False
    ),
) -> None:
    """Write the commits of hub models and data sets that a recipe, what it extends or a suite
    leaves open into their files."""
    from factory.building.pinning import open_revisions, pinned
    from factory.building.recipe import existing_file
    from factory.core.shipped import PACKAGE, shipped

    console, file = open_console(), existing_file(recipe, shipped("recipes"))
    gaps = open_revisions(file)
    for gap in gaps if check else []:
        console.print(f"open: {gap.label}", soft_wrap=True)
    if check and gaps:
        raise typer.Exit(3)
    if not gaps:
        console.print("every revision is pinned")
    installed = [gap.file for gap in gaps if gap.file.resolve().is_relative_to(PACKAGE)]
    if installed:
        files = " ".join(dict.fromkeys(map(str, installed)))
        raise RecipeError(f"{recipe}: comes with the package; pin a copy of it: cp {files} .")
    for gap, commit in pinned(gaps) if gaps else []:
        console.print(f"{gap.label} -> {commit}", soft_wrap=True)
    if "suites" not in file.parts:
        say_next(console, command_line(context, "plan", recipe=str(recipe)))
