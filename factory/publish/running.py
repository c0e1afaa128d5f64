"""The gate, second half: the folder is run afresh, in each engine, against the checkpoint.

Engines round differently, so two right ones may part at a near tie. What is asked for is that every
token that an engine took greedily is within `near` nats of the token that the checkpoint likes
best there; a wrong weight, token or template is many nats off.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from factory.core.artifacts import Artifact, find
from factory.core.jsonl import read_records
from factory.core.machine import Machine
from factory.core.readable import percent, span
from factory.core.records import EvalSample, Problem, SamplingConfig
from factory.evaluation.statistics import mean_interval
from factory.grading import GradeItem, GradingPool
from factory.publish.gate import Check, Subject, check, served_ids, served_text
from factory.sampling import Request, open_sampler
from factory.sampling.ends import decoded, end_ids
from factory.text.chat import parse_completion
from factory.text.templates import open_tokenizer

PROMPTS = 32
"""Questions that are asked again."""
BATCH = 8
LEARNED = 8
"""Questions of the training that a private export without an evaluation is asked."""
NEAR = {"float32": 0.02, "bfloat16": 0.5}
"""Nats; ours. Rounding alone moves a log-prob by about 1e-4 in float32 and 0.1 in bfloat16."""
MIN_STOPPED = 0.8
"""Share of recorded answers that must have ended by themselves; ours."""
MIN_STOPPED_AGAIN = 0.9
"""Of those answers asked again, the share that must end by themselves again; ours."""


@dataclass(frozen=True)
class Asked:
    """A question of an evaluation, asked as it will be served, with its recorded greedy answer."""

    problem: Problem
    recorded: EvalSample
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """A greedy answer, its end token included."""

    token_ids: tuple[int, ...]
    has_stopped: bool


def examine_running(
    subject: Subject, machine: Machine, *, tokens: int, learned: Sequence[str] = ()
) -> list[Check]:
    """Load in transformers and vLLM, compare, and measure again; `tokens` bounds an answer.

    Without an evaluation to compare with, the `learned` questions are asked instead.
    """
    items = comparable(subject, tokens)
    if not items:
        return [
            *(_examine_learned(subject, machine, learned, tokens) if learned else ()),
            Check(
                name="benchmark",
                status="refused",
                reason="no greedy answer of an evaluation on a problems stage was asked with the "
                f"prompt that is served and ended within {tokens} tokens: evaluate with "
                "`greedy: true` under the training prompt, or raise --tokens",
            ),
        ]
    limit = min(tokens, items[0].recorded.trace.sampling.max_new_tokens)
    prompts = [item.prompt_ids for item in items]
    fresh = _generate(subject.folder, prompts, limit, machine)
    engine = _vllm_answers(subject.folder, prompts, limit, machine)
    own = _load(subject.artifact.path, machine)
    near = NEAR[_dtype(machine)]
    return [
        _agreement("transformers", own, prompts, fresh, near),
        engine if isinstance(engine, Check) else _agreement("vllm", own, prompts, engine, near),
        _stops(subject, items, fresh),
        _benchmark(subject, items, fresh),
    ]


def learned_questions(ancestors: Iterable[Artifact]) -> list[str]:
    """The first different questions that the last stage with any trained on, at most LEARNED.

    `ancestors` come inputs first; empty where none holds traces or problems.
    """
    for ancestor in reversed(list(ancestors)):
        if ancestor.manifest.kind == "traces":
            questions = (trace.question for trace in ancestor.traces())
        elif ancestor.manifest.kind == "problems":
            problems = read_records(ancestor.file("train.jsonl"), Problem)
            questions = (problem.prompt for problem in problems)
        else:
            continue
        if first := list(islice(dict.fromkeys(islice(questions, 16 * LEARNED)), LEARNED)):
            return first
    return []


def _examine_learned(
    subject: Subject, machine: Machine, questions: Sequence[str], tokens: int
) -> list[Check]:
    """Whether the folder agrees with the checkpoint, stops and thinks on questions it learned."""
    tokenizer, own = open_tokenizer(subject.folder), _load(subject.artifact.path, machine)
    prompts = [tuple(served_ids(tokenizer, question)) for question in questions]
    context = getattr(own.config.get_text_config(), "max_position_embeddings", None) or tokens
    limit = max(1, min(tokens, context - max(map(len, prompts))))
    answers = _generate(subject.folder, prompts, limit, machine)
    stopped = sum(answer.has_stopped for answer in answers)
    thinking = sum(
        response.is_well_formed and bool(response.reasoning)
        for response in (
            parse_completion(
                decoded(tokenizer, answer.token_ids),
                "stop" if answer.has_stopped else "length",
                subject.prompt,
            )
            for answer in answers
        )
    )
    ended = f"{stopped} of {len(answers)} questions of its training were answered to the end"
    thought = f"{thinking} of these {len(answers)} answers hold thoughts and then an answer"
    few = MIN_STOPPED * len(answers)
    within = f"{ended} within {limit} tokens; a longer answer needs --tokens"
    return [
        _agreement("transformers", own, prompts, answers, NEAR[_dtype(machine)]),
        check("stops", [] if stopped >= few else [within], ended),
        check("thinks", [] if thinking >= few else [thought], thought),
    ]


def comparable(subject: Subject, tokens: int) -> list[Asked]:
    """Questions of the first evaluation that can be asked again, in its order, at most PROMPTS."""
    tokenizer = open_tokenizer(subject.folder)
    for scores in subject.scores:
        problems = _problems(scores)
        items: list[Asked] = []
        for sample in _greedy_as_served(scores, tokenizer):
            problem = problems.get((sample.benchmark, sample.trace.problem_id))
            if problem is not None and sample.trace.completion_tokens <= tokens:
                ids = tuple(served_ids(tokenizer, problem.prompt))
                items.append(Asked(problem, sample, ids))
        if items:
            first = items[0].recorded.benchmark
            return [item for item in items if item.recorded.benchmark == first][:PROMPTS]
    return []


def _greedy_as_served(scores: Artifact, tokenizer) -> list[EvalSample]:
    return [
        sample
        for sample in read_records(scores.file("samples.jsonl"), EvalSample)
        if sample.mode == "greedy"
        and not sample.trace.sampling.stop
        and sample.trace.prompt == served_text(tokenizer, sample.trace.question)
    ]


def _problems(scores: Artifact) -> dict[tuple[str, str], Problem]:
    """Held-out problems by (benchmark, id), of benchmarks that come from a problems stage."""
    problems = {}
    for number, benchmark in enumerate(scores.manifest.config["benchmarks"]):
        entry = scores.manifest.inputs.get(f"benchmarks.{number}.problems")
        source = entry and find(scores.path.parent, entry.fingerprint)
        if source:
            for problem in read_records(source.file("held_out.jsonl"), Problem):
                problems[benchmark["name"], problem.id] = problem
    return problems


def _dtype(machine: Machine) -> str:
    return machine.torch_dtype_name(on_gpu=machine.takes_gpu())


def _load(folder: Path, machine: Machine) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, _dtype(machine)),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model.to("cuda" if machine.takes_gpu() else "cpu").eval()


@torch.no_grad()
def _generate(
    folder: Path, prompts: Sequence[tuple[int, ...]], limit: int, machine: Machine
) -> list[Answer]:
    """Greedy answers by transformers' own `generate`, which reads generation_config.json."""
    model = _load(folder, machine)
    settings = model.generation_config
    settings.do_sample, settings.temperature, settings.top_p = False, None, None
    settings.max_new_tokens = limit
    ends = set(end_ids(folder, open_tokenizer(folder)))
    answers = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in part])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
        )
        answers += [_cut(row[width:].tolist(), ends) for row in out]
    return answers


