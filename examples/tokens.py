"""A report section of your own: how long right and wrong answers are.

factory report recipe.yaml --plugin examples/tokens.py
"""

from collections.abc import Sequence

from factory.plugins import Build, EvalSample, Section, Table, Text, section

HEADER = ("checkpoint", "tokens of right answers", "tokens of wrong answers")


@section("tokens", after="scorecard")
def tokens(build: Build) -> Section | None:
    """Mean tokens by outcome; None where no checkpoint is evaluated."""
    rows = []
    for evaluation in build.evaluations:
        samples = build.samples(evaluation)
        right = [sample for sample in samples if sample.trace.verdict.is_correct]
        wrong = [sample for sample in samples if not sample.trace.verdict.is_correct]
        rows.append((evaluation.label, mean(right), mean(wrong)))
    if not rows:
        return None
    intro = Text("Mean length of a completion. A text that is cut off counts as wrong.")
    return Section("Length by outcome", (intro, Table(HEADER, tuple(rows))))


def mean(samples: Sequence[EvalSample]) -> float | None:
    """None, an empty cell, where there are no samples."""
    return sum(sample.trace.completion_tokens for sample in samples) / max(1, len(samples)) or None
