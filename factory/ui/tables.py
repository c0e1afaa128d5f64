"""Tables and texts of the command line: plans, artifacts, the doctor's findings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from factory.artifacts import MANIFEST, Artifact, check_files, find, open_artifact, survey
from factory.doctor import Finding
from factory.errors import ArtifactError
from factory.files import note
from factory.plan import Step, missing
from factory.records import ArtifactKind, Trace
from factory.registry import DOORS
from factory.ui.console import Console, Text


def show_plan(plan: Sequence[Step], store: Path, console: Console) -> None:
    """The steps of a plan: reuse or make, with fingerprints.

    ArtifactError names the broken artifacts, once all steps are shown.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "stage", "kind", "fingerprint", "from", "will be"):
        table.add_column(column)
    reused = 0
    broken: dict[str, ArtifactError] = {}
    for number, step in enumerate(plan, start=1):
        try:
            artifact = find(store, step.fingerprint)
        except ArtifactError as error:
            artifact, broken[step.name] = None, error
        reused += artifact is not None
        fate = Text("reused", "green") if artifact else Text("made", "yellow")
        if step.name in broken:
            fate = Text("broken", "red")
        elif not artifact and list(store.glob(f"*-{step.fingerprint[:12]}.run/scratch/*")):
            fate = Text("resumed", "cyan")
        inputs = ", ".join(dict.fromkeys(step.inputs.values()))
        table.add_row(str(number), step.name, step.kind, step.fingerprint[:12], inputs, fate)
    console.print(table)
    console.print(f"{reused} of {len(plan)} stages are reused, {len(plan) - reused} to make.")
    for gap in missing(plan):
        console.print(f"to be filled in before it can be built: {gap}", markup=False)
    if broken:
        raise ArtifactError("\n".join(f"stage {name}: {broken[name]}" for name in broken))


def show_store(
    artifacts: Sequence[Artifact], broken: Mapping[Path, ArtifactError], console: Console
) -> None:
    """One row an artifact, then what is wrong with each folder that is none."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("artifact", "kind", "stage", "made (UTC)", "seconds", "MiB"):
        table.add_column(column, justify="right" if column in ("seconds", "MiB") else "left")
    for artifact in artifacts:
        manifest = artifact.manifest
        size = sum(entry.size for entry in manifest.files.values()) / 2**20
        table.add_row(
            artifact.path.name,
            manifest.kind,
            manifest.stage,
            manifest.created[:19],
            f"{manifest.seconds:.0f}",
            f"{size:.1f}",
        )
    console.print(table)
    for folder, error in broken.items():
        console.print(Text(f"broken: {folder.name}: {error}", "red"), soft_wrap=True)


def show_doors(console: Console) -> None:
    """Every door with its rows, the factory's in one line and each of a plug-in with its origin."""
    for door in list(DOORS.values()):
        own = [row.name for row in door.rows() if row.origin.kind == "factory"]
        console.print(f"{door.name}: {', '.join(own)}", soft_wrap=True)
        for name in door.names():
            if name not in own:
                console.print(
                    f"  {name} (version {door.row(name).version}) of {door.row(name).origin}",
                    soft_wrap=True,
                )


def resolve(name: str, store: Path, *, kind: ArtifactKind | None = None) -> Artifact:
    """The artifact of a path, a folder name, or a stage name (the newest of that name).

    With `kind` only artifacts of it are looked at; ArtifactError if a path holds another.
    """
    if (Path(name) / MANIFEST).exists():
        artifact = open_artifact(Path(name))
        if kind not in (None, artifact.manifest.kind):
            raise ArtifactError(f"{name}: holds {artifact.manifest.kind}, {kind} is needed")
        return artifact
    match = lookup(name, store, kind=kind)
    if match is not None:
        return match
    wanted = f"{kind} artifact" if kind else "artifact"
    raise ArtifactError(f"{name}: no such {wanted} under {store}; `factory ls` lists them")


