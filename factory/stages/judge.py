"""Stage `judge`: a model compares open answers with their references, so that `select` can use it.

R1 had such a judge for the answers of its 600k reasoning samples that no rule can check
(arXiv 2501.12948 v2, B.3.3).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.artifacts import Inputs
from factory.chat import PromptConfig, render, with_stops
from factory.context import Context, Metrics
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers
from factory.cost.work import reading_work
from factory.errors import DataError
from factory.grading import check_ungradable
from factory.grading.judge import Judgement, judge_request, judged, read_reply
from factory.jsonl import read_records, write_records
from factory.records import (
    AskedModelRef,
    FinishReason,
    Outcome,
    Problem,
    ProblemsRef,
    Record,
    SamplingConfig,
    Trace,
    TracesRef,
    Verdict,
)
from factory.sampling import Request
from factory.sampling.blocks import ask_model
from factory.seeds import derive
from factory.stages.small import SAMPLES, small_sampling
from factory.stages.stage import (
    Fields,
    StageConfig,
    register,
    sampling_stage,
)
from factory.templates import open_tokenizer


class JudgeConfig(StageConfig):
    """Writes traces.jsonl, open ones with the judge's verdict, and judgements.jsonl."""

    kind: Literal["judge"]
    traces: TracesRef
    problems: ProblemsRef
    """What the traces answer; their references are in it."""
    model: AskedModelRef
    """The judge: any model with a chat template."""
    votes: int = Field(default=1, ge=1, le=10**4)
    """Replies for each answer; more than half of them must agree. Not stated by the paper."""
    prompt: PromptConfig = PromptConfig()
    """Style chat; a system message and a prefill may be given."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=1024)
    """Greedy; above one vote it needs a temperature above 0."""
    max_ungradable: float = Field(default=0.01, ge=0.0, le=1.0)
    """Largest share of judged answers that the judge may leave undecided."""

    @model_validator(mode="after")
    def _can_vote(self) -> "JudgeConfig":
        if self.votes > 1 and self.sampling.temperature == 0:
            raise ValueError("votes: greedy replies are all the same; give a temperature above 0")
        if self.prompt.style != "chat":
            raise ValueError(f"prompt.style {self.prompt.style}: a judge is asked in style chat")
        return self


class Vote(Record):
    """One reply of the judge, kept beside the traces."""

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


def run(config: JudgeConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Judge the answers to open problems; all other traces stay as they are.

    EngineError if more than `max_ungradable` of them stay undecided.
    """
    traces = list(inputs["traces"].traces())
    problems = {
        problem.id: problem
        for split in ("train", "held_out")
        for problem in read_records(inputs["problems"].file(f"{split}.jsonl"), Problem)
    }
    waiting = [index for index, trace in enumerate(traces) if _waits(trace, problems)]
    if not waiting:
        context.note(f"judge: none of the {len(traces)} traces answers a problem of kind open")
    answered = [(problems[traces[index].problem_id], traces[index]) for index in waiting]
    votes = _ask(config, answered, inputs["model"].path, context) if answered else []
    write_records(out / "judgements.jsonl", votes)
    verdicts: dict[int, Verdict] = {}
    for number, index in enumerate(waiting):
        own = votes[number * config.votes : (number + 1) * config.votes]
        verdicts[index] = judged(traces[index].answer or "", [vote.judgement for vote in own])
    check_ungradable(list(verdicts.values()), limit=config.max_ungradable)
    write_records(
        out / "traces.jsonl",
        (
            trace.model_copy(update={"verdict": verdicts.get(index, trace.verdict)})
            for index, trace in enumerate(traces)
        ),
    )
    return _metrics(len(traces), votes, [verdict.outcome for verdict in verdicts.values()])


def _waits(trace: Trace, problems: dict[str, Problem]) -> bool:
    """Whether a trace waits for a judge; DataError if its problem is not among `problems`."""
    problem = problems.get(trace.problem_id)
    if problem is None:
        raise DataError(
            f"judge: problems holds no {trace.problem_id!r}, which the traces answer; "
            "name the stage that these traces were generated from"
        )
    is_undecided = trace.verdict.outcome == "ungradable" and trace.answer is not None
    return problem.kind == "open" and is_undecided


def _ask(
    config: JudgeConfig,
    answered: Sequence[tuple[Problem, Trace]],
    model: Path,
    context: Context,
) -> list[Vote]:
    """`config.votes` votes on each answer, in order."""
    tokenizer = open_tokenizer(model)
    entries = []
    for problem, trace in answered:
        request = judge_request(
            problem, trace.answer or "", control_texts=tokenizer.all_special_tokens
        )
        prompt = render(request, config.prompt, tokenizer)
        ids = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        for vote in range(config.votes):
            seed = derive(context.seed, "judge", trace.problem_id, trace.sample, vote)
            entries.append((trace, vote, prompt, Request(ids, seed)))
    keyed = [
        (f"{trace.problem_id}/{trace.sample}/{vote}", request)
        for trace, vote, _, request in entries
    ]
    replies = ask_model(
        model,
        keyed,
        with_stops(config.sampling, config.prompt),
        segment="replies.jsonl",
        on_block=lambda start, block: context.progress(
            start + len(block), len(keyed), unit="replies"
        ),
        context=context,
    )
    return [
        Vote(
            problem_id=trace.problem_id,
            sample=trace.sample,
            vote=vote,
            prompt=prompt,
            reply=reply.text,
            finish_reason=reply.finish_reason,
            seed=request.seed,
            judgement=read_reply(reply.text) if reply.finish_reason == "stop" else None,
        )
        for (trace, vote, prompt, request), reply in zip(entries, replies, strict=True)
    ]


def _metrics(traces: int, votes: Sequence[Vote], outcomes: Sequence[Outcome]) -> Metrics:
    counts = Counter(outcomes)
    return {
        "traces": float(traces),
        "judged": float(len(outcomes)),
        **{name: float(counts[name]) for name in ("correct", "wrong", "ungradable")},
        "unread_share": sum(vote.judgement is None for vote in votes) / max(1, len(votes)),
    }


def estimate(config: JudgeConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    traces: Answers = cost.read("traces")
    return reading_work(
        cost, "model", config.sampling, question=600 + traces.question,
        extra=traces.completion, prompts=traces.rows, samples=config.votes,
    ), traces  # fmt: skip


def small(fields: Fields) -> Fields:
    # A random model decides nothing.
    return {
        **fields,
        "votes": min(fields["votes"], SAMPLES),
        "sampling": small_sampling(fields["sampling"]),
        "max_ungradable": 1.0,
    }


STAGE = register(
    sampling_stage(
        JudgeConfig,
        produces="traces",
        version=2,
        run=run,
        estimate=estimate,
        small=small,
    )
)
