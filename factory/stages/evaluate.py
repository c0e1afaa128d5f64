"""Stage `evaluate`: one model on benchmarks, through lm-eval with our sampler behind it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from factory.artifacts import Artifact, Inputs
from factory.chat import PromptConfig, render, stop_texts
from factory.context import Context, Metrics
from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Questions, lines
from factory.cost.shapes import Unpriced
from factory.cost.work import drawing_work
from factory.errors import DataError, RecipeError
from factory.grading import GRADING_PACKAGES
from factory.jsonl import read_records, write_records
from factory.problems.bundled import BUNDLES, BundledSource, size
from factory.records import (
    AddedLater,
    AskedModelRef,
    EarlyStop,
    EvalSample,
    Problem,
    ProblemsRef,
    Record,
    SamplingConfig,
    Score,
)
from factory.stages.small import SAMPLES, small_sampling
from factory.stages.stage import (
    SAMPLING_MEMORY,
    Fields,
    Stage,
    StageConfig,
    never_served,
    no_objection,
    no_origins,
    no_rows,
    nothing_missing,
    register,
)

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedTokenizerBase

    from factory.evaluation.runs import Run, Sampled, Verdicts
    from factory.evaluation.tasks import Benchmark
    from factory.sampling.sampler import Sampler

EVALS = Path(__file__).resolve().parents[2] / "evals"
TEMPLATE = "factory_problems"


class BenchmarkConfig(Record):
    """One benchmark: the held-out problems of a stage, or a task by name."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Under which its scores stand."""
    problems: ProblemsRef | None = None
    """Its held-out split is the benchmark."""
    source: str | None = None
    """Only the problems of this source, e.g. one reasoning-gym family."""
    task: str | None = Field(default=None, pattern=r"^[^/\\]+$")
    """A YAML in `evals/`, or a task of lm-eval's registry (its data may come from the hub)."""
    version: Annotated[str | None, AddedLater()] = None
    """The task's version that is meant; another one is refused, since its scores do not compare."""
    limit: int | None = Field(default=None, ge=1)
    """The first so many problems."""
    sampling: SamplingConfig | None = None
    """Instead of the stage's; for a registry task, instead of the task's own."""
    samples: int | None = Field(default=None, ge=0)
    """Instead of the stage's."""
    raw: bool = False
    """A registry task's text goes to the model as it is, without the prompt protocol."""

    @model_validator(mode="after")
    def _says_what_to_ask(self) -> "BenchmarkConfig":
        if (self.problems is None) == (self.task is None):
            found = "neither" if self.task is None else "both"
            raise ValueError(f"give either problems or task, found {found}")
        if self.source is not None and self.problems is None:
            raise ValueError("source selects among problems; a task has none")
        if self.raw and self.task is None:
            raise ValueError("raw is for registry tasks; problems need a prompt")
        return self


class EvaluateConfig(StageConfig):
    """Scores of one model under one prompt protocol."""

    kind: Literal["evaluate"]
    model: AskedModelRef
    benchmarks: tuple[BenchmarkConfig, ...] = Field(min_length=1)
    """What is asked."""
    prompt: PromptConfig = PromptConfig()
    """How our own benchmarks are asked, and registry tasks that are not `raw`."""
    sampling: SamplingConfig = SamplingConfig()
    """Temperature 0.6 and top-p 0.95 as R1's evaluation has them (arXiv 2501.12948 v2, D.1)."""
    samples: int = Field(default=4, ge=0)
    """k: samples a problem. R1 takes 4 to 64, by the benchmark's size; 0 asks greedily only."""
    greedy: bool = True
    """One more answer a problem at temperature 0."""
    stop_at: Annotated[EarlyStop | None, AddedLater()] = None
    """Ends the sampling of a benchmark of ours as soon as its error bar is so narrow, in whole
    rounds over all its problems; k is then what the rule led to, at most `samples`."""

    @model_validator(mode="after")
    def _asks_something(self) -> "EvaluateConfig":
        names = [benchmark.name for benchmark in self.benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"benchmarks of equal name: {', '.join(twice)}")
        for benchmark in self.benchmarks:
            if not self.greedy and self.samples_of(benchmark) == 0:
                raise ValueError(f"benchmark {benchmark.name}: samples is 0 and greedy is off")
        return self

    def samples_of(self, benchmark: BenchmarkConfig) -> int:
        return self.samples if benchmark.samples is None else benchmark.samples


