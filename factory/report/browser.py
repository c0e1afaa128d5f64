"""Which answers the page's browser holds, and how they are packed into the page.

The page carries them as compressed blocks of some problems each, unpacked by the browser one at a
time, so that it opens at once however many there are.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory.records import OUTCOMES, EvalSample, Problem
from factory.report.asked import AllAsked
from factory.report.records import Answer, Answered, Browser, Evaluation
from factory.report.scorecard import MODES, AllAnswers, benchmarks
from factory.report.text import abridged
from factory.visible import visible

MOST_ANSWERS = 20_000
MOST_CHARACTERS = 40_000_000
"""Of all texts together, as shown: some 10 MB of page."""
SHOWN = 4_000
"""Characters of one text; of a longer one the beginning and the end are kept."""
BLOCK = 250_000
"""Characters of a block, about: unpacked within milliseconds."""


def browser(rows: Sequence[Evaluation], answers: AllAnswers, asked: AllAsked) -> Browser | None:
    """The answers that fit, whole problems at a time; None where there are none at all.

    Problems are taken from the benchmarks in turn, in each benchmark's order, with every answer to
    them, until one does not fit. Protected benchmarks are left out and counted.
    """
    protected: dict[str, int] = {}
    shown: list[Answered] = []
    left_out = characters = count = 0
    for problem in _in_turn([list(_problems(name, rows, answers)) for name in benchmarks(rows)]):
        size = len(problem.samples)
        if any(asked[label, problem.benchmark].is_protected for label, _ in problem.samples):
            protected[problem.benchmark] = protected.get(problem.benchmark, 0) + size
            continue
        if left_out or count + size > MOST_ANSWERS or characters >= MOST_CHARACTERS:
            left_out += size
            continue
        made = _answered(problem, asked)
        shown.append(made)
        count += size
        characters += _size(made)
    if not shown and not protected:
        return None
    # Problems of one benchmark together: their texts are alike, and the page lists them so.
    order = {name: place for place, name in enumerate(benchmarks(rows))}
    shown.sort(key=lambda one: order[one.benchmark])
    return Browser(problems=tuple(shown), shown=count, left_out=left_out, protected=protected)


@dataclass(frozen=True)
class _Problem:
    """A problem with all answers, each with its evaluation's label."""

    benchmark: str
    id: str
    samples: Sequence[tuple[str, EvalSample]]


def _problems(
    benchmark: str, rows: Sequence[Evaluation], answers: AllAnswers
) -> Iterator[_Problem]:
    """A benchmark's problems in the order in which they were first asked."""
    found: dict[str, list[tuple[str, EvalSample]]] = {}
    for row in rows:
        for mode in MODES:
            for name, samples in answers[row.label].get((benchmark, mode), {}).items():
                found.setdefault(name, []).extend((row.label, sample) for sample in samples)
    for name, samples in found.items():
        yield _Problem(benchmark, name, samples)


def _in_turn(lists: Sequence[Sequence[_Problem]]) -> Iterator[_Problem]:
    for place in range(max(map(len, lists), default=0)):
        yield from (some[place] for some in lists if place < len(some))


def _answered(problem: _Problem, asked: AllAsked) -> Answered:
    label, first = problem.samples[0]
    known: Mapping[str, Problem] = asked[label, problem.benchmark].problems
    reference = known[problem.id].reference if problem.id in known else None
    return Answered(
        benchmark=problem.benchmark,
        problem_id=problem.id,
        question=abridged(first.trace.question, SHOWN),
        reference=None if reference is None else abridged(reference, SHOWN),
        answers=tuple(_answer(label, sample) for label, sample in problem.samples),
    )


def _answer(label: str, sample: EvalSample) -> Answer:
    trace = sample.trace

    def text(whole: str | None) -> str | None:
        return None if whole is None else abridged(whole, SHOWN)

    return Answer(
        label=label,
        mode=sample.mode,
        sample=trace.sample,
        outcome=trace.verdict.outcome,
        lenient=sample.lenient.outcome,
        lenient_answer=text(sample.lenient.answer),
        tokens=trace.completion_tokens,
        reasoning=text(trace.reasoning),
        answer=text(trace.answer),
        completion=abridged(trace.completion, SHOWN),
        explanation=abridged(trace.verdict.explanation, SHOWN),
    )


def _size(problem: Answered) -> int:
    texts = [problem.question, problem.reference]
    for one in problem.answers:
        texts += [one.reasoning, one.answer, one.completion, one.explanation, one.lenient_answer]
    return sum(len(text) for text in texts if text is not None)


def packed(found: Browser) -> tuple[str, list[str]]:
    """The index and the blocks of texts, each JSON, deflated and in base64.

    The index has a row an answer, as columns; block b holds the problems from `blocks[b]` on, each
    as [question, reference, [[reasoning, answer, completion, explanation, lenient answer], ...]].
    All text is written so that nothing in it is invisible.
    """
    problems = found.problems
    rows = [(place, one) for place, problem in enumerate(problems) for one in problem.answers]
    models = list(dict.fromkeys(one.label for _, one in rows))
    names = list(dict.fromkeys(problem.benchmark for problem in problems))
    starts, blocks = [], []
    size = BLOCK
    for place, problem in enumerate(problems):
        if size >= BLOCK:
            starts.append(place)
            blocks.append([])
            size = 0
        size += _size(problem)
        blocks[-1].append(_texts(problem))
    index = {
        "models": [visible(name) for name in models],
        "benchmarks": [visible(name) for name in names],
        "modes": MODES,
        "outcomes": OUTCOMES,
        "blocks": starts,
        "ids": [visible(problem.problem_id) for problem in problems],
        "benchmark": [names.index(problem.benchmark) for problem in problems],
        "problem": [place for place, _ in rows],
        "model": [models.index(one.label) for _, one in rows],
        "mode": [MODES.index(one.mode) for _, one in rows],
        "sample": [one.sample for _, one in rows],
        "outcome": [OUTCOMES.index(one.outcome) for _, one in rows],
        "lenient": [OUTCOMES.index(one.lenient) for _, one in rows],
        "tokens": [one.tokens for _, one in rows],
    }
    return _deflated(index), [_deflated(block) for block in blocks]


def _texts(problem: Answered) -> list[Any]:
    def shown(text: str | None) -> str | None:
        return None if text is None else visible(text)

    answers = [
        [
            *map(shown, (one.reasoning, one.answer)),
            *map(visible, (one.completion, one.explanation)),
            shown(one.lenient_answer),
        ]
        for one in problem.answers
    ]
    return [visible(problem.question), shown(problem.reference), answers]


def _deflated(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8"))).decode("ascii")
