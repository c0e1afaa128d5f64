"""Which problems of a benchmark overlap with what was trained on, and the score without them.

The rule is that of decontamination (`problems.overlap`): a training question that is the same, or
shares 8 words in a row; a training text that holds 13 words of a question in a row; numbers masked
too. Signs are left out, so among sums those of the same numbers overlap. Paraphrases are missed.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from factory.core.records import EvalSample, Problem, Record
from factory.evaluation.statistics import Interval, clusters, mean_interval
from factory.problems.overlap import SAME_QUESTION, HeldOut

Text = tuple[str, str]
"""A training question and what was learned as its answer; empty where nothing was."""


class Overlap(Record):
    """A benchmark's problem that overlaps with a training text."""

    problem: str
    rule: str
    stage: str
    """That holds the text. The shared words are not kept: they would repeat the question."""


def index_of(questions: Mapping[str, str]) -> HeldOut:
    """An index of a benchmark's questions by problem id."""
    return HeldOut(
        Problem(id=name, prompt=question, reference="", kind="open", source="")
        for name, question in questions.items()
    )


def overlaps(index: HeldOut, texts: Iterable[Text], stage: str) -> tuple[int, dict[str, Overlap]]:
    """How many texts there are, and each problem's overlap with them."""
    count, hits_of = 0, dict[str, Overlap]()
    for question, text in texts:
        count += 1
        for hit in chain(index.question_hits(question), index.text_hits(text)):
            earlier = hits_of.get(hit.problem)
            if earlier is None or (hit.rule == SAME_QUESTION != earlier.rule):
                hits_of[hit.problem] = Overlap(problem=hit.problem, rule=hit.rule, stage=stage)
    return count, hits_of


def merged(parts: Iterable[Mapping[str, Overlap]]) -> dict[str, Overlap]:
    """The first overlap of each problem, but "same question" before all others."""
    hits_of: dict[str, Overlap] = {}
    for overlaps_of in parts:
        for name, overlap in overlaps_of.items():
            if name not in hits_of or (overlap.rule == SAME_QUESTION != hits_of[name].rule):
                hits_of[name] = overlap
    return hits_of


def strict_interval(problems: Mapping[str, Sequence[EvalSample]]) -> Interval | None:
    """Strict pass@1 (or greedy) over these problems with its interval; None without any."""
    if not problems:
        return None
    groups = list(problems.values())
    shares = [
        sum(sample.trace.verdict.is_correct for sample in group) / len(group) for group in groups
    ]
    return mean_interval(shares, samples=min(map(len, groups)), groups=clusters(list(problems)))
