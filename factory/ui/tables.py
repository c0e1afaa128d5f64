"""Tables and texts of the command line: plans, artifacts, the doctor's findings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.building.plan import Step, missing, outlooks
from factory.building.pruning import unneeded
from factory.core.artifacts import MANIFEST, Artifact, check_files, find, open_artifact, survey
from factory.core.errors import ArtifactError
from factory.core.files import note
from factory.core.records import ArtifactKind, Trace
from factory.core.registry import DOORS
from factory.doctor.findings import Finding
from factory.ui.console import Console, Text
from factory.ui.grid import Column, print_table
from factory.ui.verbs import print_json


def show_plan(
    plan: Sequence[Step], store: Path, console: Console, *, as_json: bool = False
) -> None:
    """The steps of a plan: reuse or make, with fingerprints.

    ArtifactError names the broken artifacts, once all steps are shown.
    """
    broken: dict[str, ArtifactError] = {}
    fates, ahead = _fates(plan, store, broken), outlooks(plan)
    if as_json:
        rows = [
            {
                "stage": step.name, "kind": step.kind, "fingerprint": step.fingerprint,
                "inputs": dict(step.inputs), "fate": fates[step.name],
                "outlook": ahead[step.name],
            }
            for step in plan
        ]  # fmt: skip
        print_json(console, rows=rows, missing=missing(plan))
    else:
        _show_fates(plan, fates, console)
        for step in plan:
            for line in ahead[step.name]:
                console.print(f"{step.name}: {line}", soft_wrap=True)
        for gap in missing(plan):
            console.print(f"to be filled in before it can be built: {gap}", soft_wrap=True)
    if broken:
        raise ArtifactError("\n".join(f"stage {name}: {broken[name]}" for name in broken))


STYLES = {
    "reused": "green", "made": "yellow", "broken": "red", "resumed": "cyan", "not needed": "dim",
}  # fmt: skip


def _fates(plan: Sequence[Step], store: Path, broken: dict[str, ArtifactError]) -> dict[str, str]:
    """What will become of each step; artifacts that cannot be opened are entered into `broken`."""
    skipped = unneeded(plan, store)
    fates: dict[str, str] = {}
    for step in plan:
        try:
            fate = "reused" if find(store, step.fingerprint) else "made"
        except ArtifactError as error:
            fate, broken[step.name] = "broken", error
        if step.name in skipped:
            fate = "not needed"
        elif fate == "made" and any(store.glob(f"*-{step.fingerprint[:12]}.run/scratch/*")):
            fate = "resumed"
        fates[step.name] = fate
    return fates


def _show_fates(plan: Sequence[Step], fates: Mapping[str, str], console: Console) -> None:
    heads = [
        Column("", is_number=True), Column("stage"), Column("kind", rank=1),
        Column("fingerprint", rank=3), Column("from", is_prose=True, rank=2), Column("will be"),
    ]  # fmt: skip
    rows = []
    for number, step in enumerate(plan, start=1):
        fate = fates[step.name]
        inputs = ", ".join(dict.fromkeys(step.inputs.values()))
        row = [str(number), step.name, step.kind, step.fingerprint[:12], inputs]
        rows.append([*row, Text(fate, STYLES[fate])])
    print_table(console, heads, rows)
    counts = Counter(fates.values())
    skipped = counts["not needed"]
    pruned = f", {skipped} were pruned and nothing needs them" if skipped else ""
    left = len(plan) - counts["reused"] - skipped
    text = f"{counts['reused']} of {len(plan)} stages are reused, {left} to make{pruned}."
    console.print(text, soft_wrap=True)


def show_doors(console: Console, *, as_json: bool = False) -> None:
    """Every door with its rows, the factory's in one line and each of a plug-in with its origin."""
    if as_json:
        doors = {door.name: [door.row(name) for name in door.names()] for door in DOORS.values()}
        print_json(
            console,
            doors={
                name: [
                    {"name": row.name, "version": row.version, "origin": str(row.origin)}
                    for row in rows
                ]
                for name, rows in doors.items()
            },
        )
        return
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
    facts |= {key: f"{value:g}" for key, value in manifest.metrics.items()}
    rows = [[Text(key, "dim"), value] for key, value in facts.items()]
    heads = [Column("fact"), Column("value", is_prose=True)]
    print_table(console, heads, rows, has_heads=False)
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
    rows: list[list[str | Text]] = []
    for finding in findings:
        mark, style = marks[finding.status]
        rows.append([Text(mark, style), Text(finding.name, "bold"), finding.state])
        if finding.status != "ok" and finding.advice:
            rows.append(["", "", Text(finding.advice, "dim")])
    heads = [Column("state"), Column("what"), Column("how it is, and what to do", is_prose=True)]
    print_table(console, heads, rows, has_heads=False)
