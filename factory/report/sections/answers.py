"""Which answers the page's browser holds, and how they are packed into the page.

The page carries them as compressed blocks of some problems each, unpacked by the browser one at a
time, so that it opens at once however many there are.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pydantic import Field

from factory.core.blocks import Answers, Section, Text
from factory.core.readable import abridged, clip, count, plural
from factory.core.records import OUTCOMES, EvalSample, Mode, Outcome, Problem, Record
from factory.report.asked import AllAsked, eval_problems
from factory.report.build import Build, once
from factory.report.records import Evaluation
from factory.report.scorecard import MODES, AllAnswers, benchmarks
from factory.report.section import section
from factory.text.visible import visible

MOST_ANSWERS = 20_000
MOST_CHARACTERS = 40_000_000
"""Of all texts together, as shown: some 10 MB of page."""
FIRST_WORDS = 70
"""Characters of a question that the list of answers shows."""
SHOWN = 4_000
"""Characters of one text; of a longer one the beginning and the end are kept."""
BLOCK = 250_000
"""Characters of a block, about: unpacked within milliseconds."""


class Answer(Record):
    """One answer, its texts abridged. All of them are a model's."""

    label: str
    """Of the evaluation."""
    mode: Mode
    sample: int
    outcome: Outcome
    lenient: Outcome
    lenient_answer: str | None
    tokens: int
    reasoning: str | None
    answer: str | None
    completion: str
    explanation: str


class Answered(Record):
    """One problem with every answer to it."""

    benchmark: str
    problem_id: str
    question: str
    reference: str | None
    """None where it is not to be had: lm-eval's own tasks, a package that is not installed."""
    answers: tuple[Answer, ...]


class Browser(Record):
    """The answers that a reader can leaf through on the page."""

    problems: tuple[Answered, ...] = Field(default=(), exclude=True, repr=False)
    """On the page only: each evaluation's samples.jsonl has them in full."""
    shown: int
    left_out: int
    """Answers for which the page has no room."""
    protected: dict[str, int]
    """By benchmark: answers that are not shown, since its authors ask not to reprint questions."""


@section("answers", after="samples")
def answers(build: Build) -> Section | None:
    result = browser(build)
    return None if result is None else answers_section(result)


def answers_section(result: Browser) -> Section:
    intro = Text(browser_intro(result))
    if not result.problems:
        return Section("Answers", (intro,), facts=(result,))
    index, texts = packed(result)
    return Section("Answers", (intro, Answers(index, tuple(texts))), facts=(result,))


def browser_intro(result: Browser) -> str:
    """How many answers the page's browser holds, which ones, and why the others are not there."""
    parts = []
    if result.left_out:
        parts.append(
            f"{count(result.shown)} of {plural(result.shown + result.left_out, 'answer')}, all "
            "written by models. Problems are taken from the benchmarks in turn, in each "
            "benchmark's order and with every answer to them, as far as the page has room; the "
            "others are in the evaluations' samples.jsonl."
        )
    elif result.shown:
        parts.append(f"{plural(result.shown, 'answer')}, all written by models.")
    for benchmark, number in result.protected.items():
        parts.append(
            f"{plural(number, 'answer')} to {benchmark} are not shown: its authors ask not to "
            "reprint its questions."
        )
    return " ".join(parts)


@once
def browser(build: Build) -> Browser | None:
    """The answers that fit, each problem with all of its own; None where there are none at all.

    Problems are taken from the benchmarks in turn, in each benchmark's order, with every answer to
    them, until one does not fit. Protected benchmarks are left out and counted.
    """
    rows, questions = build.evaluations, eval_problems(build)
    protected: dict[str, int] = {}
    shown: list[Answered] = []
    left_out = characters = number = 0
    by_benchmark = [list(_problems(name, rows, build.answers)) for name in benchmarks(rows)]
    for problem in _in_turn(by_benchmark):
        size = len(problem.samples)
        if any(questions[label, problem.benchmark].is_protected for label, _ in problem.samples):
            protected[problem.benchmark] = protected.get(problem.benchmark, 0) + size
            continue
        if left_out or number + size > MOST_ANSWERS or characters >= MOST_CHARACTERS:
            left_out += size
            continue
        row = _answered(problem, questions)
        shown.append(row)
        number += size
        characters += _size(row)
    if not shown and not protected:
        return None
    # Problems of one benchmark together: their texts are alike, and the page lists them so.
    order = {name: position for position, name in enumerate(benchmarks(rows))}
    shown.sort(key=lambda row: order[row.benchmark])
    return Browser(problems=tuple(shown), shown=number, left_out=left_out, protected=protected)


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
    problems: dict[str, list[tuple[str, EvalSample]]] = {}
    for row in rows:
        for mode in MODES:
            for name, samples in answers[row.label].get((benchmark, mode), {}).items():
                problems.setdefault(name, []).extend((row.label, sample) for sample in samples)
    for name, samples in problems.items():
        yield _Problem(benchmark, name, samples)


