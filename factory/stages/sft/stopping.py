"""Whether a fine-tuned model ends its answers by itself: looked at as soon as it is saved."""

from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.sampling import Request, open_sampler

if TYPE_CHECKING:
    from factory.trainers.stored_rows import StoredRows

ASKED = 8
"""Questions of the training rows that are asked again; ours."""
SLACK = 16
"""Tokens an answer may have beyond twice the longest of these rows' completions; ours."""
MIN_STOPPED = 0.8
"""A lower share is told to the user; the gate of `publish` asks for as much of an evaluation."""


def stopped_share(model: Path, rows: "StoredRows", machine: Machine) -> float:
    """Share of greedy answers that end by themselves, to prompts with the shortest completions.

    A model that was not taught its end token runs on whatever the length, so short rows show it at
    a bounded cost: at most ASKED answers of twice their longest completion and SLACK tokens.
    """
    first_rows = rows.shortest(ASKED)
    limit = 2 * max(len(row.completion_ids) for row in first_rows) + SLACK
    sampler = open_sampler(
        model,
        machine.model_copy(update={"engine": "transformers"}),
        max_length=max(len(row.prompt_ids) for row in first_rows) + limit,
    )
    greedy = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=limit)
    answers = sampler.sample([Request(row.prompt_ids, 0) for row in first_rows], greedy)
    sampler.close()
    return sum(answer.finish_reason == "stop" for answer in answers) / len(answers)