def _cut(ids: list[int], ends: set[int]) -> Answer:
    """Up to the first end token; what follows it is the batch's padding."""
    end = next((at for at, token in enumerate(ids) if token in ends), None)
    return Answer(tuple(ids if end is None else ids[: end + 1]), end is not None)


def _vllm_answers(
    folder: Path, prompts: Sequence[tuple[int, ...]], limit: int, machine: Machine
) -> list[Answer] | Check:
    if machine.engine == "transformers":
        reason = "the machine file says engine: transformers"
        return Check(name="vllm", status="not run", reason=reason)
    if not find_spec("vllm"):
        return Check(name="vllm", status="not run", reason="vLLM is not installed")
    sampler = open_sampler(
        folder,
        machine.model_copy(update={"engine": "vllm"}),
        max_length=max(map(len, prompts)) + limit,
    )
    greedy = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=limit)
    completions = sampler.sample([Request(row, 0) for row in prompts], greedy)
    sampler.close()
    return [
        Answer(completion.token_ids, completion.finish_reason == "stop")
        for completion in completions
    ]


@torch.no_grad()
def _agreement(
    engine: str, own, prompts: Sequence[tuple[int, ...]], answers: Sequence[Answer], near: float
) -> Check:
    """Whether every token of the answers is the checkpoint's choice, or nearly so."""
    worst = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer.token_ids]], device=own.device)
        scores = own(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        taken = scores.gather(1, ids[0, len(prompt) :, None])[:, 0]
        worst = max(worst, float((scores.max(dim=1).values - taken).max()))
    total = sum(len(answer.token_ids) for answer in answers)
    text = (
        f"{total} greedy tokens of {len(answers)} answers; the worst is {worst:.2g} nats below "
        f"the checkpoint's choice, {near:g} allowed"
    )
    return check(engine, [] if worst <= near else [text], text)


def _stops(subject: Subject, replayed: Sequence[Asked], fresh: Sequence[Answer]) -> Check:
    """Whether it learned to stop: in all recorded answers without stop texts, and here again."""
    recorded = [
        sample.trace.finish_reason == "stop"
        for scores in subject.scores
        for sample in read_records(scores.file("samples.jsonl"), EvalSample)
        if not sample.trace.sampling.stop and sample.trace.prompt
    ]
    share = sum(recorded) / max(1, len(recorded))
    again = [
        answer.has_stopped
        for item, answer in zip(replayed, fresh, strict=True)
        if item.recorded.trace.finish_reason == "stop"
    ]
    text = (
        f"{percent(share)} of {len(recorded)} recorded answers ended by themselves; asked again, "
        f"{sum(again)} of {len(again)} that did so do"
    )
    faults = []
    if share < MIN_STOPPED:
        faults.append(f"{text}: at least {MIN_STOPPED:.0%} must: it has not learned to stop")
    elif not again or sum(again) < MIN_STOPPED_AGAIN * len(again):
        faults.append(f"{text}: the folder does not stop where the checkpoint does")
    return check("stops", faults, text)


def _benchmark(subject: Subject, replayed: Sequence[Asked], fresh: Sequence[Answer]) -> Check:
    """The smoke benchmark: the share right, within the interval of what is recorded for these."""
    tokenizer = open_tokenizer(subject.folder)
    items = [
        GradeItem.for_prompt(
            item.problem,
            decoded(tokenizer, answer.token_ids),
            "stop" if answer.has_stopped else "length",
            subject.prompt,
        )
        for item, answer in zip(replayed, fresh, strict=True)
    ]
    with GradingPool() as pool:
        verdicts = pool.grade(items)
    now = sum(verdict.is_correct for verdict in verdicts) / len(verdicts)
    before = mean_interval([float(item.recorded.trace.verdict.is_correct) for item in replayed])
    text = (
        f"{replayed[0].recorded.benchmark}, greedy, {len(replayed)} problems: {percent(now)} now, "
        f"{percent(before.value)} {span(before.low, before.high)} recorded"
    )
    inside = before.low - 1e-9 <= now <= before.high + 1e-9
    return check("benchmark", [] if inside else [f"{text}: outside the interval"], text)