def _in_turn(lists: Sequence[Sequence[_Problem]]) -> Iterator[_Problem]:
    for position in range(max(map(len, lists), default=0)):
        yield from (rows[position] for rows in lists if position < len(rows))


def _answered(problem: _Problem, questions: AllAsked) -> Answered:
    label, first = problem.samples[0]
    own: Mapping[str, Problem] = questions[label, problem.benchmark].problems
    reference = own[problem.id].reference if problem.id in own else None
    return Answered(
        benchmark=problem.benchmark,
        problem_id=problem.id,
        question=abridged(first.trace.question, SHOWN),
        reference=None if reference is None else abridged(reference, SHOWN),
        answers=tuple(_answer(label, sample) for label, sample in problem.samples),
    )


def _answer(label: str, sample: EvalSample) -> Answer:
    trace = sample.trace

    def text(full: str | None) -> str | None:
        return None if full is None else abridged(full, SHOWN)

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
    for row in problem.answers:
        texts += [row.reasoning, row.answer, row.completion, row.explanation, row.lenient_answer]
    return sum(len(text) for text in texts if text is not None)


def packed(result: Browser) -> tuple[str, list[str]]:
    """The index and the blocks of texts, each JSON, deflated and in base64.

    The index has a row an answer, as columns; block b holds the problems from `blocks[b]` on, each
    as [question, reference, [[reasoning, answer, completion, explanation, lenient answer], ...]].
    All text is written so that nothing in it is invisible.
    """
    problems = result.problems
    rows = [(number, row) for number, problem in enumerate(problems) for row in problem.answers]
    models = list(dict.fromkeys(row.label for _, row in rows))
    names = list(dict.fromkeys(problem.benchmark for problem in problems))
    starts, blocks = [], []
    size = BLOCK
    for number, problem in enumerate(problems):
        if size >= BLOCK:
            starts.append(number)
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
        "questions": _first_words(problems),
        "benchmark": [names.index(problem.benchmark) for problem in problems],
        "problem": [number for number, _ in rows],
        "model": [models.index(row.label) for _, row in rows],
        "mode": [MODES.index(row.mode) for _, row in rows],
        "sample": [row.sample for _, row in rows],
        "outcome": [OUTCOMES.index(row.outcome) for _, row in rows],
        "lenient": [OUTCOMES.index(row.lenient) for _, row in rows],
        "tokens": [row.tokens for _, row in rows],
    }
    return _deflated(index), [_deflated(block) for block in blocks]


def _first_words(problems: Sequence[Answered]) -> list[str]:
    """What the list calls each problem: its question from where the benchmark's questions differ,
    on one line."""
    flat = [" ".join(problem.question.split()) for problem in problems]
    common = {
        name: _shared(
            [text for text, row in zip(flat, problems, strict=True) if row.benchmark == name]
        )
        for name in {problem.benchmark for problem in problems}
    }
    names = []
    for text, problem in zip(flat, problems, strict=True):
        start = common[problem.benchmark]
        words, cut = clip(text[start:], FIRST_WORDS)
        names.append(visible(f"{'…' if start else ''}{words}{'…' if cut else ''}"))
    return names


def _shared(texts: Sequence[str]) -> int:
    """Characters of whole words with which all of several texts begin."""
    if len(texts) < 2:
        return 0
    pairs = zip(min(texts), max(texts), strict=False)
    common = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return common.rfind(" ") + 1


def _texts(problem: Answered) -> list[Any]:
    def shown(text: str | None) -> str | None:
        return None if text is None else visible(text)

    answers = [
        [
            *map(shown, (row.reasoning, row.answer)),
            *map(visible, (row.completion, row.explanation)),
            shown(row.lenient_answer),
        ]
        for row in problem.answers
    ]
    return [visible(problem.question), shown(problem.reference), answers]


def _deflated(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8"))).decode("ascii")
