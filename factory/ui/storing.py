"""The verbs `ls` and `prune`: what a store holds, and what of it can go."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.core.errors import RecipeError
from factory.core.readable import plural, size
from factory.ui.commands import command_line
from factory.ui.options import STORE, AsJson, Plugins, Store
from factory.ui.verbs import errors_in_words, open_console, print_json, say_next

if TYPE_CHECKING:
    from factory.building.attempts import Attempt
    from factory.building.plan import Step
    from factory.building.pruning import Candidate
    from factory.core.artifacts import Artifact
    from factory.ui.console import Console

DAY = 86_400.0


@errors_in_words
def list_artifacts(
    context: typer.Context,
    running: Annotated[bool, typer.Option("--running", help="Only what is being made.")] = False,
    as_json: AsJson = False,
    store: Store = STORE,
) -> None:
    """List all artifacts, oldest first, then what is being made, failed or was stopped."""
    from factory.building.attempts import attempts, folder_size
    from factory.core.artifacts import PRUNED, open_artifact, survey

    console = open_console()
    intact, broken = survey(store)
    begun = [row for row in attempts(store) if row.state == "running" or not running]
    if running:
        intact, broken = [], {}
    pruned = [] if running else [open_artifact(path) for path in store.glob(f"*{PRUNED}")]
    rows = [artifact_row(artifact, "made") for artifact in intact]
    rows += [artifact_row(artifact, "pruned") for artifact in pruned]
    rows += map(_attempt_row, begun)
    total = folder_size(store)
    errors = {folder.name: str(error) for folder, error in broken.items()}
    if as_json:
        print_json(console, store=str(store), bytes=total, rows=rows, broken=errors)
        return
    show_rows(rows, console)
    for name, error in errors.items():
        console.print(f"broken: {name}: {error}", style="red", soft_wrap=True)
    if not rows and not broken:
        state = "nothing is being made" if running else "nothing here yet"
        console.print(f"{state} in {store}", soft_wrap=True)
        say_next(console, command_line(context, "build", recipe="smoke"))
        return
    console.print(f"{plural(len(rows), 'row')}; {store} takes {size(total)}", soft_wrap=True)
    say_next(console, command_line(context, "show", artifact=_newest(rows)))


def _newest(rows: Sequence[Mapping[str, object]]) -> str:
    made = [str(row["artifact"]) for row in rows if row["state"] == "made"]
    return made[-1] if made else "ARTIFACT"


def artifact_row(artifact: "Artifact", state: str) -> dict[str, object]:
    """What `ls` says of an artifact that is made, or pruned."""
    from factory.ui.display import figures_text

    manifest = artifact.manifest
    files = manifest.files if state == "made" else {}
    return {
        "artifact": artifact.path.name.removesuffix(".pruned"),
        "holds": manifest.kind,
        "stage": manifest.stage,
        "state": state,
        "bytes": sum(entry.size for entry in files.values()),
        "seconds": manifest.seconds,
        "made": manifest.created,
        "detail": figures_text(manifest.metrics, 2),
        "metrics": manifest.metrics,
    }


def _attempt_row(row: "Attempt") -> dict[str, object]:
    return {
        "artifact": row.name, "holds": "", "stage": row.kind, "state": row.state,
        "bytes": row.size, "seconds": None,
        "made": datetime.fromtimestamp(row.touched, UTC).isoformat(timespec="seconds"),
        "detail": row.detail, "metrics": {},
    }  # fmt: skip


def show_rows(rows: Sequence[dict[str, object]], console: "Console") -> None:
    """The table of `ls`."""
    from factory.ui.console import Text
    from factory.ui.grid import Column, print_table

    heads = [
        Column("artifact"), Column("state"), Column("holds", rank=2), Column("stage", rank=4),
        Column("size", is_number=True, rank=1), Column("seconds", is_number=True, rank=5),
        Column("made (UTC)", rank=3), Column("figures, or why", is_prose=True, rank=2),
    ]  # fmt: skip
    styles = {"running": "cyan", "failed": "red", "stopped": "yellow", "pruned": "dim"}
    cells = []
    for row in rows:
        seconds, state = row["seconds"], str(row["state"])
        made = str(row["made"])[:16].replace("T", " ")
        cell = Text(state, styles.get(state, ""))
        line = [str(row["artifact"]), cell, str(row["holds"]), str(row["stage"])]
        line += [size(float(str(row["bytes"]))), "" if seconds is None else f"{seconds:.0f}"]
        cells.append([*line, made, str(row["detail"])])
    if rows:
        print_table(console, heads, cells)


@errors_in_words
def prune(
    context: typer.Context,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="A recipe, or an earlier report's folder, to go on with."),
    ] = None,
    intermediates: Annotated[
        bool,
        typer.Option(
            "--intermediates",
            help="Also weights of kept recipes' models from which all later ones are made.",
        ),
    ] = False,
    older: Annotated[str, typer.Option(help="Only what is older: 30d, 12h.")] = "0d",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; else it is only said.")] = False,
    as_json: AsJson = False,
    store: Store = STORE,
    plugins: Plugins = None,
) -> None:
    """Say what of a store can go, why, and how much that frees; with --yes remove it.

    Without --keep nothing that is finished goes. With it, everything that no kept recipe needs.
    """
    from factory.building.pruning import candidates

    console = open_console()
    if intermediates and not keep:
        raise RecipeError("--intermediates: say with --keep RECIPE which recipes are built on")
    kept = [_plan_of(name) for name in keep or []]
    rows = candidates(store, kept, intermediates=intermediates, older_seconds=_seconds(older))
    removed = [row for row in rows if yes and _is_removed(row, store, console)]
    freed = sum(row.size for row in (removed if yes else rows))
    if as_json:
        fields = [_candidate_row(row, store, row in removed) for row in rows]
        print_json(console, store=str(store), bytes=freed, is_removed=yes, rows=fields)
        return
    _show_candidates(rows, store, console)
    if yes:
        console.print(f"removed {len(removed)} of {len(rows)}, {size(freed)} are free again")
        return
    console.print(f"would free {size(freed)}; nothing is removed without --yes")
    if rows:
        say_next(console, command_line(context, yes=True))


def _plan_of(name: str) -> "tuple[Step, ...]":
    from factory.building.plan import make_plan
    from factory.building.recipe import load_recipe

    path = Path(name)
    return make_plan(load_recipe(path / "recipe.json" if path.is_dir() else path))


def _seconds(text: str) -> float:
    """`30d` or `12h` in seconds; RecipeError for all else."""
    unit = {"d": DAY, "h": DAY / 24}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or len(text) > 6:
        raise RecipeError(f"--older {text}: a number of days or hours, e.g. 30d or 12h")
    return int(text[:-1]) * unit


def _is_removed(row: "Candidate", store: Path, console: "Console") -> bool:
    from factory.building.pruning import remove

    if remove(row, store):
        return True
    console.print(f"left: {row.path}: a build has begun to work on it", soft_wrap=True)
    return False


def _candidate_row(row: "Candidate", store: Path, is_removed: bool) -> dict[str, object]:
    path = str(row.path.relative_to(store))
    return {"path": path, "bytes": row.size, "why": row.why, "is_removed": is_removed}


def _show_candidates(rows: "Sequence[Candidate]", store: Path, console: "Console") -> None:
    from factory.ui.grid import Column, print_table

    if not rows:
        console.print(f"nothing in {store} can go", soft_wrap=True)
        return
    heads = [Column("what"), Column("size", is_number=True), Column("why", is_prose=True)]
    cells = [[str(row.path.relative_to(store)), size(row.size), row.why] for row in rows]
    print_table(console, heads, cells)
