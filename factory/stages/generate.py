"""Stage `generate`: a model answers problems, n samples each; every completion is graded."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.artifacts import Inputs
from factory.chat import PromptConfig, parse_completion, render, with_stops
from factory.context import Context, Metrics
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import KEPT_SHARE, Answers, Questions
from factory.cost.work import drawing_work
from factory.errors import DataError
from factory.files import naming
from factory.grading import GRADING_PACKAGES, GradeItem, GradingPool, check_ungradable_count
from factory.jsonl import read_records
from factory.records import (
    AddedLater,
    AskedModelRef,
    Problem,
    ProblemsRef,
    SamplingConfig,
    Trace,
)
from factory.sampling import Completion, Request, Sampler, open_sampler
from factory.sampling.segment import Segment
from factory.seeds import derive
from factory.stages.drawing import Draw, LengthStops, Line, Retry
from factory.stages.small import SAMPLES, TOKENS, TRAIN, small_sampling
from factory.stages.stage import (
    Fields,
    StageConfig,
    register,
    sampling_stage,
)
from factory.templates import open_tokenizer


class GenerateConfig(StageConfig):
    kind: Literal["generate"]
    model: AskedModelRef
    problems: ProblemsRef
    split: Literal["train", "held_out"] = "train"
    """Which side of the problems is asked."""
    sources: tuple[str, ...] = ()
    """Take only problems of these sources; empty takes all."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Use only the first N problems of the file, in which one source follows the other; sources
    of which nothing is left are told in the log."""
    samples: int = Field(default=4, ge=1, le=10**5)
    """Completions a problem; R1 drew several and kept the correct ones (v2 B.3.3)."""
    enough: Annotated[int | None, AddedLater()] = Field(default=None, ge=1, le=10**5)
    """A problem is asked no further once N of its traces are verified; None draws all
    `samples`. What is drawn is kept, right or wrong."""
    length_stops: Annotated[LengthStops, AddedLater()] = "keep"
    """What becomes of completions cut at `max_new_tokens`: `keep` (as `truncated`), `drop`, or
    `{retry: N}`, which draws them once more with N new tokens and keeps what comes."""
    prompt: PromptConfig = PromptConfig()
    """How they are asked."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=1.0)
    """The default holds where `sampling` is left out as a whole; settings left out inside it have
    those of SamplingConfig."""

    @model_validator(mode="after")
    def _limits_fit(self) -> "GenerateConfig":
        if self.enough is not None and self.enough > self.samples:
            raise ValueError(f"enough ({self.enough}) is more than samples ({self.samples})")
        first = self.sampling.max_new_tokens
        if isinstance(self.length_stops, Retry) and self.length_stops.retry <= first:
            raise ValueError(f"length_stops.retry must be more than max_new_tokens ({first})")
        return self

    @property
    def longest(self) -> int:
        """New tokens of a completion, at most."""
        again = self.length_stops
        return again.retry if isinstance(again, Retry) else self.sampling.max_new_tokens


