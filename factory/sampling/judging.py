"""A judge model is asked about answers: requests, replies, votes, and its agreement with rules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.blocks import Table
from factory.core.context import Context, Metrics
from factory.core.readable import count
from factory.core.records import FinishReason, Problem, Record, Verdict
from factory.core.seeds import derive
from factory.grading.judge import (
    Criterion,
    Judgement,
    JudgeSettings,
    judge_request,
    judged,
    judged_value,
    read_reply,
    rubric_of,
)
from factory.sampling.blocks import ask_model, telling
from factory.sampling.sampler import Completion, Request
from factory.text.chat import render, with_stops
from factory.text.templates import open_tokenizer

RULED_KINDS = ("exact", "choice", "math", "procedural")
"""Kinds that a rule decides and that have a reference, by which a judge can decide them too."""


class Vote(Record):
    """One reply of the judge, kept beside what was judged."""

    problem_id: str
    sample: int
    vote: int
    prompt: str
    """The exact text the judge was given."""
    reply: str
    """The exact text it returned."""
    finish_reason: FinishReason
    seed: int
    judgement: Judgement | None
    """None: the reply decides nothing."""


@dataclass(frozen=True)
class Item:
    """One answer to be judged."""

    key: str
    """Unique within a call."""
    problem: Problem
    sample: int
    answer: str
    seeded_by: tuple[Any, ...]
    """With the stage's seed and the number of a vote, the seed of the reply."""


@dataclass(frozen=True)
class Opinion:
    """What the votes on one answer come to."""

    votes: Sequence[Vote]
    rubric: Sequence[Criterion]
    verdict: Verdict

    @property
    def value(self) -> float | None:
        """As a reward, 0 to 1; None where the judge is undecided."""
        return judged_value([vote.judgement for vote in self.votes], self.rubric)


Ask = Callable[[Sequence[tuple[str, Request]]], Sequence[Completion]]
"""Completions of keyed requests, in order."""


def opinions(
    items: Sequence[Item], settings: JudgeSettings, *, tokenizer: Any, ask: Ask, seed: int
) -> list[Opinion]:
    """The judge's opinion of each answer, in order, by `settings.votes` replies to each.

    DataError where a problem has neither a reference nor a rubric.
    """
    controls = tokenizer.all_special_tokens
    rubrics = [rubric_of(item.problem, settings) for item in items]
    prompts, keyed = [], []
    for item, rubric in zip(items, rubrics, strict=True):
        request = judge_request(item.problem, item.answer, rubric=rubric, control_texts=controls)
        prompt = render(request, settings.prompt, tokenizer)
        ids = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        prompts.append(prompt)
        keyed += [
            (f"{item.key}/{vote}", Request(ids, derive(seed, *item.seeded_by, vote)))
            for vote in range(settings.votes)
        ]
    replies = iter(zip(keyed, ask(keyed) if keyed else [], strict=True))
    result = []
    for item, rubric, prompt in zip(items, rubrics, prompts, strict=True):
        votes = []
        for vote in range(settings.votes):
            (_, request), reply = next(replies)
            is_whole = reply.finish_reason == "stop"
            judgement = read_reply(reply.text, rubric, settings.passes_at) if is_whole else None
            votes.append(
                Vote(
                    problem_id=item.problem.id, sample=item.sample, vote=vote, prompt=prompt,
                    reply=reply.text, finish_reason=reply.finish_reason, seed=request.seed,
                    judgement=judgement,
                )
            )  # fmt: skip
        verdict = judged(item.answer, [vote.judgement for vote in votes])
        result.append(Opinion(votes, rubric, verdict))
    return result


def ask_judge(
    items: Sequence[Item], settings: JudgeSettings, *, model: Path, context: Context
) -> list[Opinion]:
    """`opinions` by an engine that lives for this call; replies stay in the stage's scratch."""
    if not items:
        return []
    tokenizer = open_tokenizer(model)

    def ask(keyed: Sequence[tuple[str, Request]]) -> list[Completion]:
        return ask_model(
            model,
            keyed,
            with_stops(settings.sampling, settings.prompt),
            segment="replies.jsonl",
            on_block=telling(context, len(keyed), unit="replies"),
            context=context,
        )

    return opinions(items, settings, tokenizer=tokenizer, ask=ask, seed=context.seed)


def spread(positions: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly over all."""
    if len(positions) <= most:
        return list(positions)
    return [positions[number * len(positions) // most] for number in range(most)]


def is_ruled(problem: Problem, verdict: Verdict) -> bool:
    """Whether a rule has decided an answer that a judge could decide too."""
    has_reference = problem.kind in RULED_KINDS and bool(problem.reference.strip())
    return has_reference and verdict.answer is not None and verdict.outcome in ("correct", "wrong")


def agreement(pairs: Sequence[tuple[Verdict, Verdict]]) -> Metrics:
    """(a rule's verdict, the judge's) as counts: `rule_correct.judge_wrong` and so on."""
    counts: Metrics = {}
    for rule, judge in pairs:
        name = f"rule_{rule.outcome}.judge_{judge.outcome}"
        counts[name] = counts.get(name, 0.0) + 1
    return counts


def agreement_table(stage: str, metrics: Metrics) -> Table | None:
    """How often judge and rules agree, by a stage's metrics; None where nothing was compared."""
    rows = []
    for rule, judge in (("correct", "wrong"), ("wrong", "correct")):
        same, other, undecided = (
            metrics.get(f"rule_{rule}.judge_{outcome}", 0.0)
            for outcome in (rule, judge, "ungradable")
        )
        judged_answers = same + other + undecided
        if judged_answers:
            share = f"{100 * same / judged_answers:.1f} %"
            rows.append(
                (stage, f"{rule} by the rules", *map(count, (judged_answers, same, other)),
                 count(undecided), share)
            )  # fmt: skip
    header = ("stage", "answers", "n", "judge agrees", "disagrees", "undecided", "agreement")
    return Table(header, tuple(rows), label="Judge and rules") if rows else None
