"""Does the reasoning bear its answer? Plain arithmetic steps that are false, or lead elsewhere."""

import re
from fractions import Fraction

from factory.grading.numbers import last_number, plain_number
from factory.grading.procedural import exact_arithmetic

STEP = re.compile(r"([-+*/()\d\s]{1,100}?)=\s*(-?\d{1,30})(?![\d/*(]|\s*[-+*/]\s*\d)")
"""`left = number`, the number being the whole right side."""


def has_false_step(reasoning: str) -> bool:
    """Whether an equation of plain integers in the text does not hold, e.g. `3 + 9 + 8 = 27`."""
    for left, right in STEP.findall(reasoning):
        value = exact_arithmetic(left.strip())
        if value is not None and value != Fraction(int(right)):
            return True
    return False


def equations(reasoning: str) -> set[str]:
    """The equations of plain integers in a text, without blanks: `3+9=12`."""
    return {"".join(f"{left}={right}".split()) for left, right in STEP.findall(reasoning)}


def leads_to(reasoning: str, answer: str) -> bool:
    """Whether the last number of the reasoning is the answer; true where either has no number."""
    stated, last = plain_number(answer), last_number(reasoning)
    return stated is None or last is None or plain_number(last) == stated
