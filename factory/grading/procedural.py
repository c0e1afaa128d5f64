"""Reasoning-gym's own scorers, asked again without regenerating, and made strict.

A score counts as correct only at 1 (many scorers pay 0.01 for any text and partial credit for
near misses). Some scorers would evaluate the model's text as Python, or take wrong answers;
those are listed here with what we ask in addition.
"""

import ast
import json
import operator
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import Any

from factory.core.errors import DataError
from factory.core.records import Problem, Verdict
from factory.grading.entries import decode

FULL_SCORE = 1.0 - 1e-9

EVALUATING = ("binary_matrix", "n_queens", "number_sorting", "spiral_matrix", "string_insertion")
"""Families whose scorers call eval() on text, to give partial credit. In their modules the name
eval is made to mean literal_eval, which reads lists and numbers but runs nothing."""


def grade_procedural(problem: Problem, answer: str) -> Verdict:
    """Correct iff the family's scorer gives the full score and our stricter check agrees.

    DataError if the stored entry or its family cannot be used.
    """
    family, config, entry = _stored(problem)
    stricter = STRICTER.get(family)
    if stricter is not None and not stricter(answer, entry):
        return Verdict(outcome="wrong", answer=answer, explanation=f"refused for {family}")
    dataset = _dataset(family, json.dumps(config, sort_keys=True))
    try:
        score = float(dataset.score_answer(answer, entry))
    # Third-party scorers raise anything on odd text; that is the text's fault only if the same
    # scorer accepts the reference.
    except Exception as error:
        reason = f"{family}'s scorer raised {type(error).__name__}"
        if not _accepts_reference(dataset, entry):
            raise DataError(f"problem {problem.id}: {reason}") from error
        return Verdict(outcome="wrong", answer=answer, explanation=f"{reason} on this text")
    outcome = "correct" if score >= FULL_SCORE else "wrong"
    return Verdict(outcome=outcome, answer=answer, explanation=f"{family} scores {score:.4g}")


def prepare(problem: Problem) -> None:
    """Make the family's dataset, which may take longer than a verdict may; faults come later."""
    with suppress(DataError):
        family, config, _ = _stored(problem)
        _dataset(family, json.dumps(config, sort_keys=True))


def _stored(problem: Problem) -> tuple[str, dict[str, Any], dict[str, Any]]:
    try:
        family, config = problem.data["family"], problem.data["config"]
        entry = decode(problem.data["entry"])
        if not isinstance(family, str) or not isinstance(config, dict):
            raise TypeError("family must be text and config an object")
        if "answer" not in entry or "metadata" not in entry:
            raise KeyError("answer or metadata")
        entry["question"] = problem.prompt
    except (KeyError, TypeError) as error:
        raise DataError(f"problem {problem.id}: no usable reasoning-gym entry: {error}") from error
    return family, decode(config), entry


def _accepts_reference(dataset: Any, entry: dict[str, Any]) -> bool:
    try:
        return float(dataset.score_answer(entry["answer"], entry)) >= FULL_SCORE
    except Exception:  # A scorer that fails on its own reference is broken, whatever it raises.
        return False


@lru_cache(maxsize=64)
def _dataset(family: str, config: str) -> Any:
    from reasoning_gym.factory import DATASETS, create_dataset

    if family not in DATASETS:
        raise DataError(f"reasoning-gym has no family {family!r}")
    try:
        dataset = create_dataset(family, **json.loads(config))
    except (TypeError, ValueError, AssertionError) as error:
        raise DataError(f"reasoning-gym family {family}: its stored config: {error}") from error
    if family in EVALUATING:
        vars(sys.modules[type(dataset).__module__])["eval"] = ast.literal_eval
    return dataset


def exact_arithmetic(text: str) -> Fraction | None:
    """The exact value of an expression of integers, + - * / and brackets; None for all else."""
    if len(text) > 200 or not re.fullmatch(r"[\d\s+\-*/()]+", text):
        return None
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not arithmetic")


def _reaches(answer: str, numbers: list[int], target: int) -> bool:
    used = sorted(int(digits) for digits in re.findall(r"\d{1,20}", answer))
    return used == sorted(numbers) and exact_arithmetic(answer) == target


def _is_countdown(answer: str, entry: Mapping[str, Any]) -> bool:
    """Their comparison has a relative tolerance of 1e-5."""
    metadata = entry["metadata"]
    return _reaches(answer, list(metadata["numbers"]), metadata["target"])


def _is_puzzle24(answer: str, entry: Mapping[str, Any]) -> bool:
    """Their scorer takes any four numbers of the range and cuts 24.5 to 24."""
    return _reaches(answer, list(entry["metadata"]["numbers"]), 24)


def _is_same_list(answer: str, entry: Mapping[str, Any]) -> bool:
    """Their scorer takes numbers that are off by up to 1."""
    try:
        given = json.loads(answer.replace("'", '"'))
        right = [Fraction(number) for number in json.loads(entry["answer"].replace("'", '"'))]
        return [Fraction(number) for number in given] == right
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, RecursionError):
        return False


_NAMES = "sin cos tan sec csc cot sinh cosh tanh asin acos atan exp log ln sqrt Abs pi"
_FORMULA = re.compile(
    r"(?:\d{1,30}(?:\.\d{1,30})?|(?:" + "|".join(_NAMES.split()) + r")\b|[A-Za-z](?![A-Za-z_\d])"
    r"|[-+*/^()\s])+"
)
_COSTLY = re.compile(r"\*\*\s*\(*\s*-?\d{4,}|\*\*\s*\(*\s*-?\w+\s*\)*\s*\*\*")


def _is_formula(answer: str, entry: Mapping[str, Any]) -> bool:
    """Their scorers hand the text to sympy's parse_expr, which evaluates Python."""
    return bool(len(answer) <= 2000 and _FORMULA.fullmatch(answer)) and not _COSTLY.search(answer)


STRICTER: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "countdown": _is_countdown,
    "puzzle24": _is_puzzle24,
    "number_sorting": _is_same_list,
    "simple_integration": _is_formula,
    "intermediate_integration": _is_formula,
    "polynomial_multiplication": _is_formula,
}