def run(config: EvaluateConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write scores.jsonl, samples.jsonl and harness.json; returns every `<benchmark>.<metric>`.

    EngineError if a grader fails on more than 1 % of a benchmark's samples; RecipeError or
    DataError if a task is unknown, has no data, or leaves no problems.
    """
    from factory.evaluation.harness import harness_record
    from factory.evaluation.summary import trap

    asked = _ask_model(config, inputs, context)
    scores: list[Score] = []
    samples: list[EvalSample] = []
    for one in asked.runs:
        rows, kept = _score_run(one, asked, prompt=config.prompt, model=inputs["model"])
        if not rows:
            context.note(f"{one.benchmark}: no metric in [0, 1]; its numbers are in harness.json")
        if told := trap(kept):
            context.note(f"{one.name}: {told}")
        scores += rows
        samples += kept
    write_records(out / "scores.jsonl", scores)
    write_records(out / "samples.jsonl", samples)
    record = harness_record(asked.results)
    text = json.dumps(record, indent=2, sort_keys=True, default=float)
    (out / "harness.json").write_text(text + "\n", encoding="utf-8")
    tokens = sum(completion.tokens for _, completion in asked.sampled)
    return {
        **{f"{score.benchmark}.{score.metric}": score.value for score in scores},
        "completion_tokens": float(tokens),
    }


@dataclass
class _Asked:
    """Everything the model said, and what lm-eval makes of it."""

    runs: "list[Run]" = field(default_factory=list)
    sampled: "Sampled" = field(default_factory=list)
    verdicts: "Verdicts" = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)


def _ask_model(config: EvaluateConfig, inputs: Inputs, context: Context) -> _Asked:
    from factory.evaluation.harness import SamplerLM, datasets_cache, run_harness
    from factory.evaluation.rounds import is_narrow
    from factory.evaluation.scores import grade_draws
    from factory.evaluation.tasks import TaskBuilder

    asked = _Asked()
    model = inputs["model"].path
    tokenizer = _tokenizer(model)
    ask = partial(render, prompt=config.prompt, tokenizer=tokenizer)

    def grade(sampled: "Sampled") -> None:
        asked.sampled += sampled
        verdicts = grade_draws(
            sampled,
            prompt=config.prompt,
            processes=context.machine.thread_count(),
            is_isolated=not context.machine.unsandboxed,
        )
        for key, pairs in verdicts.items():
            asked.verdicts.setdefault(key, []).extend(pairs)

    with datasets_cache(context.scratch / "datasets"):
        builder = TaskBuilder(EVALS, ask, asked.verdicts, context.seed)
        asked.runs = [run for one in _benchmarks(config, inputs) for run in builder.build(one)]
        _check_versions(config, asked.runs)
        _check_reach(asked.runs, model)
        lm = SamplerLM(
            runs={one.name: one for one in asked.runs},
            ask=ask,
            tokenize=lambda text, special: tokenizer(text, add_special_tokens=special)["input_ids"],
            max_new_tokens=config.sampling.max_new_tokens,
            open_sampler=partial(_sampler, model, context),
            open_scorer=partial(_likelihood_model, model, context),
            on_sampled=grade,
            is_enough=lambda run, samples: is_narrow(run, samples, asked.verdicts),
            context=context,
        )
        asked.results = run_harness(asked.runs, lm)
    return asked


def _score_run(
    run: "Run", asked: _Asked, *, prompt: PromptConfig, model: Artifact
) -> tuple[list[Score], list[EvalSample]]:
    from factory.evaluation.foreign import foreign_results
    from factory.evaluation.scores import own_samples, own_scores

    fingerprint = model.fingerprint
    if run.problems is None:
        return foreign_results(
            run, asked.results, sampled=asked.sampled, prompt=prompt, model=fingerprint
        )
    samples = own_samples(
        run, asked.sampled, verdicts=asked.verdicts, prompt=prompt, model=fingerprint
    )
    return own_scores(run, samples, prompt_style=prompt.style), samples


def _check_versions(config: EvaluateConfig, runs: "list[Run]") -> None:
    """RecipeError where a task is not of the version that its benchmark means."""
    meant = {one.name: one.version for one in config.benchmarks if one.version is not None}
    for run in runs:
        if meant.get(run.benchmark, run.version) != run.version:
            raise RecipeError(
                f"benchmark {run.benchmark}: version {meant[run.benchmark]} is meant, its task is "
                f"of version {run.version}"
            )


def _check_reach(runs: "list[Run]", model: Path) -> None:
    """RecipeError where a task needs the likelihoods of a model that is on a server."""
    from factory.sampling.served import read_served

    served = read_served(model)
    for run in runs:
        if served is not None and run.task.OUTPUT_TYPE != "generate_until":
            raise RecipeError(
                f"benchmark {run.benchmark}: its task compares likelihoods, for which weights are "
                f"needed, and {served.name} is on a server; leave it out"
            )


def task_files(config: EvaluateConfig) -> tuple[Path, ...]:
    """The YAML in `evals/` that decide what is asked and how it is scored."""
    names = {TEMPLATE} | {one.task for one in config.benchmarks if one.task is not None}
    paths = (EVALS / f"{name}.yaml" for name in sorted(names))
    return tuple(path for path in paths if path.is_file())


def _benchmarks(config: EvaluateConfig, inputs: Inputs) -> "list[Benchmark]":
    """The benchmarks with the stage's settings filled in and their problems read."""
    from factory.evaluation.tasks import Benchmark

    benchmarks = []
    for number, one in enumerate(config.benchmarks):
        sampling = one.sampling or config.sampling
        stop = sampling.stop or stop_texts(config.prompt)
        problems = None
        if one.problems is not None:
            problems = _held_out(inputs[f"benchmarks.{number}.problems"], one)
        benchmarks.append(
            Benchmark(
                name=one.name,
                task=one.task or TEMPLATE,
                sampling=sampling.model_copy(update={"stop": stop}),
                samples=config.samples_of(one),
                greedy=config.greedy,
                problems=problems,
                limit=one.limit,
                is_raw=one.raw,
                overrides_sampling=one.sampling is not None,
                stop_at=config.stop_at,
            )
        )
    return benchmarks


def _held_out(artifact: Artifact, benchmark: BenchmarkConfig) -> tuple[Problem, ...]:
    everything = list(read_records(artifact.file("held_out.jsonl"), Problem))
    wanted = [p for p in everything if benchmark.source in (None, p.source)]
    if not wanted:
        sources = ", ".join(sorted({p.source for p in everything})) or "none"
        raise DataError(
            f"benchmark {benchmark.name}: no held-out problems of source {benchmark.source!r} "
            f"in {artifact.name}; its sources: {sources}"
        )
    return tuple(wanted)


def _sampler(model: Path, context: Context, max_length: int, mean_length: int) -> "Sampler":
    from factory.sampling import open_sampler

    return open_sampler(
        model,
        context.machine,
        max_length=max_length,
        mean_length=mean_length,
        on_cluster=True,
        notify=context.note,
        scratch=context.scratch,
        figures=context.figures,
    )


def _likelihood_model(model: Path, context: Context) -> "LM":
    """lm-eval's own transformers model: tasks that compare likelihoods need no sampler."""
    from lm_eval.models.huggingface import HFLM

    machine = context.machine
    on_gpu = machine.takes_gpu()
    return HFLM(
        pretrained=str(model),
        device="cuda" if on_gpu else "cpu",
        dtype=machine.torch_dtype_name(on_gpu=on_gpu),
        # Not a machine setting: what shares a batch rounds alike.
        batch_size=8,
        trust_remote_code=False,
    )


def _tokenizer(model: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)


HARNESS_SECONDS = 2.5
"""Of lm-eval, fitted."""


def estimate(config: EvaluateConfig, cost: CostContext) -> tuple[StageCost, None]:
    model = cost.model()
    parts = []
    for number, benchmark in enumerate(config.benchmarks):
        problems, question = _benchmark_size(benchmark, number, cost)
        limit = (benchmark.sampling or config.sampling).max_new_tokens
        completion, is_assumed = cost.expected(limit)
        for samples in (config.samples_of(benchmark), int(config.greedy)):
            if samples:
                load = cost.decode_load(
                    model, config.prompt, question=question, prompts=problems,
                    rows=problems * samples, completion=completion, limit=limit,
                )  # fmt: skip
                parts.append(drawing_work(cost, model, load, is_assumed=is_assumed))
    start = cost.start
    return StageCost(
        start + HARNESS_SECONDS + sum(part.seconds - start for part in parts),
        sum(part.tokens for part in parts),
        max(part.memory for part in parts),
        sum(part.disk for part in parts),
        is_assumed=any(part.is_assumed for part in parts),
    ), None


def _benchmark_size(
    benchmark: BenchmarkConfig, number: int, cost: CostContext
) -> tuple[int, float]:
    """Problems of a benchmark and characters of a question."""
    if benchmark.problems is not None:
        supply: Questions = cost.read(f"benchmarks.{number}.problems")
        sources = [benchmark.source] if benchmark.source else []
        return supply.count_and_length("held_out", sources, benchmark.limit)
    if benchmark.task in BUNDLES:
        source = BundledSource.model_validate({"type": "bundled", "name": benchmark.task})
        problems, characters = size(source)
        return min(problems, benchmark.limit or problems), characters
    if benchmark.limit is None:
        raise Unpriced(
            f"how many questions lm-eval's task {benchmark.task} has is not known here: give its "
            "benchmark a limit"
        )
    return benchmark.limit, 400.0


def completions(artifact: Artifact) -> float:
    return lines(artifact.file("samples.jsonl"))


def small(fields: Fields) -> Fields:
    def small_benchmark(benchmark: Mapping[str, Any]) -> Fields:
        sampling = benchmark["sampling"]
        return {
            **benchmark,
            "source": None,
            "limit": min(benchmark["limit"] or 2, 2),
            "sampling": sampling and small_sampling(sampling),
            "samples": benchmark["samples"] and min(benchmark["samples"], SAMPLES),
        }

    return {
        **fields,
        "benchmarks": [small_benchmark(benchmark) for benchmark in fields["benchmarks"]],
        "sampling": small_sampling(fields["sampling"]),
        "samples": min(fields["samples"], SAMPLES),
    }


STAGE = register(
    Stage(
        kind="evaluate",
        config=EvaluateConfig,
        produces="scores",
        version=3,
        run=run,
        packages=("torch", "transformers", "lm-eval", *GRADING_PACKAGES),
        preload=("transformers", "lm_eval.evaluator", "factory.sampling.blocks"),
        trains=False,
        is_single=False,
        external_files=task_files,
        uses=no_rows,
        check=no_objection,
        missing=nothing_missing,
        is_served=never_served,
        memory_settings=SAMPLING_MEMORY,
        estimate=estimate,
        completions=completions,
        tokens="sampled",
        small=small,
        visible=None,
        origins=no_origins,
    )
)
