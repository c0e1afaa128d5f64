"""What a watch measures, what that takes, and what a report shows of it."""

import json
import math
from collections.abc import Sequence

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import Block, Table, Text
from factory.core.jsonl import read_records
from factory.core.readable import count, figure, percent, span
from factory.core.records import Problem
from factory.cost.context import CostContext, Model
from factory.stages.chosen import chosen_problems
from factory.stages.sft.config import SftConfig


def watched_problems(config: SftConfig, inputs: Inputs) -> list[Problem]:
    """The problems that are measured during the run."""
    if config.watch is None:
        return []
    from factory.trainers.watch import spread

    file = inputs["watch.problems"].file("held_out.jsonl")
    return spread(chosen_problems(file, config.watch.sources), config.watch.limit)


def watch_seconds(config: SftConfig, cost: CostContext, model: Model, steps: int) -> float:
    """Of measuring the watched problems."""
    watch = config.watch
    if watch is None:
        return 0.0
    problems, question = cost.read("watch.problems").count_and_length(
        "held_out", watch.sources, watch.limit
    )
    completion, _ = cost.expected(watch.max_new_tokens)
    load = cost.decode_load(
        model, config.prompt, question=question, prompts=problems, rows=problems * watch.samples,
        completion=completion, limit=watch.max_new_tokens,
    )  # fmt: skip
    return math.ceil(steps / watch.every) * cost.draw_seconds(model, load)


def shown(artifact: Artifact) -> Sequence[Block]:
    """The measurements of the watch, and whose weights were given back."""
    # Not before: its statistics load numpy.
    from factory.evaluation.measured import WatchRow

    if "watch.jsonl" not in artifact.manifest.files:
        return []
    choice = json.loads(artifact.file("chosen.json").read_text(encoding="utf-8"))
    rows = tuple(
        (
            count(row.step) + (" (given back)" if row.step == choice["step"] else ""),
            f"{row.n} x {row.samples}",
            percent(row.accuracy),
            span(row.low, row.high),
            figure(round(row.completion_length, 1)),
        )
        for row in read_records(artifact.file("watch.jsonl"), WatchRow)
    )
    name = artifact.manifest.name
    return [
        Text(f"{name}, measured during the run: {choice['reason']}."),
        Table(("updates", "problems", "right", "95 %", "tokens"), rows, numbers=(2, 3, 4)),
    ]
