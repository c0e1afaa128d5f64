"""The built-in rewards, registered as a user's are."""

from factory.rewards.language import language_consistency
from factory.rewards.reward import REWARDS, GradedCompletion, Reward, reward
from factory.rewards.text import repetition as repeated_share

OVERLONG_SHARE = 0.2
"""Part of the length limit over which the overlong penalty rises: DAPO's 4,096 of 20,480 tokens."""


@reward("accuracy", version=1, bounds=(0.0, 1.0))
def accuracy(completion: GradedCompletion) -> float | None:
    """1 if the verdict is correct and the response well-formed, else 0; None for an open problem.

    The second condition matters where the verdict was lenient.
    """
    if completion.problem.kind == "open":
        return None
    return float(completion.verdict.is_correct and completion.is_well_formed)


@reward("format", version=1, bounds=(0.0, 1.0))
def well_formed(completion: GradedCompletion) -> float:
    """1 if the response is well-formed, else 0: all tags or nothing, so that no single tag is
    worth writing."""
    return float(completion.is_well_formed)


@reward("language", version=1, bounds=(0.0, 1.0))
def language(completion: GradedCompletion) -> float:
    """Share of target-language words in the thoughts; 0 if the response opens none, else dropping
    the tags would pay."""
    thoughts = completion.reasoning
    return 0.0 if thoughts is None else language_consistency(thoughts, completion.language)


@reward("overlong", version=1, bounds=(-1.0, 0.0))
def overlong(completion: GradedCompletion) -> float:
    """DAPO's soft penalty of long completions (arXiv 2503.14476, eq. 13)."""
    return overlong_penalty(completion.tokens, completion.limit)


def overlong_penalty(tokens: int, limit: int) -> float:
    """0 up to limit - cache, then falling evenly to -1 at the limit, with cache = 0.2 * limit."""
    cache = OVERLONG_SHARE * limit
    return min(0.0, max(-1.0, (limit - cache - tokens) / cache))


@reward("repetition", version=1, bounds=(-1.0, 0.0))
def repetition(completion: GradedCompletion) -> float:
    """Minus the share of repeated word 4-grams of the completion."""
    return 0.0 - repeated_share(completion.completion)


# Given by a reward model that the recipe names, of answers to general prompts alone.
BOUNDS = (float("-inf"), float("inf"))
REWARDS.register("helpful", Reward(None, None, BOUNDS, learns_from="pairs"), version=1)
REWARDS.register("safety", Reward(None, None, BOUNDS, learns_from="labels"), version=1)
# Given by a judge model that is asked about answers to general prompts.
REWARDS.register("judge", Reward(None, None, (0.0, 1.0), is_judged=True), version=1)
