"""Which licences allow a checkpoint or a trace set to be published, and under what conditions.

A table of a few that this program was taught, read by people; whatever is not in it is refused.
It is no legal advice.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from factory.core.artifacts import Artifact
from factory.core.errors import RecipeError
from factory.stages import STAGES
from factory.stages.stage import OWN_LICENCE, Origin

"""Licence of what this repository makes itself: random models, generated questions."""
FREE = frozenset(
    [
        "apache-2.0",
        "mit",
        "isc",
        "unlicense",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "odc-by",
        "cdla-permissive-2.0",
        "pddl",
    ]
)
"""Use, change and redistribution are allowed, with credit at most."""
LLAMA = {"llama3.1": "Llama 3.1", "llama3.2": "Llama 3.2", "llama3.3": "Llama 3.3"}
"""Community licences of Llama 3.1 to 3.3, section 1.b.i: a model made from Llama or from its
outputs is named with "Llama" first and says "Built with Llama"."""

Role = Literal["base", "teacher", "data"]


@dataclass(frozen=True)
class Source:
    """Something that others made and that went in."""

    role: Role
    name: str
    """The stage that brought it in."""
    what: str
    """A hub id, a file's name, a family of questions."""
    licence: str
    """Lower case, as the hub writes it; empty where nobody stated one."""


@dataclass(frozen=True)
class Terms:
    """What the licences ask for."""

    licence: str
    """Of the published folder: that of its base; `unknown` or `other`, the hub's words, where a
    source states none or one that is not known to allow it."""
    notices: tuple[str, ...]
    problems: tuple[str, ...]


def sources(
    artifact: Artifact, ancestors: Sequence[Artifact], stated: Mapping[str, str]
) -> list[Source]:
    """Base, teachers and data with their licences; `stated` overrules by stage name.

    The base is where the weights started; every other model of the ancestry taught. Held-out
    problems only measure, so the train split alone counts as data. What reward models learned from
    is data too; pairs and labels that a judge made come from its models and problems.
    """
    unknown = sorted(set(stated) - {ancestor.name for ancestor in ancestors})
    if unknown:
        raise RecipeError(
            f"--licence {unknown[0]}: no such stage; there are "
            f"{', '.join(ancestor.name for ancestor in ancestors)}"
        )
    base = _weights_start(artifact, ancestors)
    rows: list[Source] = []
    for ancestor in ancestors:
        for origin in _origins(ancestor):
            role: Role = "data"
            if ancestor.manifest.kind == "model":
                role = "base" if ancestor.fingerprint == base else "teacher"
            rows.append(Source(role, ancestor.name, origin.what, origin.licence))
    return [
        Source(
            ancestor.role,
            ancestor.name,
            ancestor.what,
            _tidy(stated.get(ancestor.name, ancestor.licence)),
        )
        for ancestor in dict.fromkeys(rows)
    ]


def _origins(artifact: Artifact) -> list[Origin]:
    kind = artifact.manifest.stage
    if kind in STAGES:
        return STAGES[kind].origins(artifact)
    # Whoever does not know the kind cannot say that nothing came in from outside.
    return [Origin(f"(what stages of kind {kind} bring in is not known here)", "")]


def _weights_start(artifact: Artifact, ancestors: Sequence[Artifact]) -> str | None:
    """Fingerprint of the model whose weights this one started from; None for traces."""
    by_fingerprint = {ancestor.fingerprint: ancestor for ancestor in ancestors}
    current = artifact
    while current.manifest.kind == "model" and "model" in current.manifest.inputs:
        current = by_fingerprint[current.manifest.inputs["model"].fingerprint]
    return current.fingerprint if artifact.manifest.kind == "model" else None


def _tidy(licence: str) -> str:
    return re.sub(r"\s+", "-", licence.strip().lower())


def terms(name: str, used: Sequence[Source]) -> Terms:
    """What follows from the licences for something published as `name`."""
    barred = [s for s in used if s.licence not in FREE and s.licence not in LLAMA]
    problems = [_refusal(source) for source in barred]
    notices = [
        f"{source.role.capitalize()} {source.what}: {source.licence}"
        for source in used
        if source.licence in ("cc-by-4.0", "odc-by")
    ]
    llamas = [source for source in used if source.licence in LLAMA]
    if llamas:
        notices.append("Built with Llama")
        if not name.startswith("Llama"):
            problems.append(
                f"{llamas[0].name}: its {LLAMA[llamas[0].licence]} licence (1.b.i) asks for a name "
                f"that begins with 'Llama', found {name!r}: publish to a folder of such a name"
            )
    bases = [source.licence for source in used if source.role == "base"]
    from_llama = [source.licence for source in llamas]
    licence = (bases or from_llama or [OWN_LICENCE])[0]
    if barred:
        licence = "other" if all(source.licence for source in barred) else "unknown"
    return Terms(licence, tuple(notices), tuple(problems))


def _refusal(source: Source) -> str:
    who = f"{source.name}: the {source.role} {source.what}"
    if not source.licence:
        return (
            f"{who} has no stated licence: state it as `licence` in the recipe, or by "
            f"--licence {source.name}=..."
        )
    allowed = ", ".join(sorted(FREE | set(LLAMA)))
    return (
        f"{who} is under {source.licence!r}, which is not among those known to allow it: {allowed}"
    )
