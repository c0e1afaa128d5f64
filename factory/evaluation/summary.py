"""A scores artifact read again: error bars, curves over k, and traps, from its stored samples."""

from collections import Counter
from collections.abc import Sequence

from factory.core.artifacts import Artifact
from factory.core.jsonl import read_records
from factory.core.records import EvalSample, Mode, Record, SamplingConfig, Verdict
from factory.core.seeds import derive
from factory.evaluation.statistics import (
    Errors,
    Interval,
    clusters,
    consensus_at,
    mean_interval,
    pass_at_k,
    score_errors,
)
from factory.grading.votes import vote
from factory.text.chat import GRAMMAR

TRAP_SHARE = 0.05
"""Lenient grading must find at least this share right before an all-zero strict score is a trap."""
CURVE_DRAWS = 200
"""Subsets of samples a problem behind a point of cons@k, where they are too many to count."""

Answers = dict[str, list[EvalSample]]
"""Samples by problem id, in the file's order."""
ByMode = dict[tuple[str, Mode], Answers]
"""By (benchmark, mode)."""


class Point(Record):
    """pass@k and cons@k at one k, means over problems."""

    k: int
    pass_at: float
    cons_at: float


class Summary(Record):
    """One benchmark in one mode."""

    benchmark: str
    mode: str
    n: int
    k: int
    """The smallest number of samples a problem."""
    sampling: SamplingConfig
    strict: Interval
    lenient: Interval
    errors: Errors
    curve: tuple[Point, ...]
    """At k = 1, 2, 4, ... and at k itself; empty with one sample a problem."""
    trap: str
    """Why a strict score of zero is no score; empty where it is one."""


def read_answers(artifact: Artifact) -> ByMode:
    """The graded samples of a scores artifact, in the file's order."""
    answers: ByMode = {}
    for sample in read_records(artifact.file("samples.jsonl"), EvalSample):
        problems = answers.setdefault((sample.benchmark, sample.mode), {})
        problems.setdefault(sample.trace.problem_id, []).append(sample)
    return answers


def common_samples(a: Answers, b: Answers) -> tuple[Answers, Answers, int]:
    """The first k samples of every problem on both sides, k the most that all of them have.

    An evaluation may have ended early by its own error bar. What it and another are compared on
    must not depend on that.
    """
    k = min(len(group) for side in (a, b) for group in side.values())
    first, second = ({name: group[:k] for name, group in side.items()} for side in (a, b))
    return first, second, k


def summaries(artifact: Artifact) -> list[Summary]:
    """One for each benchmark and mode, in the file's order."""
    return [summary(*key, problems) for key, problems in read_answers(artifact).items()]


def summary(benchmark: str, mode: str, problems: Answers) -> Summary:
    """The summary of one benchmark's samples in one mode."""
    groups = list(problems.values())
    alike = clusters(list(problems))
    k = min(map(len, groups))
    right = [sum(sample.trace.verdict.is_correct for sample in group) for group in groups]
    lenient = [sum(sample.lenient.is_correct for sample in group) for group in groups]
    sizes = [len(group) for group in groups]
    strict, loose = (
        mean_interval(
            [c / size for c, size in zip(counts, sizes, strict=True)], samples=k, groups=alike
        )
        for counts in (right, lenient)
    )
    return Summary(
        benchmark=benchmark,
        mode=mode,
        n=len(groups),
        k=k,
        sampling=groups[0][0].trace.sampling,
        strict=strict,
        lenient=loose,
        errors=score_errors(right, sizes, groups=alike),
        curve=tuple(_point(problems, j) for j in _steps(k)) if k > 1 else (),
        trap=trap([sample for group in groups for sample in group]),
    )


def _steps(k: int) -> list[int]:
    doublings = [2**power for power in range(k.bit_length()) if 2**power < k]
    return [*doublings, k]


