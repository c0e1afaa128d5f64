"""Asking a judge: every item several times, in blocks that survive a kill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from factory.core.artifacts import Artifact
from factory.core.context import Context
from factory.core.records import SamplingConfig
from factory.core.seeds import derive
from factory.preferences.judge import Order, Vote, judge_prompt, orders, read_verdict
from factory.sampling import Request
from factory.sampling.blocks import ask_model, telling
from factory.text.templates import open_tokenizer


@dataclass(frozen=True)
class Item:
    """What is to be judged: a prompt with one response, or with two of which one is called chosen
    until the judge has spoken."""

    source: str
    prompt: str
    responses: tuple[str, ...]


def ask(
    items: Sequence[Item],
    *,
    judge: Artifact,
    form: str,
    verdicts: Mapping[str, int],
    votes: int,
    sampling: SamplingConfig,
    context: Context,
) -> dict[str, list[Vote]]:
    """All votes by item, in order; the same to the byte after a kill."""
    tokenizer = open_tokenizer(judge.path)
    keyed: list[tuple[str, Request]] = []
    questions: list[tuple[Item, int, Order, str]] = []
    for item in items:
        shown = orders(votes, context.seed, item.source) if len(item.responses) > 1 else None
        for number in range(votes):
            order: Order = shown[number] if shown else "chosen first"
            responses = item.responses if order == "chosen first" else item.responses[::-1]
            text, ids = judge_prompt(
                form, (item.prompt, *responses), tokenizer, seed=derive(context.seed, number)
            )
            questions.append((item, number, order, text))
            seed = derive(context.seed, "judge", item.source, number)
            keyed.append((f"{item.source}#{number}", Request(ids, seed)))
    if not keyed:
        return {}
    replies = ask_model(
        judge.path,
        keyed,
        sampling,
        segment="votes.jsonl",
        on_block=telling(context, len(keyed), unit="votes"),
        context=context,
    )
    votes_of: dict[str, list[Vote]] = {item.source: [] for item in items}
    for (item, number, order, text), reply in zip(questions, replies, strict=True):
        value = read_verdict(reply.text, verdicts)
        votes_of[item.source].append(
            Vote(
                item=item.source, number=number, order=order, prompt=text, reply=reply.text,
                value=value,
            )
        )  # fmt: skip
    return votes_of