def lookup(name: str, store: Path, *, kind: ArtifactKind | None = None) -> Artifact | None:
    """The artifact of a folder name or a stage name; None where the store has none of it.

    ArtifactError where several begin so, or where a broken folder may be the one that is meant:
    then an older artifact of its name must not be taken for it. Other broken folders are noted.
    """
    intact, broken = survey(store)
    matches = [a for a in intact if a.path.name.startswith(name) or a.name == name]
    matches = [a for a in matches if kind in (None, a.manifest.kind)]
    exact = [a for a in matches if a.name == name or a.path.name == name]
    if not any(a.path.name == name for a in exact):
        for folder, error in broken.items():
            stage = folder.name.rpartition("-")[0]
            if name == stage or (not exact and folder.name.startswith(name)):
                raise error
    for error in broken.values():
        note(f"left out: {error}")
    if exact or len(matches) == 1:
        return (exact or matches)[-1]
    if matches:
        names = ", ".join(a.path.name for a in matches)
        raise ArtifactError(f"{name}: several artifacts begin so: {names}")
    return None


def show_artifact(artifact: Artifact, console: Console, *, samples: int) -> None:
    """What an artifact is, from what, its metrics and a few samples.

    ArtifactError where a small file of it is not what was sealed.
    """
    check_files(artifact)
    manifest = artifact.manifest
    console.print(Text(f"{manifest.name}", "bold"), Text(f"{manifest.kind}, by {manifest.stage}"))
    facts = {
        "folder": str(artifact.path),
        "fingerprint": manifest.fingerprint,
        "content": manifest.content,
        "made": f"{manifest.created}, {manifest.seconds:.0f} s, {manifest.peak_memory_gib:.2f} GiB",
        "code": manifest.commit[:12] + (" with local changes" if manifest.dirty else ""),
        "from": ", ".join(
            f"{path} = {entry.name} ({entry.fingerprint[:12]})"
            for path, entry in manifest.inputs.items()
        )
        or "nothing",
        "versions": ", ".join(f"{name} {v}" for name, v in manifest.versions.items()),
    }
    if not artifact.has_hash:
        facts["manifest"] = "has no hash of its own, as artifacts of earlier versions: only " + (
            "the files, their hashes and the fingerprint's beginning can be checked"
        )
    grid = Table.grid(padding=(0, 2))
    for key, value in facts.items():
        grid.add_row(Text(key, "dim"), Text(value))
    for key, value in manifest.metrics.items():
        grid.add_row(Text(key, "dim"), Text(f"{value:g}"))
    console.print(grid)
    if "traces.jsonl" in manifest.files:
        for trace, _ in zip(artifact.traces(), range(samples), strict=False):
            show_trace(trace, console)


def show_trace(trace: Trace, console: Console) -> None:
    """One trace: question, thinking dimmed, answer, verdict. Model text is never markup."""
    console.rule(Text(f"{trace.problem_id} / {trace.sample}", "dim"))
    console.print(Text(trace.question))
    if trace.reasoning is None and trace.answer is None:
        console.print(Text(trace.completion.strip(), "dim"))
    else:
        console.print(Text((trace.reasoning or "").strip(), "dim italic"))
        console.print(Text(trace.answer or "", "bold"))
    verdict = trace.verdict
    style = "green" if verdict.is_correct else "red"
    console.print(Text(f"{verdict.outcome}: {verdict.explanation}", style))


def show_findings(findings: Sequence[Finding], console: Console) -> None:
    """The doctor's table, with advice under what is not well."""
    marks = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "problem": ("x", "red")}
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark, style = marks[finding.status]
        table.add_row(Text(mark, style), Text(finding.name, "bold"), Text(finding.state))
        if finding.status != "ok" and finding.advice:
            table.add_row("", "", Text(finding.advice, "dim"))
    console.print(table)
