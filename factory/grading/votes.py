"""What an answer votes for: equal answers vote together, however they are written."""

from collections.abc import Callable

from factory.core.records import Verdict
from factory.grading.choice import CHOSE
from factory.grading.dress import undress
from factory.grading.exact import fold_text
from factory.grading.numbers import plain_number
from factory.grading.parts import (
    MAX_PARTS,
    bare,
    elements,
    interval,
    is_words,
    named_values,
    reading,
    tight,
    without_name,
    without_signs,
)
from factory.grading.sets import real_set
from factory.grading.units import split_unit

MAX_READ = 400
"""Characters; a longer answer, or one of several lines, is its own text."""


def vote(verdict: Verdict) -> str | None:
    """What a graded answer votes for; None without a finished, well-formed answer."""
    if verdict.answer is None or verdict.outcome not in ("correct", "wrong"):
        return None
    if verdict.explanation.startswith(CHOSE):
        return verdict.explanation.removeprefix(CHOSE)
    return canonical(verdict.answer) if verdict.value is None else verdict.value


def with_value(verdict: Verdict) -> Verdict:
    """A verdict that says what its wrong answer votes for, where that takes evaluating.

    Right answers vote together whatever their form. For a process that can be killed.
    """
    from factory.grading.expressions import value_form

    if not has_value(verdict) or verdict.answer is None:
        return verdict
    value = canonical(verdict.answer, value_form)
    return (
        verdict
        if value == canonical(verdict.answer)
        else verdict.model_copy(update={"value": value})
    )


def has_value(verdict: Verdict) -> bool:
    """Whether what a wrong answer votes for may take evaluating."""
    parts: list[str] = []
    if verdict.outcome == "wrong" and verdict.answer is not None:
        canonical(verdict.answer, parts.append)
    return bool(parts)


def as_written(text: str) -> str | None:
    """Nothing is evaluated."""
    return None


def canonical(answer: str, value: Callable[[str], str | None] = as_written) -> str:
    """One text for all answers that the maths grader takes for one value, as far as it is plain.

    A number is its fraction, a list its elements (sorted where order does not matter), an interval
    the one with brackets, words are folded; anything else is its text without dress and spaces.
    `value` gives the form of an expression; by default nothing is evaluated, so that sqrt(4) and 2
    stay two answers.
    """
    text = " ".join(answer.split())
    if len(text) > MAX_READ or "\n" in answer.strip():
        return text
    return _form(undress(text), value)


def _form(text: str, value: Callable[[str], str | None]) -> str:
    number = reading(text)
    if number is not None:
        return f"{number[0]}%" if number[1] else str(number[0])
    if is_words(text):
        return fold_text(text)
    reals = real_set(text, plain_number)
    if reals is not None and reals.is_marked:
        return f"reals {[(str(low), str(high)) for low, high in reals.spans]}"
    text = bare(text)
    named = named_values(text)
    if named is not None:
        return f"({','.join(_form(named[name], value) for name in sorted(named))})"
    name, rest = without_name(text)
    if name:
        return _form(rest, value)
    listed = elements(interval(without_signs(text)))
    if listed is None or not 1 < len(listed[1]) <= MAX_PARTS:
        return value(split_unit(text)[0]) or tight(text)
    brackets, items = listed
    forms = [_form(item, value) for item in items]
    if brackets[:1] in ("(", "["):
        return f"{brackets[0]}{','.join(forms)}{brackets[1]}"
    return f"{{{','.join(sorted(forms))}}}"
