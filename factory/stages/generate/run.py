"""Stage `generate`: a model answers problems, n samples each; every completion is graded."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from factory.core.artifacts import Inputs
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.records import Problem
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import KEPT_SHARE, Answers, Questions
from factory.cost.work import drawing_work
from factory.grading import GRADING_PACKAGES, GradingPool
from factory.sampling import Sampler, open_sampler
from factory.stages.chosen import read_chosen, sources_cut_off
from factory.stages.generate.blocks import write_traces
from factory.stages.generate.config import GenerateConfig
from factory.stages.generate.streaming import stream_traces
from factory.stages.generate.writer import Writer, token_ids
from factory.stages.small import SAMPLES, TOKENS, TRAIN, small_sampling
from factory.stages.stage import Fields, register, sampling_stage
from factory.text.chat import PromptConfig, render
from factory.text.templates import open_tokenizer


def run(config: GenerateConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write traces.jsonl, sorted by (problem, sample).

    Memory does not grow with the number of traces, but for eight bytes each: problems are read as
    they are asked (all ids once before, to find doubles), traces are written as they are drawn.
    """
    path = inputs["problems"].file(f"{config.split}.jsonl")
    model = inputs["model"]
    tokenizer = open_tokenizer(model.path)
    read = partial(read_chosen, path, config.sources, config.limit)
    count, longest = _measure(read(), config.prompt, tokenizer)
    if not count:
        raise DataError(f"{path}: no problem of sources {list(config.sources) or 'any'}")
    for source in sources_cut_off(path, config.sources, config.limit):
        context.note(f"limit {config.limit} ends before the first problem of {source}")
    with ExitStack() as stack:

        def opened() -> Sampler:
            sampler = open_sampler(
                model.path,
                context.machine,
                max_length=longest + config.longest,
                on_cluster=True,
                notify=context.note,
                scratch=context.scratch,
                figures=context.figures,
            )
            stack.callback(sampler.close)
            return sampler

        pool = stack.enter_context(GradingPool(is_isolated=not context.machine.unsandboxed))
        writer = Writer(config, model.fingerprint, tokenizer, opened, pool, context.seed)
        if context.machine.draws_full:
            return stream_traces(writer, read, count=count, out=out, context=context)
        return write_traces(writer, read(), count=count, out=out, context=context)


def _measure(problems: Iterator[Problem], prompt: PromptConfig, tokenizer: Any) -> tuple[int, int]:
    """(number of problems, tokens of the longest prompt); DataError if two have one id."""
    seen: set[str] = set()
    longest = 0
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"two problems have the id {problem.id!r}")
        seen.add(problem.id)
        ids = token_ids(render(problem.prompt, prompt, tokenizer), tokenizer)
        longest = max(longest, len(ids))
    return len(seen), longest


def estimate(config: GenerateConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    model = cost.model()
    supply: Questions = cost.read("problems")
    problems, question = supply.count_and_length(config.split, config.sources, config.limit)
    limit = config.sampling.max_new_tokens
    completion, is_assumed = cost.expected(limit)
    samples = float(config.samples)
    if config.enough is not None:
        samples = min(samples, config.enough / KEPT_SHARE)
    rows = problems * samples
    load = cost.decode_load(
        model, config.prompt, question=question, prompts=problems, rows=rows,
        completion=completion, limit=limit,
    )  # fmt: skip
    taken = drawing_work(cost, model, load, is_assumed=is_assumed)
    return taken, Answers(rows, problems, question, completion)


def small(fields: Fields) -> Fields:
    stops, samples = fields["length_stops"], min(fields["samples"], SAMPLES)
    hopeless_after = fields["hopeless_after"] and min(fields["hopeless_after"], samples - 1)
    return {
        **fields,
        "sources": [],
        "limit": min(fields["limit"] or TRAIN, TRAIN // 2),
        "samples": samples,
        "hopeless_after": hopeless_after or None,
        "enough": fields["enough"] and min(fields["enough"], SAMPLES),
        "length_stops": stops if isinstance(stops, str) else {"retry": 2 * TOKENS},
        "sampling": small_sampling(fields["sampling"]),
    }


STAGE = register(
    sampling_stage(
        GenerateConfig,
        produces="traces",
        version=3,
        run=run,
        packages=("torch", "transformers", *GRADING_PACKAGES),
        estimate=estimate,
        small=small,
    )
)
