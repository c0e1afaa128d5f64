"""A mistake planted in any reader of answers is noticed by nulls and golden cases.

`alarms` holds the checks. On the real code none goes off; with each mutation at least one must. A
mutation is a function put in the place of one that decides what counts as the answer, or as right.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pkgutil import resolve_name
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from factory.core.records import (
    GRADERS,
    EvalSample,
    FinishReason,
    Problem,
    SamplingConfig,
    Trace,
    Verdict,
)
from factory.evaluation import documents, registry_tasks, scores, statistics, summary
from factory.grading import (
    choice,
    code,
    dress,
    exact,
    grade_item,
    instructions,
    lenient,
    math,
    numbers,
    parts,
    procedural,
    programs,
    units,
)
from factory.text import chat, lookalike
from factory.text.chat import OutputForm, PromptConfig, Response, completion_text, form_text

# The package's attribute of that name is the function.
grading = importlib.import_module("factory.grading.grade")
FORM = OutputForm(opening="<think>", closing="</think>")
TAGS = PromptConfig(style="reflect")
OPENED = PromptConfig(style="chat", prefill="<think>\n")
R1 = PromptConfig(style="chat", prefill="<think>\n", form=FORM)


def problem(kind: str, reference: str, **data: Any) -> Problem:
    return Problem(id="p", prompt="q", reference=reference, kind=kind, source="t", data=data)  # type: ignore[arg-type]


COUNTDOWN = problem(
    "procedural", "7 - 3",
    family="countdown", config={"seed": 1, "size": 10},
    entry={"answer": "7 - 3", "metadata": {"numbers": [7, 3], "target": 4}},
)  # fmt: skip
GCD = problem(
    "procedural", "6",
    family="gcd", config={"seed": 1, "size": 10}, entry={"answer": "6", "metadata": {}},
)  # fmt: skip
CHOICES = ["red", "blue", "green", "grey"]
FOLLOWED = {"instructions": ["punctuation:no_comma"], "arguments": [{}]}
GOLD: list[tuple[Problem, str, str]] = [
    (problem("math", "18"), "18", "81"),
    (problem("math", "-2.5"), "-2.5", "2.5"),
    (problem("math", "1234"), "1,234", "234"),
    (problem("math", "18"), "18.0", "18.4"),
    (problem("math", "2 * 9, hence \\boxed{18}"), "$18$", "$81$"),
    (problem("math", "18"), "18 dollars", "81 dollars"),
    (problem("exact", "Blue Whale"), "blue whale", "Blue Whale or shark"),
    (problem("exact", "-7"), "-7", "7"),
    (problem("choice", "C", choices=CHOICES), "C", "B"),
    (problem("choice", "C", choices=CHOICES), "green", "cannot tell"),
    (COUNTDOWN, "7 - 3", "7 + 3"),
    (GCD, "6", "5"),
    (problem("instructions", "-", **FOLLOWED), "one and two", "one, two"),
]
"""(problem, what is right, what is another's gold)."""


def written(answer: str, prompt: PromptConfig) -> str:
    """A completion with this answer as the prompt asks for it."""
    text = completion_text("first 5, then\n6", answer)
    if prompt.form is not None:
        text = form_text("first 5, then\n6", f"It is \\boxed{{{answer}}}", prompt.form)
    return text.removeprefix(prompt.prefill.strip())


def outcomes(
    given: Problem, text: str, prompt: PromptConfig = TAGS, reason: FinishReason = "stop"
) -> tuple[str, str]:
    strict, lenient = (
        grade_item(item) for item in scores.both_readings(given, text, reason, prompt)
    )
    return strict.outcome, lenient.outcome


NUMBER = problem("math", "18")
TEXTS: list[tuple[Problem, str, PromptConfig, FinishReason, tuple[str, str]]] = [
    # Only the answer block counts strictly; leniently the last marked answer, or last number.
    (NUMBER, "It is 18", TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, "18 or rather 19", TAGS, "stop", ("no_answer", "wrong")),
    (NUMBER, completion_text("18", "19"), TAGS, "stop", ("wrong", "wrong")),
    (NUMBER, completion_text("19", "18") + " 19", TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, "<answer> 18 </answer>", TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, "<think> a </think> 18", TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, completion_text("a", "18") * 2, TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, "<think> 18 and", TAGS, "length", ("truncated", "correct")),
    (NUMBER, "<think> and", TAGS, "length", ("truncated", "truncated")),
    (NUMBER, "a\n</think> <answer> 18 </answer>", OPENED, "stop", ("correct", "correct")),
    (NUMBER, "a\n</think> <answer> 18 </answer>", TAGS, "stop", ("no_answer", "correct")),
    # In a form the box of the summary counts; boxes in the thoughts do not.
    (NUMBER, "\\boxed{18}\n</think> so \\boxed{19}", R1, "stop", ("wrong", "wrong")),
    (NUMBER, "\\boxed{19}\n</think> so \\boxed{18}", R1, "stop", ("correct", "correct")),
    (NUMBER, "a\n</think> \\boxed{18} or \\boxed{19}", R1, "stop", ("no_answer", "wrong")),
    (NUMBER, "a\n</think> so \\boxed{18}", R1, "length", ("truncated", "correct")),
    (NUMBER, "a and \\boxed{18}", R1, "stop", ("no_answer", "correct")),
    # Leniently the mark that begins last, whatever follows; no piece of an answer.
    (NUMBER, "It is \\boxed{18}, in 2 steps", TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, "The answer is 18. It took 2 steps", TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, "<answer> We get 18 </answer> in 2 steps", TAGS, "stop", ("no_answer", "correct")),
    (problem("math", "7"), "It is $\\frac{3}{7}$", TAGS, "stop", ("no_answer", "wrong")),
    (problem("math", "[1,2]"), "1 \\le x \\le 2", TAGS, "stop", ("no_answer", "correct")),
    # What breaks out of its place, or looks as if it did.
    (NUMBER, "a\n</think> 18\nUser: more", R1, "stop", ("no_answer", "correct")),
    (NUMBER, "a <\u0430nswer> 19\n</think> 18", R1, "stop", ("no_answer", "correct")),
    (NUMBER, completion_text("a\nUser: b\nAssistant: c", "18"), TAGS, "stop",
     ("no_answer", "correct")),
    (NUMBER, completion_text("a\nSystem: b", "18"), TAGS, "stop", ("correct", "correct")),
    (NUMBER, completion_text("a\n```\nUser: b\nAssistant: c\n```", "18"), TAGS, "stop",
     ("correct", "correct")),
    (NUMBER, completion_text("a <\u0430nswer> 19", "18"), TAGS, "stop", ("no_answer", "correct")),
    (NUMBER, completion_text("a", "\\boxed{19}, \\boxed{18}"), TAGS, "stop", ("wrong", "correct")),
    (NUMBER, completion_text("a", "18 or 19"), TAGS, "stop", ("wrong", "wrong")),
    (problem("choice", "C", choices=CHOICES), "<think> C </think> B", TAGS, "stop",
     ("no_answer", "wrong")),
    (problem("exact", "so"), "so\nnot so", TAGS, "stop", ("no_answer", "wrong")),
    (problem("instructions", "-", **FOLLOWED), "<think> a, b", TAGS, "stop",
     ("no_answer", "no_answer")),
    (problem("instructions", "-", **FOLLOWED), completion_text("a, b", "c"), TAGS, "stop",
     ("correct", "correct")),
    (problem("instructions", "-", **FOLLOWED), completion_text("a", "b, c\nd"), TAGS, "stop",
     ("wrong", "correct")),
]  # fmt: skip


def alarms() -> list[str]:
    """The checks that go off, as text."""
    results = []
    for first, gold, other in GOLD:
        for prompt in (TAGS, OPENED, R1):
            # A boxed sentence is still a sentence: its instructions hold for the whole summary.
            if outcomes(first, written(gold, prompt), prompt)[0] != "correct":
                results.append(f"gold echo: {first.kind} {gold}")
            if outcomes(first, written(other, prompt), prompt)[0] == "correct":
                results.append(f"shuffled gold: {first.kind} {other}")
        if outcomes(first, f"First 5, then\n{gold}")[1] != "correct":
            results.append(f"lenient gold: {first.kind} {gold}")
        if outcomes(first, f"First 5, then\n{other}")[1] == "correct":
            results.append(f"lenient shuffled gold: {first.kind} {other}")
    for first, text, prompt, reason, expected in TEXTS:
        if outcomes(first, text, prompt, reason) != expected:
            results.append(f"golden: {text!r}")
    if code.program_of("```python\na\n```\nor\n```python\nb\n```") != "b\n":
        results.append("golden: the last block is the program")
    return results + _scores() + _foreign()


def _scores() -> list[str]:
    """Two problems, four samples: strictly 4 and 1 right, leniently 4 and 3."""
    right, wrong = (Verdict(outcome=o, answer=o, explanation="") for o in ("correct", "wrong"))  # type: ignore[arg-type]
    silent = Verdict(outcome="no_answer", answer=None, explanation="")
    strict = {"a": [right] * 4, "b": [right, wrong, silent, silent]}
    lenient = {"a": [right] * 4, "b": [right, right, right, wrong]}
    samples = [
        _sample(name, number, strict[name][number], lenient[name][number])
        for name in strict
        for number in range(4)
    ]
    run: Any = SimpleNamespace(
        benchmark="b", version="1", mode="sampled", samples=4, problems=(), stop_at=None
    )
    rows = {row.metric: row.value for row in scores.own_scores(run, samples, prompt_style="chat")}
    pairs = list(zip(strict["b"], lenient["b"], strict=True))
    results = {**rows, **{f"lm_eval {k}": v for k, v in documents.pass_rates(pairs).items()}}
    expected = {
        "pass@1": 5 / 8, "pass@4": 1.0, "cons@4": 0.75, "pass@1_lenient": 7 / 8,
        "lm_eval pass@1": 1 / 4, "lm_eval pass@1_lenient": 3 / 4,
    }  # fmt: skip
    # One problem of one instruction, followed; one of two, of which one is followed, or both.
    requests = [problem("instructions", "-", instructions=["x"] * count) for count in (1, 2)]
    run.problems = [
        first.model_copy(update={"id": name}) for first, name in zip(requests, "ab", strict=True)
    ]
    shares = {"a": ((True,), (True,)), "b": ((True, False), (True, True))}
    samples = [
        _sample(name, 0, *(wrong.model_copy(update={"followed": marks}) for marks in both))
        for name, both in shares.items()
    ]
    samples += [_sample(name, 1, silent, silent) for name in "ab"]
    rows = scores.own_scores(run, samples, prompt_style="chat")
    results |= {row.metric: row.value for row in rows if "instructions" in row.metric}
    expected |= {"pass@1_instructions": 1 / 3, "pass@1_instructions_lenient": 1 / 2}
    return [f"scores: {m}" for m in expected if abs(results[m] - expected[m]) > 1e-9]


def _sample(name: str, number: int, strict: Verdict, lenient: Verdict) -> EvalSample:
    trace = Trace(
        problem_id=name, sample=number, question="q", prompt="q", completion="c", reasoning=None,
        answer=strict.answer, finish_reason="stop", completion_tokens=1, seed=0,
        sampling=SamplingConfig(), style="chat", model="m", verdict=strict,
    )  # fmt: skip
    return EvalSample(benchmark="b", mode="sampled", trace=trace, lenient=lenient)


def _foreign() -> list[str]:
    """A registry task: its text ends at the stop, its first filter is strict, its last lenient."""
    results = []
    draw: Any = SimpleNamespace(sampling=SamplingConfig(stop=("\n", "Q:")))
    if registry_tasks._reply(draw, SimpleNamespace(text="18 Q: 19\n20")) != "18 ":  # type: ignore[arg-type]
        results.append("foreign: the stop text")
    means = {("match", "strict"): {0: 0.0, 1: 1.0}, ("match", "flexible"): {0: 1.0, 1: 1.0}}
    read = registry_tasks._verdicts(means)
    marks = {n: tuple(verdict.is_correct for verdict in pair) for n, pair in read.items()}
    if marks != {0: (False, True), 1: (True, True)}:
        results.append("foreign: the filters")
    if registry_tasks._is_mean({0: 1.0, 1: 0.0}, 0.7) or not registry_tasks._is_mean(
        {0: 1.0, 1: 0.0}, 0.5
    ):
        results.append("foreign: means")
    if registry_tasks._number(SimpleNamespace(document="12.0")) != 12:  # type: ignore[arg-type]
        results.append("foreign: the document")
    return results


@dataclass(frozen=True)
class Mutation:
    """`make` gets the real function and returns one with a mistake."""

    module: Any
    name: str
    mistake: str
    make: Callable[[Any], Any]

    @property
    def id(self) -> str:
        return f"{self.module.__name__.removeprefix('factory.')}.{self.name}: {self.mistake}"


def changed(response: Response, **values: object) -> Response:
    return response.model_copy(update=values)


def right(*_: object, **__: object) -> Verdict:
    return Verdict(outcome="correct", answer="", explanation="")


MUTATIONS = [
    # chat.parse, where strict grading reads the answer.
    Mutation(grading, "parse", "thoughts for the answer", lambda real: lambda *a, **k: (
        lambda r: changed(r, answer=r.reasoning if r.answer else None))(real(*a, **k))),
    Mutation(grading, "parse", "the whole text", lambda real: lambda text, **k: changed(
        real(text, **k), answer=text)),
    Mutation(grading, "parse", "no prefill", lambda real: lambda text, **k: real(
        text, **{**k, "prefill": ""})),
    Mutation(grading, "parse", "no form", lambda real: lambda text, **k: real(
        text, **{**k, "form": None})),
    Mutation(grading, "parse", "cut texts are whole", lambda real: lambda text, **k: real(
        text, **{**k, "is_cut": False})),
    Mutation(grading, "parse", "never an answer", lambda real: lambda *a, **k: changed(
        real(*a, **k), answer=None, problem="no tags")),
    Mutation(chat, "_tag_problem", "tags in any order", lambda real: lambda tags: ""),
    Mutation(chat, "_parse_form", "boxes of the thoughts", lambda real: lambda text, form, **k: (
        lambda r: changed(r, answer=r.answer and (chat.boxes(text) or [r.answer])[0]))(
            real(text, form, **k))),
    Mutation(chat, "disturbance", "nothing disturbs", lambda real: lambda *a: ""),
    Mutation(chat, "fold", "as it is written", lambda real: lambda text: text),
    Mutation(chat, "made_up_exchange", "nobody speaks", lambda real: lambda text: ""),
    Mutation(chat, "made_up_turn", "nobody goes on", lambda real: lambda answer: ""),
    Mutation(lookalike, "_outside_fences", "no fences", lambda real: lambda text: text),
    Mutation(chat, "_text_problem", "text around the blocks", lambda real: lambda *a: ""),
    Mutation(chat, "_mark_problem", "marks in any order", lambda real: lambda *a: ""),
    Mutation(chat, "boxes", "no boxes", lambda real: lambda text: []),
    Mutation(chat, "boxes", "the last box only", lambda real: lambda text: (real(text) or [])[-1:]),
    # Lenient reading.
    Mutation(lenient, "last_number", "the first number", lambda real: lambda text: (
        lambda parts: real(parts[0]) if parts else None)(
            [word for word in text.split() if any(c.isdigit() for c in word)])),
    Mutation(lenient, "last_number", "no sign", lambda real: lambda text: (
        lambda n: n and n.lstrip("-"))(real(text))),
    Mutation(lenient, "last_number", "no decimals", lambda real: lambda text: (
        lambda n: n and n.partition(".")[0])(real(text))),
    Mutation(lenient, "_boxed", "no box counts", lambda real: lambda text: []),
    Mutation(lenient, "_blocks", "no block counts", lambda real: lambda *a: []),
    Mutation(lenient, "_said", "nothing is said", lambda real: lambda *a: []),
    Mutation(lenient, "_last_in", "a piece of it", lambda real: lambda line, *a: (
        lambda piece: piece and piece.rstrip("}")[-1:])(real(line, *a))),
    Mutation(lenient, "_single", "no bare value", lambda real: lambda *a: None),
    Mutation(lenient, "_within", "all of a block", lambda real: lambda content, *a: content),
    Mutation(grading, "_lenient_answer", "lines from the top", lambda real: lambda item: real(
        replace(item, text="\n".join(reversed(item.text.splitlines()))))),
    Mutation(grading, "_lenient_answer", "strict", lambda real: grading._strict_answer),
    Mutation(grading, "_strict_answer", "lenient", lambda real: grading._lenient_answer),
    Mutation(grading, "_response", "with its thoughts", lambda real: lambda item: (
        item.text, None)),
    # Graders.
    Mutation(parts, "plain_number", "no sign", lambda real: lambda text: (
        lambda n: n if n is None else abs(n))(real(text))),
    Mutation(parts, "plain_number", "rounded", lambda real: lambda text: (
        lambda n: n if n is None else Fraction(round(n)))(real(text))),
    Mutation(math, "boxes", "the last of several boxes", lambda real: lambda text: (
        real(text) or [])[-1:]),
    Mutation(math, "grade_math", "whatever it says", lambda real: right),
    Mutation(math, "_box", "boxes stay", lambda real: lambda text: None),
    Mutation(math, "undress", "as it is written", lambda real: lambda text: text),
    Mutation(units, "_parts", "units stay", lambda real: lambda text: None),
    Mutation(math, "same_number", "never", lambda real: lambda *a: False),
    Mutation(math, "same_answer", "contained", lambda real: lambda a, b, leaf: a in b),
    Mutation(math, "same_answer", "always", lambda real: lambda *a: True),
    Mutation(math, "same_answer", "never", lambda real: lambda *a: False),
    Mutation(exact, "fold_text", "letters folded away", lambda real: lambda text: real(text)[:4]),
    Mutation(exact, "fold_text", "case kept", lambda real: lambda text: text),
    Mutation(exact, "grade_exact", "whatever it says", lambda real: right),
    Mutation(choice, "grade_choice", "whatever it says", lambda real: right),
    Mutation(choice, "_chosen", "the first letter", lambda real: lambda text, choices: text.strip()[
        :1].upper()),
    Mutation(choice, "_chosen", "letters only", lambda real: lambda text, choices: real(text, [])),
    Mutation(procedural, "grade_procedural", "whatever it says", lambda real: right),
    Mutation(procedural, "FULL_SCORE", "any score", lambda real: 0.0),
    Mutation(procedural, "STRICTER", "refuses all", lambda real: {
        "countdown": lambda answer, entry: False}),
    Mutation(code, "program_of", "the first block", lambda real: lambda answer: (
        programs._blocks(answer)[0][1])),
    Mutation(code, "program_of", "the whole answer", lambda real: lambda answer: answer),
    Mutation(grading, "grade_instructions", "strict is loose", lambda real: lambda p, text, **k: (
        real(p, text, is_loose=not k.get("is_loose", False)))),
    Mutation(instructions, "_followed", "all followed", lambda real: lambda check, e, text: [
        True for _ in e.instruction_id_list]),
    Mutation(instructions, "_followed", "none followed", lambda real: lambda check, e, text: [
        False for _ in e.instruction_id_list]),
    # From verdicts to scores.
    Mutation(scores, "_share_right", "lenient", lambda real: scores._share_right_lenient),
    Mutation(scores, "_share_right_lenient", "strict", lambda real: scores._share_right),
    Mutation(scores, "_share_right", "any of them", lambda real: lambda group: float(
        real(group) > 0)),
    Mutation(scores, "both_readings", "strict twice", lambda real: lambda *a: real(*a)[:1] * 2),
    Mutation(scores, "_share_followed", "readings swapped", lambda real: lambda group, *, lenient: (
        real(group, lenient=not lenient))),
    Mutation(scores, "_share_followed", "of responses only", lambda real: lambda group, **k: (
        real([s for s in group if s.trace.verdict.followed], **k))),
    Mutation(scores, "_instruction_counts", "one a problem", lambda real: lambda run, ids: (
        (lambda piece: piece and [1] * len(piece))(real(run, ids)))),
    Mutation(scores, "_majority_right", "any of them", lambda real: scores._any_right),
    Mutation(scores, "_any_right", "all of them", lambda real: lambda group: float(
        scores._share_right(group) == 1)),
    Mutation(scores, "votes", "the silent vote", lambda real: lambda verdicts: [
        verdict.answer or "none" for verdict in verdicts]),
    Mutation(scores, "consensus", "the first answer", lambda real: lambda answers, correct: float(
        correct[0])),
    Mutation(statistics, "candidates", "the silent vote", lambda real: lambda answers, marks: real(
        [answer or "none" for answer in answers], marks)),
    Mutation(scores, "pass_at_k", "the mean", lambda real: lambda n, c, *, k: c / n),
    Mutation(documents, "pass_rates", "readings swapped", lambda real: lambda pairs: real(
        [(b, a) for a, b in pairs])),
    # Registry tasks.
    Mutation(registry_tasks, "_reply", "the whole text", lambda real: lambda draw, done: done.text),
    Mutation(registry_tasks, "_verdicts", "the first filter twice", lambda real: lambda means: {
        n: (pair[0], pair[0]) for n, pair in real(means).items()}),
    Mutation(registry_tasks, "_verdict", "whatever it says", lambda real: right),
    Mutation(registry_tasks, "_is_mean", "always", lambda real: lambda *a: True),
    Mutation(registry_tasks, "_number", "another document", lambda real: lambda request: (
        real(request) + 1)),
]  # fmt: skip


def test_no_alarm_goes_off_on_the_real_readers() -> None:
    assert alarms() == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.id for mutation in MUTATIONS])
