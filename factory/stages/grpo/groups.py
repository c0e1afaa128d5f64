"""What a rollout is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from factory.sampling.sampler import Completion, Request
from factory.stages.grpo.graded import Graded


@dataclass(frozen=True)
class SampledGroup:
    """One question's samples, and what they are worth once they are graded."""

    problem: int
    requests: Sequence[Request]
    completions: Sequence[Completion]
    graded: Sequence[Graded] = ()


@dataclass(frozen=True)
class GradedRow:
    """One completion of a rollout."""

    problem: int
    request: Request
    completion: Completion
    graded: Graded
    total: float | None


def with_graded(groups: Sequence[SampledGroup], graded: Sequence[Graded]) -> list[SampledGroup]:
    """The groups with what there is to say of their completions, in order."""
    each = iter(graded)
    return [replace(g, graded=[next(each) for _ in g.completions]) for g in groups]
