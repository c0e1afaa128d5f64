"""What an answer votes for: equal answers vote together, however they are written."""

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
from factory.records import Verdict

MAX_READ = 400
"""Characters; a longer answer, or one of several lines, is its own text."""


def vote(verdict: Verdict) -> str | None:
    """What a graded answer votes for; None without a finished, well-formed answer."""
    if verdict.answer is None or verdict.outcome not in ("correct", "wrong"):
        return None
    if verdict.explanation.startswith(CHOSE):
        return verdict.explanation.removeprefix(CHOSE)
    return canonical(verdict.answer)


def canonical(answer: str) -> str:
    """One text for all answers that the maths grader takes for one value, as far as it is plain.

    A number is its fraction, a list its elements (sorted where order does not matter), an interval
    the one with brackets, words are folded; anything else is its text without dress and spaces.
    Nothing is evaluated: sqrt(4) and 2 stay two answers.
    """
    text = " ".join(answer.split())
    if len(text) > MAX_READ or "\n" in answer.strip():
        return text
    return _form(undress(text))


def _form(text: str) -> str:
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
        return f"({','.join(_form(named[name]) for name in sorted(named))})"
    name, value = without_name(text)
    if name:
        return _form(value)
    listed = elements(interval(without_signs(text)))
    if listed is None or not 1 < len(listed[1]) <= MAX_PARTS:
        return tight(text)
    brackets, items = listed
    forms = [_form(item) for item in items]
    if brackets[:1] in ("(", "["):
        return f"{brackets[0]}{','.join(forms)}{brackets[1]}"
    return f"{{{','.join(sorted(forms))}}}"
