"""Strict and lenient grading of one completion.

Strict: only the answer block of a well-formed response counts. Lenient: what is strictly right,
else the answer that the whole text offers (`lenient.py`). On small models the extractor is the
score, so both are reported.
Where instructions are to be followed, the whole response without its thoughts counts, and the two
readings are IFEval's strict and loose.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from factory.core.errors import DataError, EngineError
from factory.core.records import FinishReason, Problem, Verdict
from factory.grading.code import grade_code, program_of
from factory.grading.grader import grader_row
from factory.grading.instructions import grade_instructions
from factory.grading.lenient import lenient_answer
from factory.grading.programs import indented_block
from factory.text.chat import GRAMMAR, OutputForm, PromptConfig, parse


@dataclass(frozen=True)
class GradeItem:
    """One completion to grade, with all that grading may look at."""

    problem: Problem
    text: str
    prefill: str = ""
    finish_reason: FinishReason = "stop"
    lenient: bool = False
    is_isolated: bool = True
    """False runs programs without the sandbox; their verdicts say so."""
    form: OutputForm | None = None
    """The output form that the text must have; None: the four tags."""

    @classmethod
    def for_prompt(
        cls, problem: Problem, text: str, finish_reason: FinishReason, prompt: PromptConfig
    ) -> "GradeItem":
        """A completion as it was asked for: strict, with the prompt's prefill and form."""
        return cls(problem, text, prompt.prefill, finish_reason, form=prompt.form)

    @property
    def seconds(self) -> float:
        """Wall clock that grading this item may take on its own, besides a pool's deadline."""
        seconds = grader_row(self.problem).value.seconds(self.problem)
        # Leniently both programs may run: that of the answer block and the text's last one.
        return seconds * (2 if self.lenient and self.problem.kind == "code" else 1)


def grade(
    problem: Problem, text: str, *, prefill: str = "", finish_reason: FinishReason = "stop"
) -> Verdict:
    """The strict verdict on a completion; model text never raises.

    truncated: cut off before any answer was complete, or caught in a loop. no_answer: not
    well-formed, with the reason. ungradable: the problem or its grader is at fault, never the
    model.
    """
    return grade_item(GradeItem(problem, text, prefill, finish_reason))


def grade_lenient(problem: Problem, text: str, *, finish_reason: FinishReason = "stop") -> Verdict:
    """The strict verdict where it is correct, else that on the answer that the whole text offers.

    That is its last marked answer, its last whole expression or number, or its last line
    (`lenient.py`). So an answer written without tags counts; so does a lucky last number.
    """
    return grade_item(GradeItem(problem, text, "", finish_reason, lenient=True))


def grade_item(item: GradeItem) -> Verdict:
    """The verdict on one item, in this process: hostile mathematics may take very long."""
    began = time.perf_counter()
    verdict = _decide(item, plainly=False)
    if verdict is None:
        raise AssertionError("graders always decide")
    return verdict.model_copy(update={"seconds": time.perf_counter() - began})


def grade_plainly(item: GradeItem) -> Verdict | None:
    """The same verdict where our own code alone decides it, in time linear in the text.

    None where third-party code (sympy, reasoning-gym's scorers) has to look at model text.
    """
    began = time.perf_counter()
    verdict = _decide(item, plainly=True)
    return verdict and verdict.model_copy(update={"seconds": time.perf_counter() - began})


def check_ungradable(verdicts: Sequence[Verdict], *, limit: float = 0.01) -> None:
    """EngineError if more than `limit` of the verdicts are ungradable, with the first reason."""
    reasons = [v.explanation for v in verdicts if v.outcome == "ungradable"]
    check_ungradable_count(len(reasons), len(verdicts), first="".join(reasons[:1]), limit=limit)


def check_ungradable_count(count: int, of: int, *, first: str, limit: float = 0.01) -> None:
    """EngineError if more than `limit` of so many answers are ungradable, with a first reason."""
    if count > limit * of:
        raise EngineError(
            f"grading: {count} of {of} answers are ungradable, at most {limit:.0%} may be; "
            f"the first: {first}"
        )


