"""Text and Problem to Verdict. Model text never raises; a grader's own failure is `ungradable`."""

from factory.grading.grade import (
    GradeItem,
    check_ungradable,
    check_ungradable_count,
    grade,
    grade_item,
    grade_lenient,
)
from factory.grading.pool import GradingPool

GRADING_PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy", "reasoning-gym")
"""Distributions whose version can change a verdict: part of every grading stage's fingerprint."""

__all__ = [
    "GRADING_PACKAGES",
    "GradeItem",
    "GradingPool",
    "check_ungradable",
    "check_ungradable_count",
    "grade",
    "grade_item",
    "grade_lenient",
]
