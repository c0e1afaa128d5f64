"""The door of rewards: a function of one graded completion, by name.

@reward("few_words", version=1, settings=Words, bounds=(-1.0, 0.0))
def few_words(completion: GradedCompletion, settings: Words) -> float | None: ...
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import JsonValue

from factory.core.errors import EngineError
from factory.core.records import Problem, Record, Verdict
from factory.core.registry import Door
from factory.text.chat import Response


class GradedCompletion(Record):
    """What a reward may look at."""

    problem: Problem
    verdict: Verdict
    completion: str
    """The text as the engine returned it, without the prompt's prefill."""
    reasoning: str | None
    """The thoughts; None if the text opens none."""
    answer: str | None
    """What was graded; None unless the text is well-formed."""
    is_well_formed: bool
    tokens: int
    limit: int
    """Tokens that a completion of this update may have."""
    language: str
    """What the stage wants the thoughts to be written in."""

    @classmethod
    def of(
        cls, problem: Problem, verdict: Verdict, response: Response, completion: str, *,
        tokens: int, limit: int, language: str = "en",
    ) -> "GradedCompletion":  # fmt: skip
        """A completion with its parts."""
        return cls(
            problem=problem, verdict=verdict, completion=completion, reasoning=response.reasoning,
            answer=response.answer, is_well_formed=response.is_well_formed, tokens=tokens,
            limit=limit, language=language,
        )  # fmt: skip


Function = Callable[..., float | None]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class Reward:
    """A reward: of a function, of a reward model that learned from `learns_from`, or of a judge."""

    function: Function | None
    """Gives a finite number within `bounds`, or None where it does not apply."""
    settings: type[Record] | None
    """What a recipe may set under `settings`; the function's second argument."""
    bounds: tuple[float, float]
    learns_from: Literal["pairs", "labels"] | None = None
    is_judged: bool = False
    """A model is asked, by the settings `judge` of the component."""


REWARDS: Door[Reward] = Door("rewards", "reward", ["factory.rewards.rules"])


def reward(
    name: str,
    *,
    version: int,
    settings: type[Record] | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Callable[[F], F]:
    """Register a function as a reward; raise `version` when it should give other values.

    What it returns outside `bounds`, or not finite, stops the stage that uses it.
    """

    def registered(function: F) -> F:
        REWARDS.register(name, Reward(function, settings, bounds), version=version)
        return function

    return registered


def settings_of(name: str, given: dict[str, JsonValue]) -> Record | None:
    """A reward's settings from a recipe's; ValueError where they are not its."""
    record = REWARDS[name].settings
    if record is None:
        if given:
            raise ValueError(f"settings: reward {name} takes none")
        return None
    return record.model_validate(given, strict=False)


def component(name: str, completion: GradedCompletion, settings: Record | None) -> float | None:
    """What a reward gives a completion; EngineError, naming reward and problem, where it fails."""
    row = REWARDS.row(name)
    function, (low, high) = row.value.function, row.value.bounds
    assert function is not None, f"{name} is given by a model"
    arguments = (completion,) if settings is None else (completion, settings)
    where = f"reward {name} of {row.origin}, problem {completion.problem.id}"
    try:
        value: Any = function(*arguments)
    # A user's function may raise anything; taking it for 0 would train on it.
    except Exception as error:
        raise EngineError(f"{where}: {type(error).__name__}: {error}") from error
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EngineError(f"{where}: gave {value!r}, a finite number or None is wanted")
    if not low <= value <= high:
        raise EngineError(f"{where}: gave {value!r}, outside its bounds {low:g} to {high:g}")
    return float(value)
