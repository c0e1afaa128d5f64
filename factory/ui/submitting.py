"""The verb `factory submit`: a build's batch script in the store, and its way into Slurm."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.core.errors import RecipeError
from factory.ui.commands import command_line
from factory.ui.options import (
    STORE,
    IgnoreFit,
    MachinePath,
    Overrides,
    Plugins,
    RecipePath,
    Store,
    Unsandboxed,
    Until,
)
from factory.ui.verbs import begin, errors_in_words, say_next

if TYPE_CHECKING:
    from factory.building.recipe import Recipe
    from factory.core.machine import Machine

FOLDER = "slurm"


@errors_in_words
def submit(
    context: typer.Context,
    recipe: RecipePath,
    overrides: Overrides = None,
    until: Until = None,
    machine: MachinePath = None,
    store: Store = STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the job's script and nothing else.")
    ] = False,
    unsandboxed: Unsandboxed = False,
    ignore_fit: IgnoreFit = False,
    plugins: Plugins = None,
) -> None:
    """Hand the build of a recipe to Slurm, as one job that goes on by itself after every stop."""
    console = begin(recipe)
    from factory.building.recipe import load_machine, load_recipe
    from factory.core.slurm import submit as hand_over

    settings = load_machine(machine, overrides or [])
    if settings.slurm is None:
        raise RecipeError(
            f"--machine: launcher: found {settings.launcher}, but a job needs slurm; give a "
            "machine file with `launcher: slurm`, e.g. recipes/machines/nodes2x8.yaml, or type "
            "`factory build`"
        )
    loaded = load_recipe(recipe, overrides or [])
    build = command_line(context, "build", plain=True)
    settings = settings.model_copy(update={"ignore_fit": ignore_fit})
    script, log = write_script(loaded, settings, store, build=build, until=until)
    console.print(f"script: {script}", highlight=False, soft_wrap=True)
    if dry_run:
        say_next(console, shlex.join(["sbatch", str(script)]))
        return
    job = hand_over(script)
    output = str(log).replace("%j", job)
    console.print(f"job: {job}; its output: {output}", highlight=False, soft_wrap=True)
    say_next(console, shlex.join(["tail", "-F", output]))


def write_script(
    recipe: "Recipe", machine: "Machine", store: Path, *, build: str, until: str | None
) -> tuple[Path, Path]:
    """Write the script of the typed command `build`; it and its log, `%j` for the job's number.

    RecipeError for all that the build would refuse before it makes anything.
    """
    from factory.building.fit import require_fit
    from factory.building.pipeline import check_store
    from factory.building.plan import checked_plan, missing
    from factory.building.pricing import bill
    from factory.core.files import write_file
    from factory.core.slurm import batch_script

    plan = checked_plan(recipe, until=until)
    gaps = missing(plan)
    if gaps:
        raise RecipeError("\n".join(f"to be filled in: {gap}" for gap in gaps))
    check_store(store)
    if machine.peaks is not None:  # else the build measures, on the machine that it is for
        require_fit(bill(plan, store, machine))
    folder = (store / FOLDER).absolute()
    folder.mkdir(exist_ok=True)
    script, log = folder / f"{recipe.name}.sbatch", folder / f"{recipe.name}-%j.txt"
    assert machine.slurm is not None
    text = batch_script(
        machine.slurm,
        name=recipe.name,
        arguments=shlex.split(build)[1:],
        on_gpu=machine.device != "cpu",
        folder=Path.cwd(),
        log=log,
    )
    write_file(script, text)
    return script, log