def _point(problems: Answers, k: int) -> Point:
    groups = problems.items()
    passed = [pass_at_k(len(g), sum(s.trace.verdict.is_correct for s in g), k=k) for _, g in groups]
    agreed = [
        consensus_at(
            votes([s.trace.verdict for s in g]), [s.trace.verdict.is_correct for s in g],
            k=k, seed=derive(0, "consensus", name, k), draws=CURVE_DRAWS,
        )
        for name, g in groups
    ]  # fmt: skip
    return Point(k=k, pass_at=sum(passed) / len(passed), cons_at=sum(agreed) / len(agreed))


def votes(verdicts: Sequence[Verdict]) -> list[str | None]:
    """What each sample votes for; only a finished, well-formed answer has a vote."""
    return [vote(verdict) for verdict in verdicts]


def trap(samples: Sequence[EvalSample]) -> str:
    """Why nothing is right strictly while much is right leniently; empty where that is not so.

    Such a zero measures the protocol, not the model: its tags were asked for twice, or never; or
    the answers were not over where they were cut.
    """
    if any(sample.trace.verdict.is_correct for sample in samples):
        return ""
    lenient = sum(sample.lenient.is_correct for sample in samples)
    if lenient < max(2, TRAP_SHARE * len(samples)):
        return ""
    reasons = Counter(sample.trace.verdict.explanation for sample in samples)
    reason, count = reasons.most_common(1)[0]
    cut = _cut(samples)
    text = (
        f"no answer of {len(samples)} is right by strict grading, {lenient} are by lenient grading "
        f"of the same texts: this zero measures {'the length limit' if cut else 'the protocol'}, "
        f"not the model. Most often ({count} times) strict grading says: {reason}. "
        f"{cut or _cause(samples)}"
    )
    return text.strip()


def _cut(samples: Sequence[EvalSample]) -> str:
    """Where most answers ran into the limit: how many, and what to do; else empty."""
    cut = [sample.trace for sample in samples if sample.trace.finish_reason == "length"]
    if 2 * len(cut) <= len(samples):
        return ""
    limit = max(trace.sampling.max_new_tokens for trace in cut)
    text = f"{len(cut)} of {len(samples)} answers ran into the limit of {limit} tokens"
    if 2 * sum(GRAMMAR[-1] in trace.completion for trace in cut) > len(cut):
        return (
            f"{text}, most of them after {GRAMMAR[-1]}: the model does not stop at any token that "
            "its folder names as an end (eos_token_id in generation_config.json, else in "
            "config.json, and the tokenizer's eos_token). Name the token there that it writes "
            "after an answer, or train it to stop."
        )
    return f"{text}: raise max_new_tokens, or train it to stop."


def _cause(samples: Sequence[EvalSample]) -> str:
    """What in the prompts and completions explains it, of the causes that are known.

    Nothing where most answers were well-formed, so that their form is not what fails.
    """
    outcomes = [sample.trace.verdict.outcome for sample in samples]
    if 2 * outcomes.count("no_answer") <= len(samples):
        return ""
    opening, closing = GRAMMAR[:2]
    prompts = [sample.trace.prompt.rstrip() for sample in samples]
    texts = [sample.trace.completion for sample in samples]
    most = len(samples) / 2
    is_opened = sum(prompt.endswith(opening) for prompt in prompts) > most
    is_closed = sum(closing in text for text in texts) > most
    if is_opened and sum(opening in text for text in texts) > most:
        return f"The prompts open {opening} already and the answers open it again."
    if is_closed and sum("<answer>" in text for text in texts) <= most:
        return (
            "The answers close their thoughts and use no answer tags, as R1's released models do: "
            f"set prompt.form to the marks {opening} and {closing}"
            + (f", and prompt.prefill to {opening}." if is_opened else ".")
        )
    if is_opened and is_closed:
        return f"The prompts open {opening} themselves: set prompt.prefill to {opening}."
    if not any(tag in text for text in texts for tag in GRAMMAR):
        return "No answer holds any tag: ask for them (style few_shot, reflect or zero)."
    return ""
