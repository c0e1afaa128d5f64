"""The verb `publish`, what was or would be published, and what the gate says."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.core.artifacts import Artifact, sha256_file
from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.core.readable import size
from factory.publish.folder import Outcome, Target, is_written, refused
from factory.publish.folder import publish as write
from factory.publish.hub import upload
from factory.publish.lineage import LINEAGE, faults, places_of, read_lineage
from factory.ui.console import Console, Text
from factory.ui.grid import columns, print_table


def stated_licences(options: Sequence[str]) -> dict[str, str]:
    """`STAGE=LICENCE` options as a mapping; RecipeError for others."""
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise RecipeError(f"--licence {wrong[0]}: expected STAGE=LICENCE, e.g. base=apache-2.0")
    return dict(option.split("=", 1) for option in options)


STYLES = {"passed": "green", "refused": "red", "not run": "yellow", "gap": "yellow"}


def publish(
    artifact: Artifact,
    target: Target,
    machine: Machine,
    *,
    licences: Mapping[str, str],
    is_agreed: bool,
    tokens: int,
    console: Console,
    is_private: bool = False,
) -> str | None:
    """Publish and show it; returns what to check it with, None where the gate refuses.

    Without agreement a folder is not written, and one for a hub is written and not uploaded. What
    an earlier call wrote for a hub is taken as it is.
    """
    on_hub = bool(target.repository)
    if on_hub and is_private:
        raise RecipeError("--private writes a folder of one's own: give --to a folder, not a hub")
    if on_hub and is_written(target, artifact):
        if licences:
            raise RecipeError(f"--licence: {target.folder} is written already; remove it first")
        console.print(f"written before, as its lineage says: {target.folder}", soft_wrap=True)
    else:
        is_trial = not is_agreed and not on_hub
        outcome = write(
            artifact, target, machine, licences=licences, is_trial=is_trial,
            is_private=is_private, tokens=tokens,
        )  # fmt: skip
        show_outcome(outcome, console, is_trial=is_trial)
        if refused(outcome.checks):
            return None
    if not on_hub:
        return str(target.folder)
    if not is_agreed:
        console.print(f"would be uploaded: every file of {target.folder}", soft_wrap=True)
        return str(target.folder)
    kind = "model" if artifact.manifest.kind == "model" else "dataset"
    done = upload(target.folder, target.repository, kind)
    said = "was there already" if done.was_there else "uploaded, and every file compared"
    console.print(f"{said}: {done.url}", markup=False, soft_wrap=True)
    return str(target.folder)


def show_outcome(outcome: Outcome, console: Console, *, is_trial: bool) -> None:
    """Files with their sizes, then every check with its reason."""
    heads = columns("would be published" if is_trial else "file", "size", numbers=["size"])
    files = [[name, size(number)] for name, number in sorted(outcome.files.items())]
    print_table(console, heads, files)
    checks = [
        [check.name, Text(check.status, STYLES[check.status]), check.reason]
        for check in outcome.checks
    ]
    print_table(console, columns("check", "result", "reason", prose=["reason"]), checks)
    if is_trial:
        console.print("Weights, rows and answers are examined when it is written.")
    if outcome.lineage:
        console.print(f"lineage.json sha256: {outcome.lineage}", soft_wrap=True)


def show_verified(folder: Path, console: Console) -> list[str]:
    """The faults of a published folder; says so where there are none."""
    messages = faults(folder)
    if not messages:
        digest = sha256_file(folder / LINEAGE)
        console.print("every file is as the lineage says; that is as good as where you had it from")
        console.print(f"{LINEAGE} sha256: {digest}", soft_wrap=True)
    return messages


def show_place(file: Path, folder: Path, console: Console) -> list[str]:
    """Where in a folder's lineage a file stands; the fault that it stands nowhere."""
    places = places_of(file, read_lineage(folder))
    for name in places:
        console.print(f"{file}: is {name}", markup=False, soft_wrap=True)
    return [] if places else [f"{file}: no file of these bytes is in the lineage of {folder}"]
