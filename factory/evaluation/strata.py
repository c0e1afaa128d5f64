"""A benchmark's problems by difficulty, as far as they state it, and the score on each part."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from factory.core.records import OUTCOMES, EvalSample, Outcome, Problem, Record
from factory.evaluation.contamination import strict_interval
from factory.evaluation.statistics import Interval

MOST = 12
"""Parts of a benchmark: more cannot be read, and each would be a handful of problems."""
UNSTATED = "not stated"


class Stratum(Record):
    """One part of a benchmark."""

    name: str
    score: Interval
    """Strict pass@1 or greedy, over its problems."""
    outcomes: dict[Outcome, int]
    """Over all answers to its problems; cut off and missing ones are not among the wrong."""


def difficulty(problems: Sequence[Problem]) -> dict[str, str] | None:
    """The part of each problem by id; None where nothing tells how to cut the benchmark.

    By the `level` that its problems state (MATH has 1 to 5); else, of one family of reasoning-gym,
    by the first setting of its difficulty that differs between them (`num_terms 3`); else by
    source, where there are several. Only cuts into 2 to 12 parts count.
    """
    sources = {problem.source for problem in problems}
    cuts: list[dict[str, str | None]] = [{problem.id: _level(problem) for problem in problems}]
    if len(sources) == 1:
        settings = [_settings(problem) for problem in problems]
        for name in settings[0] if settings else ():
            values = [setting.get(name) for setting in settings]
            parts = [None if value is None else f"{name} {value}" for value in values]
            ids = [problem.id for problem in problems]
            cuts.append(dict(zip(ids, parts, strict=True)))
    cuts.append({problem.id: problem.source for problem in problems})
    for parts in cuts:
        if 2 <= len({part for part in parts.values() if part is not None}) <= MOST:
            return {name: UNSTATED if p is None else p for name, p in parts.items()}
    return None


def _level(problem: Problem) -> str | None:
    level = problem.data.get("level")
    if level is None:
        return None
    # Some data sets write "Level 5", others 5.
    words = str(level)
    return words.lower() if words.lower().startswith("level") else f"level {words}"


def _settings(problem: Problem) -> dict[str, str]:
    """What a reasoning-gym entry says of its own difficulty: whole numbers and words only."""
    entry = _mapping(problem.data.get("entry"))
    metadata = _mapping(entry.get("metadata"))
    difficulty = _mapping(metadata.get("difficulty"))
    return {
        name: str(metadata[name])
        for name in difficulty
        if isinstance(metadata.get(name), int | str)
    }


def _mapping(value: Any) -> dict[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def strata(answers: Mapping[str, Sequence[EvalSample]], parts: Mapping[str, str]) -> list[Stratum]:
    """The score and the outcomes on each part of a benchmark, easier parts first by their numbers.

    `answers` are those of one mode, by problem id; problems without a part are not counted.
    """
    groups: dict[str, dict[str, Sequence[EvalSample]]] = {}
    for name, samples in answers.items():
        if name in parts:
            groups.setdefault(parts[name], {})[name] = samples
    rows: list[Stratum] = []
    for part in sorted(groups, key=_natural):
        score = strict_interval(groups[part])
        verdicts = [s.trace.verdict.outcome for group in groups[part].values() for s in group]
        if score is not None:
            counts: dict[Outcome, int] = {outcome: verdicts.count(outcome) for outcome in OUTCOMES}
            rows.append(Stratum(name=part, score=score, outcomes=counts))
    return rows


def _natural(name: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """Numbers in a name by their value: `level 10` after `level 9`; `not stated` last."""
    pieces = [piece for piece in re.split(r"(\d+)", name) if piece]
    return name == UNSTATED, [
        (not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in pieces
    ]
