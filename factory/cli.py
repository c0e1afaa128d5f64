"""The command line. Importing it is cheap: what is heavy loads inside the verb that needs it."""

import traceback
from pathlib import Path
from typing import Annotated

import typer

import factory.core.ownership  # noqa: F401  first of all: see there
from factory.core.errors import ArtifactError, RecipeError
from factory.core.interpreter import keep_children_safe
from factory.ui import completing
from factory.ui.auditing import audit
from factory.ui.commands import command_line, next_of
from factory.ui.demonstrating import demo
from factory.ui.evaluating import diff, evaluate, rescore
from factory.ui.examples import add_examples
from factory.ui.explaining import why
from factory.ui.exporting import publish, verify
from factory.ui.indexing import index
from factory.ui.installing import doctor, setup
from factory.ui.options import (
    STORE,
    ArtifactName,
    AsJson,
    IgnoreFit,
    MachinePath,
    Overrides,
    Plain,
    Plugins,
    RecipePath,
    Store,
    Unsandboxed,
    Until,
)
from factory.ui.referencing import explain, list_plugins, reference
from factory.ui.reviewing import review
from factory.ui.starting import init, pin
from factory.ui.storing import list_artifacts, prune
from factory.ui.submitting import submit
from factory.ui.talking import chat, serve
from factory.ui.verbs import REFUSED, begin, errors_in_words, open_console, print_json, say_next
from factory.ui.watching import watch

app = typer.Typer(
    name="factory",
    help="Build small reasoning models from recipes, and benchmark what came out.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _say_version(value: bool) -> None:
    if value:
        from factory.core.provenance import versions

        open_console().print(versions(), highlight=False, soft_wrap=True)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Versions, and exit."),
    ] = False,
) -> None:
    """Build small reasoning models from recipes, and benchmark what came out."""


@app.command()
@errors_in_words
def build(
    context: typer.Context,
    recipe: RecipePath,
    overrides: Overrides = None,
    until: Until = None,
    machine: MachinePath = None,
    store: Store = STORE,
    plain: Plain = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line.")] = False,
    unsandboxed: Unsandboxed = False,
    ignore_fit: IgnoreFit = False,
    plugins: Plugins = None,
) -> None:
    """Make every stage of a recipe that is not made yet, then write the report."""
    console = begin(recipe, stderr=as_json)
    from factory.building.recipe import load_machine, load_recipe
    from factory.ui.building import build_and_report

    settings = load_machine(machine, overrides or []).model_copy(
        update={"unsandboxed": unsandboxed, "ignore_fit": ignore_fit}
    )
    loaded, again = load_recipe(recipe, overrides or []), command_line(context)
    made = build_and_report(
        loaded, settings, store, console,
        again=again, until=until, plain=plain, as_json=as_json,
    )  # fmt: skip
    say_next(console, next_of(context, made))


app.command()(init)
app.command()(pin)
app.command()(submit)


@app.command()
@errors_in_words
def rehearse(
    context: typer.Context,
    recipe: RecipePath,
    overrides: Overrides = None,
    store: Store = STORE,
    plain: Plain = False,
    plugins: Plugins = None,
) -> None:
    """Run a recipe's whole graph on tiny random models, in minutes on a CPU, to find mistakes."""
    console = begin(recipe)
    from factory.building.recipe import load_recipe
    from factory.building.rehearse import MACHINE, alike, rehearsal
    from factory.ui.building import build_and_report

    small = rehearsal(load_recipe(recipe, overrides or []))
    folder, again = store / "rehearsals", command_line(context)
    build_and_report(small, MACHINE, folder, console, again=again, plain=plain, priced=False)
    for made, *others in alike(small):
        console.print(f"{made} stands for {', '.join(others)}", soft_wrap=True)
    say_next(console, command_line(context, "plan"))


@app.command()
@errors_in_words
def plan(
    context: typer.Context,
    recipe: RecipePath,
    overrides: Overrides = None,
    until: Until = None,
    cost: Annotated[bool, typer.Option("--cost", help="Estimate time, memory, money.")] = False,
    machine: MachinePath = None,
    as_json: AsJson = False,
    store: Store = STORE,
    plugins: Plugins = None,
) -> None:
    """Show the steps of a recipe: what is reused, what would be made, with --cost at what price."""
    console = begin(recipe) if cost and not as_json else open_console()
    from factory.building.plan import checked_plan, missing
    from factory.building.recipe import load_machine, load_recipe
    from factory.ui.cost import show_cost
    from factory.ui.tables import show_plan

    settings = load_machine(machine, overrides or [])
    steps = checked_plan(load_recipe(recipe, overrides or []), until=until)
    if cost:
        show_cost(steps, store, settings, console, as_json=as_json)
    else:
        show_plan(steps, store, console, as_json=as_json)
    if not as_json:
        is_open = any("revision: " in gap for gap in missing(steps))
        say_next(console, command_line(context, "pin" if is_open else "build"))


