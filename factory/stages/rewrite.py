"""Stage `rewrite`: a model writes traces anew, readably; each is verified again or dropped.

R1's cold start had R1-Zero's correct traces rewritten by a model into a first-person chain of
thought with a summary, in the language of the question, with traces converted by hand as examples
(arXiv 2501.12948 v2, B.3.2). What is rewritten is a model's text and hostile to the prompt: a draft
that could pass for a turn, a tag or a special token is not shown to the model, and whatever else
it talks the model into, the answer may not change and must grade as the settings ask.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from factory.core.artifacts import Artifact, Inputs
from factory.core.blocks import LONGEST_SAMPLE, Block, Code, Fold
from factory.core.context import Context, Metrics
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.readable import clip
from factory.core.records import (
    AskedModelRef,
    Problem,
    ProblemsRef,
    Record,
    SamplingConfig,
    Trace,
    TracesRef,
    Verdict,
)
from factory.core.seeds import derive
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Answers
from factory.cost.work import reading_work
from factory.grading import GRADING_PACKAGES, GradeItem, GradingPool, check_ungradable
from factory.rewards.language import language_of
from factory.rewards.steps import equations
from factory.sampling import Completion, Request
from factory.sampling.blocks import ask_model
from factory.sampling.served import read_served
from factory.stages.fates import fates
from factory.stages.fitness import Fitness, Rejected, fault
from factory.stages.small import SAMPLES, TRAIN, keeping_all, small_sampling
from factory.stages.stage import (
    Fields,
    Shows,
    register,
    sampling_stage,
)
from factory.text.chat import (
    Demonstration,
    OutputForm,
    PromptConfig,
    completion_text,
    disturbance,
    parse_completion,
    render,
    request_text,
    with_stops,
)
from factory.text.templates import open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REQUEST = (
    "Rewrite the draft {thinking} as one clear chain of thought in the first person, in the "
    "language of the question. Keep every step and do not change the answer. Then {ending}."
)
"""Ours, for what the paper had its model do; its own wording is not public."""


class RewriteExample(Record):
    """A trace rewritten by hand, shown to the model as an example."""

    question: str
    """What was asked."""
    draft: str
    """The thoughts as they were."""
    answer: str
    """What the draft answered."""
    reasoning: str
    """The thoughts as they should be."""
    summary: str | None = None
    """Only in an output form; by default the boxed answer."""


class RewriteConfig(Fitness):
    """Writes traces.jsonl, rejected.jsonl (drafts without a good rewriting, each with the first
    attempt and what it failed), and replies.jsonl (every reply as it came).

    `language` of the tests is by default that of each question, where its words tell.
    """

    kind: Literal["rewrite"]
    traces: TracesRef
    """The drafts: correct ones, as `select` keeps them."""
    model: AskedModelRef
    """The model that rewrites."""
    problems: ProblemsRef
    """Where the drafts' questions come from: the rewritten answer is graded again."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Use only the first N drafts."""
    samples: int = Field(default=1, ge=1, le=10**5)
    """Attempts a draft; the first good one is kept."""
    keep_steps: bool = False
    """Drop a rewriting that lost an equation of plain integers of its draft: the answer may be
    right and the way to it another one, made up."""
    prompt: PromptConfig = PromptConfig()
    """How the model is asked, `chat` or `zero`; its form is that of the rewritten traces."""
    examples: tuple[RewriteExample, ...] = ()
    """Shown to the model before the draft."""
    sampling: SamplingConfig = SamplingConfig()
    """Of its replies."""

    @model_validator(mode="after")
    def _asks_for_a_rewriting(self) -> "RewriteConfig":
        if self.prompt.style not in ("chat", "zero"):
            raise ValueError(f"prompt.style {self.prompt.style}: rewrite takes chat or zero")
        if self.prompt.demonstrations:
            raise ValueError("prompt.demonstrations: give examples instead")
        return self


class Reply(Record):
    """One attempt: a line of replies.jsonl."""

    problem_id: str
    sample: int
    attempt: int
    draft: str
    """The completion that was to be rewritten."""
    reply: str
    """What the model returned, exactly."""
    reason: str | None
    """What it failed; None if it passed."""


