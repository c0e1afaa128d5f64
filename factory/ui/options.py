"""Arguments and options that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

from factory.ui import completing

RecipePath = Annotated[
    Path,
    typer.Argument(
        help="A recipe (YAML), e.g. recipes/quickstart.yaml.", autocompletion=completing.recipes
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one setting: stages.student.learning_rate=1e-4, machine.micro_batch=1.",
    ),
]
MachinePath = Annotated[
    Path | None,
    typer.Option(
        "--machine",
        help="Machine settings, e.g. recipes/machines/cpu.yaml.",
        autocompletion=completing.machines,
    ),
]
Plain = Annotated[bool, typer.Option("--plain", help="Plain lines for logs and CI.")]
Until = Annotated[
    str | None, typer.Option(help="Stop after this stage.", autocompletion=completing.stages)
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="A Python file of yours that registers rows; runs with your rights."
    ),
]
Unsandboxed = Annotated[
    bool,
    typer.Option("--unsandboxed", help="Run programs WITHOUT isolation. Everything made says so."),
]
IgnoreFit = Annotated[
    bool, typer.Option("--ignore-fit", help="Build what the plan says does not fit into memory.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
Store = Annotated[Path, typer.Option("--store", help="Where artifacts are kept.")]
ArtifactName = Annotated[
    str,
    typer.Argument(
        help="A folder, a folder name's beginning, or a stage's name.",
        autocompletion=completing.artifacts,
    ),
]
STORE = completing.STORE