@app.command()
@errors_in_words
def report(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or the folder of an earlier report.")],
    overrides: Overrides = None,
    store: Store = STORE,
    plugins: Plugins = None,
) -> None:
    """Write the report of a recipe from what is made so far."""
    from factory.building.attempts import is_begun
    from factory.building.plan import make_plan
    from factory.building.recipe import load_recipe
    from factory.ui.building import say_report

    source = recipe / "recipe.json" if recipe.is_dir() else recipe
    loaded = load_recipe(source, overrides or [])
    if not any(is_begun(step.fingerprint, store) for step in make_plan(loaded)):
        raise ArtifactError(f"{store}: nothing of {recipe} is made to report on; build it first")
    say_report(loaded, store, open_console())


@app.command()
@errors_in_words
def show(
    context: typer.Context,
    artifact: ArtifactName,
    samples: Annotated[int, typer.Option(help="How many traces to show.")] = 3,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file first.")] = False,
    as_json: AsJson = False,
    store: Store = STORE,
) -> None:
    """Show what an artifact is, from what it was made, its metrics and a few samples."""
    from factory.core.artifacts import check_files
    from factory.core.artifacts import verify as verify_artifact
    from factory.ui.tables import resolve, show_artifact

    console = open_console()
    chosen = resolve(artifact, store)
    if verify:
        verify_artifact(chosen)
    if as_json:
        check_files(chosen)
        print_json(console, path=str(chosen.path), manifest=chosen.manifest.model_dump(mode="json"))
        return
    if verify:
        console.print("every file is as its manifest says")
    show_artifact(chosen, console, samples=samples)
    name = artifact if Path(artifact) == chosen.path else chosen.path.name
    if chosen.manifest.kind == "scores":
        from factory.evaluation.summary import summaries
        from factory.ui.scores import show_summaries

        show_summaries(summaries(chosen), console)
        say_next(console, command_line(context, "compare", run=name, baseline="BASELINE"))
    if chosen.manifest.kind == "model":
        say_next(console, command_line(context, "chat", artifact=name))


app.command()(demo)
app.command()(why)
app.command("ls")(list_artifacts)
app.command()(prune)
for verb in (chat, serve, publish, verify, review, audit, watch, index):
    app.command()(verb)


@app.command()
@errors_in_words
def grade(
    file: Annotated[Path, typer.Argument(help="JSONL of stored responses; see docs/grading.md.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; else standard output.")
    ] = None,
    processes: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    unsandboxed: Unsandboxed = False,
    plugins: Plugins = None,
    form: Annotated[str, typer.Option(help="`r1`: of rows that name none, see docs.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Grade stored responses again, without generating; exit 3 if some rows are broken."""
    from factory.ui.audits import grade_stored

    shown = grade_stored(file, out, processes, form, is_isolated=not unsandboxed, as_json=as_json)
    if shown.get("broken"):
        raise typer.Exit(REFUSED)


app.command("eval")(evaluate)


@app.command()
@errors_in_words
def compare(
    run: ArtifactName,
    baseline: Annotated[
        str | None,
        typer.Argument(
            help="The scores to compare with, named likewise.",
            autocompletion=completing.artifacts,
        ),
    ] = None,
    fail_below: Annotated[
        float | None, typer.Option(help="Exit 3 if a score fell further than this, in points.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Against published scores.")
    ] = False,
    model: Annotated[str, typer.Option("--as", help="The hub id, if the store has none.")] = "",
    as_json: AsJson = False,
    store: Store = STORE,
) -> None:
    """Compare two evaluations problem by problem; with --fail-below, a gate against regressions."""
    from factory.ui.scores import compare_published, compare_runs

    if (baseline is None) != published:
        raise RecipeError("give either a BASELINE or --published")
    if baseline is None:
        compare_published(run, model, store, open_console(), as_json=as_json)
    elif compare_runs(run, baseline, store, open_console(), fail_below=fail_below, as_json=as_json):
        raise typer.Exit(REFUSED)


app.command()(diff)
app.command()(rescore)


@app.command("audit-graders")
@errors_in_words
def audit_graders(
    kind: Annotated[str, typer.Option("--kind", help="math or code; both without it.")] = "",
    answers: Annotated[Path | None, typer.Option(help="JSONL of stored answers instead.")] = None,
    decided: Annotated[Path | None, typer.Option(help="JSONL of decisions on them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grade the shipped suites, or stored answers beside other graders; exit 3 if we err."""
    from factory.ui.audits import show_audits

    if show_audits(kind, answers, decided, as_json=as_json):
        raise typer.Exit(REFUSED)


app.command("help")(explain)
app.command("plugins")(list_plugins)
app.command()(reference)
app.command()(setup)
app.command()(doctor)


add_examples(app.registered_commands)


def main() -> None:
    """Entry point of the `factory` command. A bug's traceback may quote a model."""
    keep_children_safe()
    try:
        app()
    except Exception:  # whatever it is, it is told in full and ends the command
        open_console(stderr=True).print(traceback.format_exc(), highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
