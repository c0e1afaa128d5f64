"""Published answers graded again by the factory's graders, where there is a usable reference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from factory.core.records import Problem, Verdict
from factory.grading import GradeItem, GradingPool
from factory.grading.math import AS_TEXT
from factory.problems.references import final_answer, is_solution
from factory.problems.splits import problem_id
from factory.reading.candidates import Candidate, Dropped
from factory.text.chat import completion_text

NO_RULE = ("open", "instructions")
"""Kinds whose answers no reference decides."""
MOST_WORDS = 3
"""Words of a reference that is compared as text: more are a sentence."""
AS_PUBLISHED = "taken as published: there is no reference to grade it by"
AS_WRITTEN = "taken as written: no rule grades open answers"


@dataclass(frozen=True)
class Graded:
    """A candidate with its verdict."""

    candidate: Candidate
    verdict: Verdict


def graded(
    batch: Sequence[Candidate], pool: GradingPool, *, source: str
) -> Iterator[Graded | Dropped]:
    """Each candidate with a verdict, in order; those that ours finds wrong come as dropped."""
    problems = [_problem(candidate, source=source) for candidate in batch]
    items = [
        GradeItem(problem, completion_text("", candidate.answer))
        for problem, candidate in zip(problems, batch, strict=True)
        if problem is not None
    ]
    verdicts = iter(pool.grade(items))
    decided = [None if problem is None else next(verdicts) for problem in problems]
    doubtful = [
        problem
        for problem, verdict in zip(problems, decided, strict=True)
        if problem is not None and verdict is not None and not verdict.is_correct
    ]
    usable = _usable(doubtful, pool)
    for candidate, problem, verdict in zip(batch, problems, decided, strict=True):
        if problem is None or verdict is None:
            yield Graded(candidate, _untested(candidate))
        elif verdict.is_correct:
            yield Graded(candidate, verdict)
        elif problem.id not in usable or _is_sentence(problem, verdict):
            yield Graded(candidate, _untested(candidate))
        elif verdict.outcome == "ungradable" and candidate.is_flagged_right:
            explanation = f"published as right; ours could not tell: {verdict.explanation}"
            flagged = Verdict(outcome="correct", answer=candidate.answer, explanation=explanation)
            yield Graded(candidate, flagged)
        else:
            detail = (
                f"{candidate.question!r} is worked to {candidate.answer!r}: "
                f"{verdict.outcome}: {verdict.explanation}"
            )
            yield candidate.dropped(verdict.outcome, detail)


def _is_sentence(problem: Problem, verdict: Verdict) -> bool:
    """Whether an answer was compared, letter by letter, with a sentence that is no answer."""
    return AS_TEXT in verdict.explanation and len(problem.reference.split()) > MOST_WORDS


def _untested(candidate: Candidate) -> Verdict:
    explanation = AS_WRITTEN if candidate.kind == "open" else AS_PUBLISHED
    if candidate.kind == "code":
        explanation = "taken as published: this row has no tests"
    return Verdict(outcome="ungradable", answer=candidate.answer, explanation=explanation)


def _problem(candidate: Candidate, *, source: str) -> Problem | None:
    """What an answer is graded by; None where nothing decides it."""
    kind, reference = candidate.kind, candidate.reference
    data: dict[str, Any] = {}
    if kind in NO_RULE:
        return None
    if kind == "code":
        if not candidate.tests:
            return None
        data, reference = candidate.tests, "tests"
    elif reference is None and candidate.is_own_reference:
        reference = candidate.answer
    elif reference is not None and kind == "math":
        reference = final_answer(reference)
        if is_solution(reference):
            return None
    if reference is None:
        return None
    return Problem(
        id=problem_id(f"{candidate.row}/{candidate.sample}", candidate.question),
        prompt=candidate.question,
        reference=reference,
        kind=kind,
        source=source,
        data=data,
    )


def _usable(problems: Sequence[Problem], pool: GradingPool) -> set[str]:
    """Ids of those whose own reference grades as correct; tests are their own proof."""
    ids = {problem.id for problem in problems if problem.kind == "code"}
    rest = [problem for problem in problems if problem.kind != "code"]
    verdicts = pool.grade([GradeItem(p, completion_text("", p.reference)) for p in rest])
    return ids | {p.id for p, verdict in zip(rest, verdicts, strict=True) if verdict.is_correct}