def test_a_mistake_in_a_reader_is_noticed(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(mutation.module, mutation.name)
    wrong = mutation.make(real)
    monkeypatch.setattr(mutation.module, mutation.name, wrong)
    for row in GRADERS.rows():
        fields = {n: wrong for n in ("decide", "plainly") if getattr(row.value, n) is real}
        monkeypatch.setitem(
            GRADERS.table, row.name, replace(row, value=replace(row.value, **fields))
        )
    assert _told(), f"nothing noticed {mutation.id}"


def _told() -> list[str]:
    try:
        return alarms()
    # A reader that breaks is noticed too.
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]


CHOOSE_NOTHING = {
    "text.chat.OutputForm.marks text.chat.completion_text text.chat.form_text":
        "write, or name what is written",
    "text.chat._squeezed text.lookalike._fold_character text.lookalike._turn_problem":
        "parts of disturbance, fold and the made-up turns",
    "grading.grade.GradeItem.for_prompt grading.grade.grade_item grading.grade._decide "
    "grading.grade._graded grading.grade._is_same grading.grade._checked":
        "hand over to what is mutated",
    "grading.math._decide": "puts the mutated parts of grade_math together",
    "grading.math._same_chain grading.math._same_named grading.math._same_sets grading.math._all "
    "grading.math._paired grading.math._value_by "
    "grading.math.read_reference grading.math._without_option grading.math._outside_boxes "
    "grading.parts.as_intervals grading.parts.elements grading.parts.is_interval "
    "grading.parts.without_signs grading.parts.is_words grading.parts._is_word_letter "
    "grading.parts.reading grading.parts.tight grading.parts.bare grading.parts.named_values "
    "grading.parts.without_group grading.parts.without_name grading.parts.interval":
        "forms of answers; cases are in the adversarial suite and test_grades_of_others.py",
    "grading.dress._signs grading.dress._raised grading.dress._named_letters grading.dress._spoken "
    "grading.dress._without_markdown grading.dress._amount grading.dress._numbers "
    "grading.dress._fraction_of_repeating grading.dress._multiplied grading.dress._degrees "
    "grading.dress._in_base grading.dress._set_in_words grading.dress._outward "
    "grading.units.split_unit grading.units._is_unit grading.units._is_word_of_unit "
    "grading.units._is_cjk grading.units._is_counted grading.units._unit grading.units.contradict "
    "grading.exact.says grading.exact._unboxed text.lookalike.without_quotations "
    "text.lookalike.without_end grading.units.spelled_alike text.lookalike._is_quoted":
        "forms of answers; cases are in test_grades_of_others.py",
    "grading.programs._blocks grading.programs._common": "parts of program_of",
    "grading.numbers._value grading.numbers._signed grading.numbers._ratio":
        "parts of plain_number",
    "grading.lenient.lenient_answer grading.lenient._together grading.lenient._wanted "
    "grading.lenient._polished grading.lenient._line_end grading.lenient._said_text "
    "grading.lenient._said_mathematics grading.lenient._is_decimal grading.lenient._extended "
    "grading.lenient._change grading.lenient._trimmed grading.lenient._is_open "
    "grading.lenient._is_unmatched grading.lenient._depth grading.lenient._runs "
    "grading.lenient._Stretch.__init__ grading.lenient._Stretch.add "
    "grading.lenient._Stretch.closed grading.lenient._tokens "
    "grading.lenient._is_variable": "forms of answers; cases are in test_lenient.py",
    "grading.procedural._dataset grading.procedural._stored grading.procedural._value "
    "grading.procedural._is_countdown grading.procedural._reaches "
    "grading.procedural.exact_arithmetic": "parts of grade_procedural; STRICTER is mutated",
    "grading.instructions._checkers": "imports lm-eval's module",
    "evaluation.scores.own_scores evaluation.scores.score_row evaluation.scores._outcomes":
        "make rows of the mutated parts, and count outcomes beside them",
    "evaluation.statistics._in_unit_interval evaluation.statistics.cluster_of "
    "evaluation.statistics.cluster_sums evaluation.statistics.clusters "
    "evaluation.statistics.mean_interval evaluation.statistics.t_quantile "
    "evaluation.statistics.wilson": "error bars; golden numbers in test_statistics.py",
}  # fmt: skip
"""Functions between a text and its score that need no mutation, and why."""

READERS = (
    chat, lookalike, grading, lenient, math, parts, exact, choice, numbers, procedural, code,
    programs, units, dress, instructions, scores, documents, registry_tasks, summary, statistics,
)  # fmt: skip


def test_every_function_from_the_text_to_the_score_has_a_mutation_or_a_reason() -> None:
    modules = {module.__name__ for module in READERS}
    ran: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        if event == "call" and module in modules and not name.startswith("__"):
            ran.add(f"{module}.{name.partition('.<locals>')[0]}".removeprefix("factory."))

    for function in (value for module in READERS for value in vars(module).values()):
        getattr(function, "cache_clear", lambda: None)()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        assert alarms() == []
    finally:
        sys.setprofile(before)
    results = [getattr(mutation.module, mutation.name) for mutation in MUTATIONS]
    mutated = {
        f"{result.__module__}.{result.__qualname__}".removeprefix("factory.")
        for result in results
        if callable(result)
    }
    excused = {name for names in CHOOSE_NOTHING for name in names.split()}
    assert ran - mutated <= excused, sorted(ran - mutated - excused)
    assert mutated <= ran and not mutated & excused
    for name in excused:
        assert resolve_name(f"factory.{name}"), name
