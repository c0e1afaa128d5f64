"""The texts of an on-policy distillation, planned ahead: questions to the student, and traces."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.records import Problem, Trace
from factory.core.seeds import derive
from factory.stages.distill.config import DistillConfig
from factory.text.chat import render
from factory.trainers.questions import question_order
from factory.trainers.rows import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Planned:
    """A text of the run: a question to the student, or a trace where it is written already."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...] = ()
    """Empty where the student is to write it."""


def plan_texts(
    config: DistillConfig,
    problems: Sequence[Problem],
    traces: Iterable[Trace],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    context: Context,
) -> list[Planned]:
    """Every text of the run, update by update: questions first, then traces.

    Both come in whole passes, each in an order of its own.
    """
    prompts = [render(problem.prompt, config.prompt, tokenizer) for problem in problems]
    questions = [
        Planned(tuple(ids)) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]
    ]
    rest = config.prompts - config.own
    written = _written(config, traces, tokenizer, context) if rest else []
    own = iter(question_order(len(questions), config.steps * config.own, context.seed))
    order = question_order(len(written), config.steps * rest, derive(context.seed, "traces"))
    others = iter(order)
    planned: list[Planned] = []
    for _ in range(config.steps):
        planned += [questions[next(own)] for _ in range(config.own)]
        planned += [written[next(others)] for _ in range(rest)]
    return planned


def _written(
    config: DistillConfig,
    traces: Iterable[Trace],
    tokenizer: "PreTrainedTokenizerBase",
    context: Context,
) -> list[Planned]:
    """Traces whose completion is within `max_new_tokens`; longer ones are left out, and told."""
    verbatim = config.completions == "verbatim"
    rows = tokenise(traces, config.prompt, tokenizer, verbatim=verbatim)
    kept = [row for row in rows if len(row.completion_ids) <= config.max_new_tokens]
    counted = (
        f"{len(rows) - len(kept)} of {len(rows)} traces are longer than {config.max_new_tokens}"
    )
    if not kept:
        raise DataError(f"distill: {counted} tokens: raise max_new_tokens")
    if len(kept) < len(rows):
        context.note(f"distill: {counted} tokens: they are left out")
    return [Planned(row.prompt_ids, row.completion_ids) for row in kept]