def _decide(item: GradeItem, *, plainly: bool) -> Verdict | None:
    answer, refused = _strict_answer(item)
    strictly = replace(item, lenient=False) if item.lenient else item
    strict = refused or _graded(strictly, answer, plainly=plainly)
    if not item.lenient or strict is None or strict.is_correct:
        return strict
    candidate, nothing = _lenient_answer(item)
    if nothing is not None:
        return nothing
    if refused is None and _is_same(item, answer, candidate):
        return strict
    return _graded(item, candidate, plainly=plainly)


def _is_same(item: GradeItem, answer: str, candidate: str) -> bool:
    """Whether the lenient reading would only repeat what the strict one did."""
    if item.problem.kind == "instructions":
        return False
    read = program_of if item.problem.kind == "code" else str.strip
    return read(answer) == read(candidate)


def _graded(item: GradeItem, answer: str, *, plainly: bool) -> Verdict | None:
    kind = item.problem.kind
    row = grader_row(item.problem)
    grader = row.value
    if len(answer) > grader.longest:
        explanation = f"an answer of {len(answer)} characters, at most {grader.longest} are read"
        return Verdict(outcome="wrong", answer=None, explanation=explanation)
    try:
        if plainly:
            return grader.plainly(item.problem, answer)
        if kind == "code" and not item.is_isolated:
            return grade_code(item.problem, answer, is_isolated=False)
        if kind == "instructions" and item.lenient:
            return grade_instructions(item.problem, answer, is_loose=True)
        return _checked(grader.decide(item.problem, answer))
    except DataError as error:
        return Verdict(outcome="ungradable", answer=answer, explanation=str(error))
    except (MemoryError, RecursionError):
        raise
    # A user's grader may raise anything: that is its fault and not the model's.
    except Exception as error:
        if row.origin.kind == "factory":
            raise
        explanation = f"grader {row.name} of {row.origin}: {type(error).__name__}: {error}"
        return Verdict(outcome="ungradable", answer=answer, explanation=explanation)


def _checked(verdict: object) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"gave {verdict!r}, a Verdict is wanted")
    return verdict


def _strict_answer(item: GradeItem) -> tuple[str, Verdict | None]:
    is_cut = item.finish_reason != "stop"
    response = parse(item.text, prefill=item.prefill, form=item.form, is_cut=is_cut)
    if item.finish_reason == "loop":
        # Also where an answer stands before the loop: such a text does not end by itself.
        explanation = f"repeated itself without end: {response.problem or 'after the answer'}"
        return "", Verdict(outcome="truncated", answer=None, explanation=explanation)
    if item.problem.kind == "instructions":
        if response.problem == "no tags":
            return item.text, None  # it did not think: all of it is response, cut off or not
        if response.summary is not None:
            return response.summary, None
    if response.answer is not None:
        is_program = item.problem.kind == "code" and item.form is None
        return indented_block(item.text) if is_program else response.answer, None
    cut_off = is_cut and (item.form is not None or "</answer>" not in item.text)
    outcome = "truncated" if cut_off else "no_answer"
    return "", Verdict(outcome=outcome, answer=None, explanation=response.problem)


_TAGS = re.compile(r"</?(?:think|answer)>")


def _lenient_answer(item: GradeItem) -> tuple[str, Verdict | None]:
    if item.problem.kind == "instructions":
        return _response(item)
    if item.problem.kind == "code":
        return _TAGS.sub("\n", item.text), None  # its last fenced block, wherever it stands
    answer = lenient_answer(item.problem, item.text)
    if answer is not None:
        return answer, None
    outcome = "truncated" if item.finish_reason != "stop" else "no_answer"
    explanation = "no answer in the text" if item.text.strip() else "an empty text"
    return "", Verdict(outcome=outcome, answer=None, explanation=explanation)


def _response(item: GradeItem) -> tuple[str, Verdict | None]:
    """What a text says after its thoughts, without tags."""
    opening, closing = (item.form.opening, item.form.closing) if item.form else GRAMMAR[:2]
    full_text = item.prefill + item.text
    if opening in full_text and closing not in full_text:
        outcome = "truncated" if item.finish_reason != "stop" else "no_answer"
        return "", Verdict(outcome=outcome, answer=None, explanation="unfinished thinking")
    return _TAGS.sub("", full_text.rpartition(closing)[2]).strip(), None
