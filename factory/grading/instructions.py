"""Instructions that a text follows or not, by IFEval's checkers (Zhou et al. 2023, 2311.07911).

The checkers are those that ship with lm-eval. Strict: the response as it is. Loose: also without
its first line, its last line or both, and without asterisks; each instruction may choose its own.
"""

import random
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from factory.core.errors import DataError
from factory.core.records import Problem, Verdict
from factory.install import SETUP

MAX_RESPONSE = 20_000
"""Characters, twice what any prompt asks for: some checkers take quadratic time."""
START_SECONDS = 60.0
"""The checkers are imported with a process's first response."""
PUNKT = ("llama-index-core", "llama_index/core/_static/nltk_cache")
"""Package and folder with NLTK's sentence splitter, which lm-eval would download."""


def grade_instructions(problem: Problem, response: str, *, is_loose: bool = False) -> Verdict:
    """Correct iff the response follows every instruction (IFEval's prompt level), with each.

    DataError if the problem's instructions or their arguments cannot be used.
    """
    checkers = _checkers()
    check = checkers.test_instruction_following_strict
    if is_loose:
        check = checkers.test_instruction_following_loose
    try:
        names, arguments = problem.data["instructions"], problem.data["arguments"]
        example = checkers.InputExample(0, names, problem.prompt, arguments)
        _followed(check, example, "a")
    # Third-party checkers raise anything on wrong arguments.
    except Exception as error:
        raise DataError(
            f"problem {problem.id}: its instructions cannot be checked: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        followed = _followed(check, example, response)
    # They were just seen to work, so that this is the text's fault (JSON nested too deep).
    except Exception as error:
        explanation = f"a checker raised {type(error).__name__} on this text"
        return Verdict(outcome="wrong", answer=None, explanation=explanation)
    broken = [name for name, is_followed in zip(names, followed, strict=True) if not is_followed]
    kept = f"follows {len(names) - len(broken)} of {len(names)} instructions"
    return Verdict(
        outcome="wrong" if broken else "correct",
        # No answer: what was looked at can be very long, and stands in the completion.
        answer=None,
        explanation=f"{kept}; not {', '.join(broken)}" if broken else kept,
        followed=tuple(followed),
    )


def _followed(check: Callable[..., Any], example: Any, response: str) -> list[bool]:
    """Instruction by instruction.

    lm-eval counts letters only: where a prompt asks for so many "#" or "!" (2 of 541), its checker
    counts a letter drawn at random instead; here it is the same one every time.
    """
    before = random.getstate()
    random.seed(0)
    try:
        return check(example, response).follow_instruction_list
    finally:
        random.setstate(before)


@lru_cache(maxsize=1)
def _checkers() -> Any:
    """lm-eval's module of IFEval; DataError where a part of it is missing.

    Called before anything in it may look for data: a missing splitter would be downloaded.
    """
    package, folder = PUNKT
    try:
        splitter = distribution(package).locate_file(folder)
        import langdetect
        import nltk
    except (PackageNotFoundError, ImportError) as error:
        raise DataError(f"IFEval's checkers need {error.name}: {SETUP}") from error
    nltk.data.path.insert(0, str(splitter))
    # Its guesses are drawn at random unless this is set.
    langdetect.DetectorFactory.seed = 0
    from lm_eval.tasks.ifeval import utils

    return utils