def run(config: GenerateConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write traces.jsonl, sorted by (problem, sample).

    Memory does not grow with the number of traces, but for eight bytes each: problems are read as
    they are asked (all ids once before, to find doubles), traces are written as they are drawn.
    """

    path = inputs["problems"].file(f"{config.split}.jsonl")
    model = inputs["model"]
    tokenizer = open_tokenizer(model.path)
    read = partial(_problems, path, config.sources, config.limit)
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
        return write_traces(writer, read(), count=count, out=out, context=context)


@dataclass
class Writer:
    """Draws and grades blocks of traces; its engine starts with the first block that needs it."""

    config: GenerateConfig
    model: str
    """Fingerprint."""
    tokenizer: Any
    open_sampler: Callable[[], Sampler]
    pool: GradingPool
    seed: int
    _sampler: Sampler | None = None

    def draw(self, draws: Sequence[Draw]) -> list[Trace]:
        """A graded trace of each, drawn in one call of the engine: all have the same limit."""
        if self._sampler is None:
            self._sampler = self.open_sampler()
        problems = {draw.index: draw.problem for draw in draws}
        prompts = {
            index: render(problem.prompt, self.config.prompt, self.tokenizer)
            for index, problem in problems.items()
        }
        ids = {index: _token_ids(text, self.tokenizer) for index, text in prompts.items()}
        requests = [
            Request(ids[d.index], derive(self.seed, "generate", d.problem.id, d.sample))
            for d in draws
        ]
        sampling = with_stops(self.config.sampling, self.config.prompt).model_copy(
            update={"max_new_tokens": draws[0].max_new_tokens}
        )
        completions = self._sampler.sample(requests, sampling)
        items = [
            GradeItem.for_prompt(
                draw.problem, completion.text, completion.finish_reason, self.config.prompt
            )
            for draw, completion in zip(draws, completions, strict=True)
        ]
        return [
            Trace(
                problem_id=draw.problem.id,
                sample=draw.sample,
                question=draw.problem.prompt,
                prompt=prompts[draw.index],
                completion=completion.text,
                **_parts(completion, self.config.prompt),
                finish_reason=completion.finish_reason,
                completion_tokens=completion.tokens,
                seed=request.seed,
                sampling=sampling,
                style=self.config.prompt.style,
                model=self.model,
                verdict=verdict,
            )
            for draw, request, completion, verdict in zip(
                draws, requests, completions, self.pool.grade(items), strict=True
            )
        ]


def write_traces(
    writer: Writer,
    problems: Iterator[Problem],
    *,
    count: int,
    out: Path,
    context: Context,
) -> Metrics:
    """Draw what an earlier attempt has not, and write all of it in order; the stage's metrics."""
    config = writer.config
    line = Line(
        problems,
        samples=config.samples,
        max_new_tokens=config.sampling.max_new_tokens,
        enough=config.enough,
        length_stops=config.length_stops,
    )
    tally = Tally()
    total = count * config.samples
    # Where the trace of each (problem, sample) begins in the segment; 0 stands for none.
    begins = array("Q", bytes(8 * total))
    segment = Segment(context.scratch / "traces.jsonl")
    try:
        while draws := line.next(context.machine.requests_at_once):
            keys = [(draw.problem.id, draw.sample, draw.max_new_tokens) for draw in draws]
            block = segment.replay(keys)
            if block is None:
                traces = writer.draw(draws)
                block = list(zip(segment.append(traces), traces, strict=True))
            for draw, (begin, trace) in zip(draws, block, strict=True):
                if line.add(draw, trace):
                    begins[draw.index * config.samples + draw.sample] = begin + 1
                    tally.add(draw.problem, trace)
            # Of all samples: what is certain to be too many at the end stops the run at once.
            tally.check_ungradable(total)
            correct_share = tally.correct / max(1, tally.traces)
            context.progress(
                line.settled,
                total,
                unit="samples",
                correct_share=correct_share,
                verified=tally.correct,
                tokens=tally.tokens,
            )
        tally.check_ungradable(tally.judged)
        if segment.cut_off:
            context.note(
                f"{segment.cut_off} bytes of traces from other blocks were drawn anew: the machine "
                "file's `block` had changed"
            )
        path = out / "traces.jsonl"
        with naming(path), path.open("wb") as file:
            file.writelines(segment.lines(begin - 1 for begin in begins if begin))
    finally:
        segment.close()
    return _metrics(config, line, tally)


@dataclass
class Tally:
    """Counts over the traces that are kept."""

    traces: int = 0
    correct: int = 0
    cut: int = 0
    looped: int = 0
    tokens: int = 0
    judged: int = 0
    """Answers that a rule decides; open ones wait for the stage `judge`."""
    ungradable: int = 0
    first_ungradable: str = ""

    def add(self, problem: Problem, trace: Trace) -> None:
        self.traces += 1
        self.correct += trace.verdict.is_correct
        self.cut += trace.finish_reason == "length"
        self.looped += trace.finish_reason == "loop"
        self.tokens += trace.completion_tokens
        if problem.kind == "open":
            return
        self.judged += 1
        if trace.verdict.outcome == "ungradable":
            self.ungradable += 1
            self.first_ungradable = self.first_ungradable or trace.verdict.explanation

    def check_ungradable(self, of: int) -> None:
        """EngineError if too many of so many answers are ungradable."""
        check_ungradable_count(self.ungradable, of, first=self.first_ungradable)


def chosen_problems(path: Path, sources: Sequence[str], limit: int | None = None) -> list[Problem]:
    """Problems of a file, of the given sources, the first `limit`; DataError if none is left."""
    problems = list(_problems(path, sources, limit))
    if not problems:
        raise DataError(f"{path}: no problem of sources {list(sources) or 'any'}")
    return problems


def sources_cut_off(path: Path, sources: Sequence[str], limit: int | None) -> list[str]:
    """Sources that `limit` leaves nothing of: a file holds one source after the other."""
    if limit is None:
        return []
    taken = {problem.source for problem in _problems(path, sources, limit)}
    return sorted({problem.source for problem in _problems(path, sources, None)} - taken)


def _problems(path: Path, sources: Sequence[str], limit: int | None) -> Iterator[Problem]:
    chosen = (p for p in read_records(path, Problem) if not sources or p.source in sources)
    return islice(chosen, limit)


def _measure(problems: Iterator[Problem], prompt: PromptConfig, tokenizer: Any) -> tuple[int, int]:
    """(number of problems, tokens of the longest prompt); DataError if two have one id."""
    seen: set[str] = set()
    longest = 0
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"two problems have the id {problem.id!r}")
        seen.add(problem.id)
        ids = _token_ids(render(problem.prompt, prompt, tokenizer), tokenizer)
        longest = max(longest, len(ids))
    return len(seen), longest


def _token_ids(text: str, tokenizer: Any) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _parts(completion: Completion, prompt: PromptConfig) -> dict[str, str | None]:
    response = parse_completion(completion.text, completion.finish_reason, prompt)
    return {
        "reasoning": response.reasoning,
        "answer": response.answer,
        "summary": response.summary,
    }


def _metrics(config: GenerateConfig, line: Line, tally: Tally) -> Metrics:
    if not tally.traces:
        raise DataError(f"all {line.dropped} completions were cut at their limit and dropped")
    return {
        "traces": float(tally.traces),
        "problems": float(line.answered),
        "problems_solved": float(line.solved),
        "correct_share": tally.correct / tally.traces,
        "truncated_share": tally.cut / tally.traces,
        "completion_tokens": float(tally.tokens),
        **({"looped_share": tally.looped / tally.traces} if config.sampling.loop else {}),
        **({"dropped": float(line.dropped)} if config.length_stops == "drop" else {}),
        **({"retried": float(line.retried)} if isinstance(config.length_stops, Retry) else {}),
    }


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
    stops = fields["length_stops"]
    return {
        **fields,
        "sources": [],
        "limit": min(fields["limit"] or TRAIN, TRAIN // 2),
        "samples": min(fields["samples"], SAMPLES),
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
