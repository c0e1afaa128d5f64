"""The verbs `eval`, any model on a suite of benchmarks, `rescore` and `diff`."""

from typing import Annotated

import typer

from factory.ui import completing
from factory.ui.commands import command_line, next_of
from factory.ui.options import (
    STORE,
    ArtifactName,
    AsJson,
    MachinePath,
    Overrides,
    Plain,
    Plugins,
    Store,
)
from factory.ui.verbs import begin, errors_in_words, open_console, print_json, say_next


@errors_in_words
def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(help="Artifacts, folders, owner/name@commit, URL#NAME, or `embedded`."),
    ],
    suite: Annotated[
        str,
        typer.Option("--suite", help="A file of evals/suites.", autocompletion=completing.suites),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="A file of evals/protocols; the suite's else.",
            autocompletion=completing.protocols,
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="A model, or scores, to compare each with.")
    ] = None,
    overrides: Overrides = None,
    machine: MachinePath = None,
    store: Store = STORE,
    plain: Plain = False,
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """Evaluate models on a suite of benchmarks; what is measured already is not measured again."""
    console = begin(f"suite {suite}", stderr=as_json)
    from factory.building.recipe import load_machine
    from factory.ui.building import build_and_report
    from factory.ui.evaluation import evaluation_fields, evaluation_of, show_evaluation

    evaluation = evaluation_of(
        models, suite=suite, protocol=protocol, against=against, store=store,
        overrides=overrides or [],
    )  # fmt: skip
    settings, again = load_machine(machine, overrides or []), command_line(context)
    made = build_and_report(evaluation.recipe, settings, store, console, again=again, plain=plain)
    if as_json:
        print_json(open_console(), **evaluation_fields(evaluation, store))
        return
    show_evaluation(evaluation, store, console)
    scores = [artifact for artifact in made if artifact.manifest.kind == "scores"]
    say_next(console, next_of(context, scores))


@errors_in_words
def rescore(
    run: ArtifactName, as_json: AsJson = False, store: Store = STORE, plugins: Plugins = None
) -> None:
    """Grade an evaluation's stored answers with the present graders and show what changed."""
    from factory.ui.rescoring import show_rescored

    show_rescored(run, store, open_console(), as_json=as_json)


@errors_in_words
def diff(
    run_a: Annotated[str, typer.Argument(help="A report.json, its folder, a store, or a recipe.")],
    run_b: Annotated[str, typer.Argument(help="The other one, compared with the first.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    store: Store = STORE,
    plugins: Plugins = None,
) -> None:
    """Say what differs between two builds: settings, versions, data, and scores with intervals."""
    from factory.ui.differences import show_difference

    show_difference(run_a, run_b, store, open_console(), as_json=as_json)
