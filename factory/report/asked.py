"""What each evaluation asked: its problems, as far as they are to be had, and what may be shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from factory.core.errors import RecipeError
from factory.core.records import Problem
from factory.evaluation.asked import is_protected, problems_by_id
from factory.report.build import Build, once
from factory.report.records import Step


@dataclass(frozen=True)
class Asked:
    """One benchmark of one evaluation."""

    problems: Mapping[str, Problem]
    """By id; none where lm-eval brought its own, or where they are not here any more."""
    is_protected: bool
    """No text of it is shown."""


AllAsked = dict[tuple[str, str], Asked]
"""By evaluation label and benchmark."""


@once
def eval_problems(build: Build) -> AllAsked:
    """Every benchmark of every evaluation, in the order of its answers."""
    result: AllAsked = {}
    for row in build.evaluations:
        step = build.by_name[row.stage]
        ids: dict[str, dict[str, None]] = {}
        for (benchmark, _), problems in build.answers[row.label].items():
            ids.setdefault(benchmark, {}).update(dict.fromkeys(problems))
        for benchmark, own in ids.items():
            number, config = _config(step, benchmark)
            problems = _problems(step, number, task=config.get("task"), by_name=build.by_name)
            names = [benchmark, str(config.get("task") or ""), *own]
            result[row.label, benchmark] = Asked(
                problems={name: problems[name] for name in own if name in problems},
                is_protected=is_protected(names, problems.values()),
            )
    return result


def _config(step: Step, benchmark: str) -> tuple[int, Mapping[str, Any]]:
    """The number of a benchmark in its stage's config, and its settings there."""
    for number, config in enumerate(step.config.get("benchmarks") or ()):
        if config.get("name") == benchmark:
            return number, config
    return 0, {}


def _problems(
    step: Step, number: int, *, task: str | None, by_name: Mapping[str, Step]
) -> dict[str, Problem]:
    source = by_name.get(step.inputs.get(f"benchmarks.{number}.problems", ""))
    artifact = None if source is None else source.artifact
    if artifact is not None and "held_out.jsonl" not in artifact.manifest.files:
        artifact = None
    try:
        return problems_by_id(task, artifact)
    except RecipeError:
        # The page can do without: it says that the reference is not here.
        return {}
