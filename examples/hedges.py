"""A measure of your own: how much a model hedges, for the claims of a recipe.

    factory build recipe.yaml --plugin examples/hedges.py

It is named by a claim, and changes what the report says alone: no stage is made again for it.

    claims:
      - {text: RL makes it surer, measure: hedges, expect: lower, benchmark: sums,
         of: [eval_zero], against: [eval_base]}
"""

from factory.plugins import EvalSample, measure

HEDGES = {"maybe", "perhaps", "probably", "might"}


@measure("hedges", version=1, bounds=(0.0, 1.0))
def hedges(sample: EvalSample) -> float | None:
    """Share of the thoughts' words that hedge; None, left out of the mean, without thoughts."""
    words = [word.strip(".,;:!?") for word in (sample.trace.reasoning or "").lower().split()]
    return sum(word in HEDGES for word in words) / len(words) if words else None
