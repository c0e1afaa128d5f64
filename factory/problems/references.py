"""What a reference is good for: a problem is usable only if its own reference grades as correct.

A reference that is no mathematics is compared as text.
"""

import re
from collections.abc import Sequence
from typing import Literal

from factory.core.errors import DataError
from factory.core.readable import plural
from factory.core.records import Problem, Verdict
from factory.grading import GradeItem, GradingPool, grade
from factory.grading.bounded import TOO_SLOW
from factory.grading.math import AS_TEXT, COMPARED_AS, parts_of, read_reference
from factory.grading.numbers import plain_number
from factory.grading.parts import is_words
from factory.text.chat import boxes, completion_text

ANOTHER = "987654"
"""An answer to which every reference that is mathematics gives a verdict."""
AT_ONCE = 256
SHOWN = 10
"""References that an error names."""
Unreadable = Literal["text", "refuse", "exact", "open"]
MOST_WORDS = 12
"""Words of a reference that is still an answer."""
NO_ANSWER = "it is a worked solution; state the answer alone, after ####, or in a box"
_COMMANDS = re.compile(r"\\[A-Za-z]+(?:\s?\{[a-z]{1,20}\})?")
_NEXT_SENTENCE = re.compile(r"(?:[^\W\d_]{4}|\d)[.!?]\s+[A-Z][a-z]|<<[^<>]*>>")


def final_answer(reference: str) -> str:
    """What a worked solution states behind its last #### (GSM8K's form); other text as it is."""
    final = reference.rpartition("####")[2].strip()
    return final or reference


def is_solution(reference: str) -> bool:
    """Whether a mathematical reference is sentences instead of an answer.

    Sentences equal themselves and nothing that a model answers. A single box inside of them is an
    answer.
    """
    if boxes(reference):
        return False
    words = re.findall(r"(?<![\\A-Za-z])[^\W\d_]{2,}", _COMMANDS.sub(" ", reference))
    return len(words) > MOST_WORDS or _NEXT_SENTENCE.search(reference) is not None


def reference_verdict(problem: Problem) -> Verdict:
    """The strict verdict on the reference itself, written as a well-formed completion."""
    if problem.kind == "math" and is_solution(problem.reference):
        return Verdict(outcome="wrong", answer=None, explanation=NO_ANSWER)
    return grade(problem, completion_text("", problem.reference))


def settle_unreadable(
    problems: Sequence[Problem], texts: Sequence[str], how: Unreadable
) -> list[Problem]:
    """The problems, with those among the references `texts` that are no mathematics and no words as
    `exact` or `open` ones; DataError names them where they are refused."""
    unread = set() if how == "text" else {t for t in texts if not is_words(read_reference(t))}
    concerned = [p for p in problems if p.kind == "math" and p.reference in unread]
    if concerned and how == "refuse":
        shown = "".join(
            f"\n  problem {problem.id} of {problem.source}: {problem.reference!r}"
            for problem in concerned[:SHOWN]
        )
        raise DataError(
            f"problems: {plural(len(concerned), 'reference')} of kind math without a value that "
            f"the grader can read:{shown}\nmend them, or let the stage say `unreadable: exact`, "
            "`open` (a judge decides) or `text`"
        )
    return [
        problem.model_copy(update={"kind": how})
        if problem.kind == "math" and problem.reference in unread
        else problem
        for problem in problems
    ]


def is_right(problem: Problem) -> bool:
    return reference_verdict(problem).is_correct


def decide_as_text(
    problems: Sequence[Problem], *, processes: int = 1
) -> tuple[list[Problem], list[str]]:
    """(the problems, those of their references that are compared as text).

    Each mathematical reference is asked for its verdict on another answer, part by part, in
    killable processes. Where the graders see that a part is no mathematics they say so of every
    answer; where they cannot even tell, in time, the problem is marked in its data.
    """
    part_of = [
        (number, part)
        for number, problem in enumerate(problems)
        if problem.kind == "math" and plain_number(problem.reference) is None
        for part in parts_of(problem.reference)
    ]
    marked = list(problems)
    texts: dict[int, str] = {}
    with GradingPool(processes) as pool:
        for start in range(0, len(part_of), AT_ONCE):
            batch = part_of[start : start + AT_ONCE]
            parts = [problems[n].model_copy(update={"reference": part}) for n, part in batch]
            verdicts = pool.grade([GradeItem(p, completion_text("", ANOTHER)) for p in parts])
            for (number, _), verdict in zip(batch, verdicts, strict=True):
                problem = problems[number]
                is_slow = verdict.explanation == TOO_SLOW
                if verdict.outcome == "ungradable" or is_slow:
                    data = {**problem.data, COMPARED_AS: "text"}
                    marked[number] = problem.model_copy(update={"data": data})
                if verdict.outcome == "ungradable" or is_slow or AS_TEXT in verdict.explanation:
                    texts[number] = problem.reference
    return marked, list(texts.values())
