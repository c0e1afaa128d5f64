"""Open revisions of a recipe's hub models and data sets, resolved to commits in the files that
leave them open: its own and those that it extends."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from factory.building.plan import make_plan, missing
from factory.building.recipe import load_recipe
from factory.core.errors import EngineError
from factory.core.files import write_file
from factory.core.yaml12 import load_mapping


@dataclass(frozen=True)
class OpenRevision:
    """A source of the hub without a commit."""

    path: str
    """Where it stands in the recipe, e.g. stages.base.source."""
    id: str
    kind: Literal["model", "dataset"]
    file: Path
    """That leaves it open."""

    @property
    def label(self) -> str:
        return f"{self.path}: {self.id} main"


def open_revisions(file: Path) -> list[OpenRevision]:
    """Every `type: hub` without `revision` of a suite, or of a recipe and what it extends as far as
    the recipe does not say otherwise; in order, its own file first."""
    if "benchmarks" in load_mapping(file):
        return _gaps(file, set())
    plan = make_plan(load_recipe(file))
    open_ones = {gap.partition(":")[0] for gap in missing(plan)}
    models = {step.name for step in plan if step.kind == "model"}
    gaps: dict[str, OpenRevision] = {}
    while True:
        for gap in _gaps(file, models):
            if f"{gap.path}.revision" in open_ones:
                gaps.setdefault(gap.path, gap)
        parent = load_mapping(file).get("extends")
        if parent is None:
            return [*gaps.values()]
        file = file.parent / parent


def _gaps(file: Path, models: set[str]) -> list[OpenRevision]:
    """Those of one file; `models` are its stages of models, whose kind a parent may state."""
    gaps: list[OpenRevision] = []

    def look(value: Any, path: str) -> None:
        if isinstance(value, dict):
            if value.get("type") == "hub" and value.get("id") and not value.get("revision"):
                what = "model" if path.split(".")[1] in models else "dataset"
                gaps.append(OpenRevision(path, str(value["id"]), what, file))
            for key, inner in value.items():
                look(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                look(inner, f"{path}.{index}")

    look(load_mapping(file), "")
    return gaps


def pinned(gaps: list[OpenRevision]) -> list[tuple[OpenRevision, str]]:
    """Ask the hub for the commit of each and write it into its file, comments kept.

    EngineError with the whole list where the hub cannot be reached; nothing is written then.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api, commits, failures = HfApi(), [], []
    for gap in gaps:
        try:
            ask = api.model_info if gap.kind == "model" else api.dataset_info
            commit = str(ask(gap.id).sha)
            if re.fullmatch(r"[0-9a-f]{40}", commit) is None:
                raise ValueError(f"{commit[:60]!r} is no commit")
            commits.append((gap, commit))
        except (
            HfHubHTTPError,
            OfflineModeIsEnabled,
            httpx.HTTPError,
            OSError,
            ValueError,
        ) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            failures.append(f"{gap.label}: {reason[:200]}")
    if failures:
        raise EngineError("the hub gives no commit of:\n" + "\n".join(failures))
    for gap, commit in commits:
        write_file(gap.file, _with_revision(gap.file.read_text(encoding="utf-8"), gap, commit))
    return commits


def _with_revision(text: str, gap: OpenRevision, commit: str) -> str:
    """The text with the commit behind the source's id."""
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in gap.path.split("."):
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(key)]
            continue
        node = next(value for name, value in node.value if name.value == key)
    entries = {name.value: (name, value) for name, value in node.value}
    if "revision" in entries:
        value = entries["revision"][1]
        return text[: value.start_mark.index] + commit + text[value.end_mark.index :]
    name, value = entries["id"]
    end = value.end_mark.index
    if node.flow_style:
        return f"{text[:end]}, revision: {commit}{text[end:]}"
    indent = " " * name.start_mark.column
    return f"{text[:end]}\n{indent}revision: {commit}{text[end:]}"
