"""What the lab's claims measure of the small world's completions."""

from factory.core.records import EvalSample
from factory.evaluation.measure import measure
from lab.vocabulary import plus_share, second_script_share
from lab.vocabulary import retries as count_retries

SHARE = (0.0, 1.0)


@measure("retries", version=1)
def retries(sample: EvalSample) -> float:
    """Of the world: how often a completion starts again."""
    return float(count_retries(sample.trace.completion))


@measure("plus_signs", version=1, bounds=SHARE)
def plus_signs(sample: EvalSample) -> float | None:
    """Of the world: share of plus signs among the signs of an answer."""
    return plus_share(sample.trace.answer or "")


@measure("second_script", version=1, bounds=SHARE)
def second_script(sample: EvalSample) -> float | None:
    """Of the world: share of the second script in a completion's marked words."""
    return second_script_share(sample.trace.completion)