@dataclass(frozen=True)
class Draft:
    """A trace to rewrite, its problem, and the prompt; `fault` where it cannot be asked for."""

    index: int
    trace: Trace
    problem: Problem
    prompt: str
    prompt_ids: tuple[int, ...]
    fault: str | None


@dataclass(frozen=True)
class Attempt:
    """A graded reply to one draft."""

    draft: Draft
    number: int
    trace: Trace
    reason: str | None


def run(config: RewriteConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Rewrite and verify; metrics `drafts`, `kept`, `rejected.<reason>`, `completion_tokens`.

    DataError where a draft's problem is not in `problems`, or nothing is left.
    """
    drafts = _drafts(config, inputs)
    sound = [draft for draft in drafts if draft.fault is None]
    with GradingPool() as pool:
        attempts = _attempts(config, sound, inputs["model"], context=context, pool=pool)
    first: dict[int, Attempt] = {}
    for attempt in attempts:
        best = first.setdefault(attempt.draft.index, attempt)
        if best.reason is not None and attempt.reason is None:
            first[attempt.draft.index] = attempt
    kept = [first[d.index].trace for d in sound if first[d.index].reason is None]
    rejected = []
    for draft in drafts:
        outcome = first.get(draft.index)
        reason = outcome.reason if outcome else draft.fault
        if reason is not None:
            trace = outcome.trace if outcome else draft.trace
            rejected.append(Rejected(reason=reason, trace=trace))
    counts = Counter(row.reason for row in rejected)
    if not kept:
        counted = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        raise DataError(
            f"rewrite: none of the {len(drafts)} traces is left ({counted or 'there were none'}); "
            "give examples, more samples or a stronger model"
        )
    write_records(out / "traces.jsonl", kept)
    write_records(out / "rejected.jsonl", rejected)
    write_records(out / "replies.jsonl", map(_reply, attempts))
    return {
        "drafts": float(len(drafts)),
        "kept": float(len(kept)),
        "problems": float(len({trace.problem_id for trace in kept})),
        **{f"rejected.{reason}": float(counts[reason]) for reason in sorted(counts)},
        "completion_tokens": float(sum(a.trace.completion_tokens for a in attempts)),
    }


def asked_with(config: RewriteConfig) -> PromptConfig:
    """The prompt settings with the examples as demonstrations."""
    form = config.prompt.form
    shown = tuple(
        Demonstration(
            question=request(example.question, example.draft, example.answer, form=form),
            reasoning=example.reasoning,
            answer=example.answer,
            summary=example.summary,
        )
        for example in config.examples
    )
    style = "few_shot" if shown and config.prompt.style == "chat" else config.prompt.style
    return config.prompt.model_copy(update={"style": style, "demonstrations": shown})


def request(question: str, draft: str, answer: str, *, form: OutputForm | None) -> str:
    """What the model is asked about one draft."""
    parts = f"Question: {question}\nAnswer: {answer}\nDraft: {draft}"
    return f"{request_text(REQUEST, form)}\n\n{parts}"


def _drafts(config: RewriteConfig, inputs: Inputs) -> list[Draft]:

    folder = inputs["model"].path
    tokenizer = open_tokenizer(folder)
    room = _room(folder)
    problems = {p.id: p for p in read_records(inputs["problems"].file("train.jsonl"), Problem)}
    prompt = asked_with(config)
    drafts = []
    for index, trace in enumerate(list(inputs["traces"].traces())[: config.limit]):
        problem = problems.get(trace.problem_id)
        if problem is None:
            raise DataError(
                f"rewrite: trace {trace.problem_id}/{trace.sample} is about none of the training "
                f"problems of {inputs['problems'].name}, so its rewriting could not be graded"
            )
        thoughts = trace.completion if trace.reasoning is None else trace.reasoning
        question = request(trace.question, thoughts, trace.answer or "", form=prompt.form)
        text = render(question, prompt, tokenizer)
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        reason = _unsafe(f"{thoughts}\n{trace.answer or ''}", prompt.form, tokenizer)
        if not reason and len(ids) + config.sampling.max_new_tokens > room:
            reason = "long_draft"
        drafts.append(Draft(index, trace, problem, text, ids, reason or None))
    return drafts


def _room(folder: Path) -> int:
    """Tokens that a prompt and its completion may have together; a server knows its own limit."""
    from transformers import AutoConfig

    if read_served(folder) is not None:
        return 2**31
    text_config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    return getattr(text_config, "max_position_embeddings", None) or 2**31


def _unsafe(text: str, form: OutputForm | None, tokenizer: "PreTrainedTokenizerBase") -> str:
    """`unsafe_draft` where the text could break out of the place it is shown in."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    breaks_out = disturbance(text, form) or any(token in text for token in special)
    return "unsafe_draft" if breaks_out else ""


def _attempts(
    config: RewriteConfig,
    drafts: Sequence[Draft],
    model: Artifact,
    *,
    context: Context,
    pool: GradingPool,
) -> list[Attempt]:
    """Every reply, graded and tested, in order of (draft, attempt)."""
    if not drafts:
        return []
    sampling = with_stops(config.sampling, asked_with(config))
    owners = [draft for draft in drafts for _ in range(config.samples)]
    keyed = [
        (f"{draft.index}/{attempt}", Request(draft.prompt_ids, _seed(context, draft, attempt)))
        for draft in drafts
        for attempt in range(config.samples)
    ]
    graded: dict[int, Verdict] = {}

    def grade_block(indices: Sequence[int], block: Sequence[Completion]) -> None:
        items = [
            GradeItem.for_prompt(
                owners[index].problem, completion.text, completion.finish_reason, config.prompt
            )
            for index, completion in zip(indices, block, strict=True)
        ]
        graded.update(zip(indices, pool.grade(items), strict=True))
        context.progress(len(graded), len(keyed), unit="rewritings")

    context.progress(0, len(keyed), unit="rewritings")
    completions = ask_model(
        model.path,
        keyed,
        sampling,
        segment="samples.jsonl",
        on_block=grade_block,
        context=context,
    )
    verdicts = [graded[index] for index in range(len(keyed))]
    # Of open problems no rule can say whether the answer is right: they are dropped one by one.
    check_ungradable([v for o, v in zip(owners, verdicts, strict=True) if o.problem.kind != "open"])
    traces = [
        _trace(owner, completion, verdict, config=config, sampling=sampling, model=model, seed=seed)
        for owner, completion, verdict, seed in zip(
            owners, completions, verdicts, [request.seed for _, request in keyed], strict=True
        )
    ]
    same = _same_answers(owners, traces, pool)
    return [
        Attempt(
            owner, index % config.samples, trace, _fault(owner, trace, config, is_same=same[index])
        )
        for index, (owner, trace) in enumerate(zip(owners, traces, strict=True))
    ]


def _seed(context: Context, draft: Draft, attempt: int) -> int:
    trace = draft.trace
    return derive(context.seed, "rewrite", trace.problem_id, trace.sample, draft.index, attempt)


def _trace(
    draft: Draft,
    completion: Completion,
    verdict: Verdict,
    *,
    config: RewriteConfig,
    sampling: SamplingConfig,
    model: Artifact,
    seed: int,
) -> Trace:
    response = parse_completion(completion.text, completion.finish_reason, config.prompt)
    return Trace(
        problem_id=draft.trace.problem_id,
        sample=draft.trace.sample,
        question=draft.trace.question,
        prompt=draft.prompt,
        completion=completion.text,
        reasoning=response.reasoning,
        answer=response.answer,
        summary=response.summary,
        finish_reason=completion.finish_reason,
        completion_tokens=completion.tokens,
        seed=seed,
        sampling=sampling,
        style="rewrite",
        model=model.fingerprint,
        verdict=verdict,
    )


def _same_answers(
    drafts: Sequence[Draft], traces: Sequence[Trace], pool: GradingPool
) -> list[bool]:
    """Whether each rewriting gives its draft's answer: the same text, or the same by its grader.

    A problem may have several right answers: a correct one can still be another one.
    """
    same = [_text(d.trace.answer) == _text(t.answer) for d, t in zip(drafts, traces, strict=True)]
    doubtful: dict[int, GradeItem] = {}
    for index, (draft, trace) in enumerate(zip(drafts, traces, strict=True)):
        kind = "math" if draft.problem.kind == "procedural" else draft.problem.kind
        if same[index] or draft.trace.answer is None or kind not in ("math", "exact", "choice"):
            continue
        reference = draft.problem.model_copy(
            update={"reference": draft.trace.answer, "kind": kind, "data": {}}
        )
        doubtful[index] = GradeItem(reference, completion_text("", trace.answer or ""))
    for index, verdict in zip(doubtful, pool.grade(list(doubtful.values())), strict=True):
        same[index] = verdict.is_correct
    return same


def _text(answer: str | None) -> str | None:
    return None if answer is None else " ".join(answer.split())


def _fault(draft: Draft, trace: Trace, config: RewriteConfig, *, is_same: bool) -> str | None:
    """The first test that a rewriting fails, or None."""
    if trace.answer is not None and not is_same:
        return "answer_changed"
    language = config.language or language_of(trace.question)
    reason = fault(trace, config.model_copy(update={"language": language}))
    steps = equations(draft.trace.reasoning or "") if config.keep_steps else set()
    if reason is None and not steps <= equations(trace.reasoning or ""):
        return "lost_step"
    before, after = (own.reasoning or own.completion for own in (draft.trace, trace))
    if reason is None and after.split() == before.split():
        return "unchanged"
    return reason


def _reply(attempt: Attempt) -> Reply:
    trace = attempt.trace
    return Reply(
        problem_id=trace.problem_id,
        sample=trace.sample,
        attempt=attempt.number,
        draft=attempt.draft.trace.completion,
        reply=trace.completion,
        reason=attempt.reason,
    )


REWRITTEN_SHARE = 0.5
"""Of drafts whose rewriting passes; an assumption, r1-small's was 0.13."""


def estimate(config: RewriteConfig, cost: CostContext) -> tuple[StageCost, Answers]:
    traces: Answers = cost.read("traces")
    drafts = min(traces.rows, config.limit or traces.rows)
    shown = sum(
        len(example.question) + len(example.draft) + len(example.reasoning) + 300
        for example in config.examples
    )
    taken = reading_work(
        cost, "model", config.sampling, question=400 + shown + traces.question,
        extra=traces.completion, prompts=drafts, samples=config.samples,
    )  # fmt: skip
    kept = drafts * REWRITTEN_SHARE
    return taken, Answers(kept, kept, traces.question, traces.completion)


def completions(artifact: Artifact) -> float:
    return artifact.manifest.metrics["drafts"] * artifact.manifest.config["samples"]


def small(fields: Fields) -> Fields:
    return {
        **keeping_all(fields),
        "limit": min(fields["limit"] or TRAIN, TRAIN // 2),
        "samples": min(fields["samples"], SAMPLES),
        "keep_steps": False,
        # In bytes, which is what tiny models read, examples leave no room.
        "examples": [],
        "sampling": small_sampling(fields["sampling"]),
    }


def shown(artifact: Artifact) -> Sequence[Block]:
    """The fates of the drafts, and the first reply that was kept beside its draft."""
    blocks = list(fates(artifact))
    if "replies.jsonl" in artifact.manifest.files:
        for row in read_records(artifact.file("replies.jsonl"), Reply):
            if row.reason is None:
                texts = [clip(text, LONGEST_SAMPLE)[0] for text in (row.draft, row.reply)]
                title = "The first draft that was rewritten and kept, then its rewriting"
                blocks.append(Fold(title, tuple(map(Code, texts))))
                break
    return blocks


STAGE = register(
    sampling_stage(
        RewriteConfig,
        produces="traces",
        version=3,
        run=run,
        packages=("torch", "transformers", "py3langid", *GRADING_PACKAGES),
        estimate=estimate,
        completions=completions,
        small=small,
        shows=Shows("selection", shown),
    )
)
