"""Stage `generate`: a model answers problems, n samples each; every completion is graded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from factory.artifacts import Inputs
from factory.chat import PromptConfig, parse_completion, render, with_stops
from factory.context import Context, Metrics
from factory.errors import DataError
from factory.grading import GRADERS, GradeItem, GradingPool, check_ungradable
from factory.jsonl import read_records, write_records
from factory.records import ModelRef, Problem, ProblemsRef, SamplingConfig, Trace, Verdict
from factory.sampling import Completion, Request
from factory.sampling.blocks import ask_model
from factory.seeds import derive
from factory.stages.stage import Stage, StageConfig


class GenerateConfig(StageConfig):
    kind: Literal["generate"]
    model: ModelRef
    problems: ProblemsRef
    split: Literal["train", "held_out"] = "train"
    sources: tuple[str, ...] = ()
    """Take only problems of these sources; empty takes all."""
    limit: int | None = Field(default=None, ge=1)
    """Take the first so many problems."""
    samples: int = Field(default=4, ge=1)
    """Completions a problem; R1 drew several and kept the correct ones (v2 B.3.3)."""
    prompt: PromptConfig = PromptConfig()
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=1.0)


def run(config: GenerateConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write traces.jsonl, sorted by (problem, sample)."""
    from transformers import AutoTokenizer

    problems = chosen_problems(
        inputs["problems"].file(f"{config.split}.jsonl"), config.sources, config.limit
    )
    model = inputs["model"]
    tokenizer = AutoTokenizer.from_pretrained(model.path, local_files_only=True)
    prompts = {p.id: render(p.prompt, config.prompt, tokenizer) for p in problems}
    keyed = _requests(problems, prompts, config.samples, tokenizer, context.seed)
    sampling = with_stops(config.sampling, config.prompt)
    owners = [problem for problem in problems for _ in range(config.samples)]
    completions, verdicts = _sample_and_grade(
        config, keyed, owners, sampling=sampling, model=model.path, context=context
    )
    # Open answers wait for the stage `judge`.
    check_ungradable([v for o, v in zip(owners, verdicts, strict=True) if o.kind != "open"])
    traces = [
        Trace(
            problem_id=owner.id,
            sample=index % config.samples,
            question=owner.prompt,
            prompt=prompts[owner.id],
            completion=completion.text,
            **_parts(completion, config.prompt),
            finish_reason=completion.finish_reason,
            completion_tokens=len(completion.token_ids),
            seed=request.seed,
            sampling=sampling,
            style=config.prompt.style,
            model=model.fingerprint,
            verdict=verdict,
        )
        for index, (owner, completion, verdict, (_, request)) in enumerate(
            zip(owners, completions, verdicts, keyed, strict=True)
        )
    ]
    write_records(out / "traces.jsonl", traces)
    return _metrics(traces)


def _sample_and_grade(
    config: GenerateConfig,
    keyed: Sequence[tuple[str, Request]],
    owners: Sequence[Problem],
    *,
    sampling: SamplingConfig,
    model: Path,
    context: Context,
) -> tuple[list[Completion], list[Verdict]]:
    """A completion and its verdict for every request; each block is graded when it is there."""
    verdicts: list[Verdict] = []
    with GradingPool(is_isolated=not context.machine.unsandboxed) as pool:

        def grade_block(start: int, block: Sequence[Completion]) -> None:
            items = [
                GradeItem.asked(owner, completion.text, completion.finish_reason, config.prompt)
                for owner, completion in zip(owners[start:], block, strict=False)
            ]
            verdicts.extend(pool.grade(items))
            share = sum(verdict.is_correct for verdict in verdicts) / len(verdicts)
            context.progress(len(verdicts), len(keyed), unit="samples", correct_share=share)

        completions = ask_model(
            model,
            keyed,
            sampling,
            segment="samples.jsonl",
            on_block=grade_block,
            context=context,
        )
    return completions, verdicts


def chosen_problems(path: Path, sources: Sequence[str], limit: int | None = None) -> list[Problem]:
    """Problems of a file, of the given sources, the first `limit`; DataError if none is left."""
    problems = [p for p in read_records(path, Problem) if not sources or p.source in sources]
    if not problems:
        raise DataError(f"{path}: no problem of sources {list(sources) or 'any'}")
    return problems[:limit]


def _requests(
    problems: Sequence[Problem],
    prompts: dict[str, str],
    samples: int,
    tokenizer: Any,
    seed: int,
) -> list[tuple[str, Request]]:
    """Keyed requests in order of (problem, sample), each with its own seed."""
    keyed = []
    for problem in problems:
        ids = tuple(tokenizer(prompts[problem.id], add_special_tokens=False)["input_ids"])
        for sample in range(samples):
            request = Request(ids, derive(seed, "generate", problem.id, sample))
            keyed.append((f"{problem.id}/{sample}", request))
    return keyed


def _parts(completion: Completion, prompt: PromptConfig) -> dict[str, str | None]:
    response = parse_completion(completion.text, completion.finish_reason, prompt)
    return {
        "reasoning": response.reasoning,
        "answer": response.answer,
        "summary": response.summary,
    }


def _metrics(traces: Sequence[Trace]) -> Metrics:
    tokens = sum(trace.completion_tokens for trace in traces)
    solved = {trace.problem_id for trace in traces if trace.verdict.is_correct}
    return {
        "traces": float(len(traces)),
        "problems": float(len({trace.problem_id for trace in traces})),
        "problems_solved": float(len(solved)),
        "correct_share": sum(t.verdict.is_correct for t in traces) / len(traces),
        "truncated_share": sum(t.finish_reason == "length" for t in traces) / len(traces),
        "completion_tokens": float(tokens),
    }


STAGE = Stage(
    config=GenerateConfig,
    produces="traces",
    version=1,
    run=run,
    preload=("transformers", "factory.sampling.blocks", "factory.sampling.transformers"),
    packages=("torch", "transformers", *GRADERS),
)
