"""What of a store can go: attempts that nothing goes on from, and what no kept recipe needs.

Without a recipe to keep nothing that is sealed goes. With some, what none of their plans has goes
too and, on wish, the weights of models from which everything is made already: their manifests and
small files stay, and no build makes them again unless something needs them.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.building.attempts import Attempt, attempts, folder_size, holding
from factory.building.plan import Step
from factory.core.artifacts import MANIFEST, PRUNED, SHORT, SMALL_BYTES, Artifact, survey
from factory.core.errors import ArtifactError
from factory.trainers.marked import checkpoints, latest_complete


@dataclass(frozen=True)
class Candidate:
    """Something that can go."""

    path: Path
    """A folder; that of an artifact or an attempt stands for its `.run` too."""
    why: str
    size: int
    """Bytes that it frees."""
    keeps_small_files: bool = False


def candidates(
    store: Path,
    kept: Sequence[Sequence[Step]] = (),
    *,
    intermediates: bool = False,
    older_seconds: float = 0.0,
) -> list[Candidate]:
    """What can go from a store where the plans `kept` are to be built on.

    `intermediates`: also weights of kept plans that nothing needs any more. `older_seconds`: only
    what was not touched for so long. ArtifactError where a build is at work and something sealed
    would have to be judged: what it will need is not known.
    """
    needed = {step.fingerprint[:SHORT] for plan in kept for step in plan}
    rows = attempts(store)
    running = [row for row in rows if row.state == "running"]
    if kept and running:
        raise ArtifactError(
            f"{store}: {running[0].name} is being made ({running[0].detail}); what its build will "
            "need is not known: wait for its end, or prune without --keep"
        )
    result = [*_of_attempts(rows, needed), *_leftovers(store, rows)]
    if kept:
        intact, _ = survey(store)
        free = _free_models(kept, intact) if intermediates else set()
        result += _of_artifacts(intact, needed, free)
    end = time.time() - older_seconds
    return [row for row in result if not older_seconds or row.path.stat().st_mtime < end]


def _short(name: str) -> str:
    return name.rpartition("-")[2][:SHORT]


def _of_attempts(rows: Iterable[Attempt], needed: set[str]) -> Iterator[Candidate]:
    """Abandoned attempts whole; of those that a kept plan goes on from, old checkpoints."""
    for row in rows:
        if row.state == "running":
            continue
        run, partial = (row.folders[0].with_name(row.name + end) for end in (".run", ".partial"))
        if _short(row.name) not in needed:
            why = f"{row.state} {row.detail}; no recipe that is kept goes on from it"
            yield Candidate(run if run.is_dir() else partial, why, row.size)
            continue
        if partial.is_dir():
            why = "a draft: a build that goes on begins it anew"
            yield Candidate(partial, why, folder_size(partial))
        for folder in {path.parent for path in run.rglob("checkpoint-*") if path.is_dir()}:
            newest = latest_complete(folder)
            for path in checkpoints(folder):
                if newest is not None and path != newest:
                    why = f"superseded by {newest.name}, from which a build goes on"
                    yield Candidate(path, why, folder_size(path))


def _leftovers(store: Path, rows: Sequence[Attempt]) -> Iterator[Candidate]:
    """What a kill or a build that set something aside has left behind."""
    for path in sorted(store.glob("*.broken-*")):
        yield Candidate(path, "set aside as broken by a build", folder_size(path))
    for path in sorted(store.glob("*.run/scratch")):
        if (path.parent.with_suffix("") / MANIFEST).exists():
            yield Candidate(path, "scratch of a stage that is sealed", folder_size(path))
    for path in sorted(store.glob(f"*{PRUNED}")):
        size = sum(file.stat().st_size for file in _large(path))
        if size:
            yield Candidate(path, "the rest of a pruned model", size, keeps_small_files=True)
    rehearsals = store / "rehearsals"
    at_work = any(row.state == "running" for row in attempts(rehearsals))
    if rehearsals.is_dir() and not at_work:
        yield Candidate(rehearsals, "rehearsals, made again in a minute", folder_size(rehearsals))


def _of_artifacts(
    artifacts: Iterable[Artifact], needed: set[str], free: set[str]
) -> Iterator[Candidate]:
    for artifact in artifacts:
        path = artifact.path
        if artifact.fingerprint[:SHORT] not in needed:
            size = folder_size(path) + folder_size(artifact.run_path)
            yield Candidate(path, "in no recipe that is kept", size)
        elif artifact.fingerprint in free and (
            large := sum(f.stat().st_size for f in _large(path))
        ):
            why = "weights of an intermediate model; all that is made from it is sealed"
            yield Candidate(path, why, large, keeps_small_files=True)


def _free_models(kept: Sequence[Sequence[Step]], intact: Iterable[Artifact]) -> set[str]:
    """Fingerprints of models from which other models of every kept plan came, where all that reads
    them is sealed. A model that nothing was trained from is what a recipe is for."""
    sealed = {artifact.fingerprint for artifact in intact}
    wanted: set[str] = set()
    free: set[str] = set()
    for plan in kept:
        for step in plan:
            readers = [other for other in plan if step.name in other.inputs.values()]
            is_free = (
                step.stage.produces == "model"
                and all(reader.fingerprint in sealed for reader in readers)
                and _leads_to_a_model(step, plan)
            )
            (free if is_free else wanted).add(step.fingerprint)
    return free - wanted


def _leads_to_a_model(step: Step, plan: Sequence[Step]) -> bool:
    """Whether a later model of the plan descends from it, by its weights or by its traces."""
    below = {step.name}
    for later in plan:  # inputs come first
        if below & set(later.inputs.values()):
            if later.stage.produces == "model":
                return True
            below.add(later.name)
    return False


def _large(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > SMALL_BYTES]


def remove(candidate: Candidate, store: Path) -> bool:
    """Remove it; False where somebody has begun to work on it. A kill leaves nothing that would
    pass for an artifact."""
    path = candidate.path
    begun = path if path.parent == store else path.relative_to(store).parts[0]
    name = str(begun if isinstance(begun, str) else begun.name)
    stem = name.partition(".")[0]
    with holding(store, stem) as holder:
        if holder:
            return False
        if candidate.keeps_small_files:
            rest = store / f"{stem}{PRUNED}"
            if path != rest:
                path.rename(rest)
            for file in _large(rest):
                file.unlink()
            return True
        if (path / MANIFEST).exists() and not path.suffix:
            path = path.rename(path.with_name(f"{name}.broken-{time.time_ns()}"))
            shutil.rmtree(store / f"{stem}.run", ignore_errors=True)
        elif path.parent == store and path.suffix == ".run":
            shutil.rmtree(store / f"{stem}.partial", ignore_errors=True)
        shutil.rmtree(path)
    return True


def unneeded(plan: Sequence[Step], store: Path) -> frozenset[str]:
    """Names of steps whose artifact was pruned and that nothing that is to be made reads."""
    if not any(store.glob(f"*{PRUNED}")):
        return frozenset()
    result: set[str] = set()
    absent: set[str] = set()
    for step in reversed(plan):  # readers before what they read
        short = step.fingerprint[:SHORT]
        if any((path / MANIFEST).exists() for path in store.glob(f"*-{short}")):
            continue
        readers = [other.name for other in plan if step.name in other.inputs.values()]
        is_pruned = any(store.glob(f"*-{short}{PRUNED}"))
        if is_pruned and readers and not absent & set(readers):
            result.add(step.name)
        else:
            absent.add(step.name)
    return frozenset(result)
