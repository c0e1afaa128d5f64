"""Stage `evaluate`: one model on benchmarks; tasks of lm-eval's registry run in lm-eval."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from factory.core.artifacts import Artifact, Inputs
from factory.core.context import Context, Metrics
from factory.core.errors import DataError, RecipeError
from factory.core.jsonl import read_records, write_records
from factory.core.records import EvalSample, Mode, Problem, Score
from factory.core.shipped import shipped
from factory.cost.flows import lines
from factory.grading import GRADING_PACKAGES
from factory.problems.benchmark import BENCHMARKS, benchmark_problems
from factory.stages.evaluate_config import BenchmarkConfig, EvaluateConfig
from factory.stages.evaluate_cost import estimate
from factory.stages.judged import judge_blocks
from factory.stages.small import SAMPLES, small_judge, small_sampling
from factory.stages.stage import Fields, Shows, register, sampling_stage
from factory.text.chat import stop_texts
from factory.text.templates import open_tokenizer

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from factory.evaluation.asking import EvaluatedModel
    from factory.evaluation.registry_tasks import TaskRun
    from factory.evaluation.runs import OwnRun, Run
    from factory.sampling.sampler import Sampler

EVALS = shipped("evals")
TEMPLATE = "factory_problems"
"""The YAML in `evals/` by which stock lm-eval asks problems."""
PROBLEMS_VERSION = 1
"""Of benchmarks whose problems a stage made."""


def run(config: EvaluateConfig, inputs: Inputs, out: Path, context: Context) -> Metrics:
    """Write scores.jsonl, samples.jsonl and harness.json; returns every `<benchmark>.<metric>`.

    EngineError if a grader fails on more than 1 % of a benchmark's samples; RecipeError or
    DataError if a task is unknown, has no data, or leaves no problems.
    """
    from factory.evaluation.judged import Judging, check_open
    from factory.evaluation.run import evaluate_own
    from factory.evaluation.summary import trap

    folder = inputs["model"].path
    model = _evaluated_model(config, inputs["model"], context)
    own, parts = _own_runs(config, inputs), []
    judging = None
    if config.judge is not None:
        judging = Judging(config.judge, inputs["judge.model"].path, context)
    with _registry_runs(config, folder, context) as tasks:
        _check_versions(config, [*own, *tasks])
        if own:
            check_open(own, config.max_ungradable, has_judge=judging is not None)
            limits = {"max_ungradable": config.max_ungradable, "budgets": config.budgets}
            parts.append(evaluate_own(own, model, judging=judging, **limits))
        if tasks:
            from factory.evaluation.registry_tasks import evaluate_tasks

            scorer = partial(_likelihood_model, folder, context)
            longest = config.sampling.max_new_tokens
            parts.append(evaluate_tasks(tasks, model, max_new_tokens=longest, open_scorer=scorer))
    by_run = {name: result for part in parts for name, result in part.by_run.items()}
    scores: list[Score] = []
    samples: list[EvalSample] = []
    for name in (f"{b.name}.{mode}" for b in config.benchmarks for mode in get_args(Mode)):
        rows, kept = by_run.get(name, ([], None))
        if kept is None:
            continue  # not asked in that mode
        if not rows:
            context.note(f"{name}: no metric in [0, 1]; its numbers are in harness.json")
        if fault := trap(kept):
            context.note(f"{name}: {fault}")
        scores += rows
        samples += kept
    record: dict[str, dict[str, Any]] = {}
    for part in parts:
        for key, entries in part.record.items():
            record.setdefault(key, {}).update(entries)
    write_records(out / "scores.jsonl", scores)
    write_records(out / "samples.jsonl", samples)
    if judging is not None:
        write_records(out / "judgements.jsonl", judging.votes)
    if config.budgets:
        write_records(out / "budgets.jsonl", (row for part in parts for row in part.spent))
    text = json.dumps(record, indent=2, sort_keys=True, default=float)
    (out / "harness.json").write_text(text + "\n", encoding="utf-8")
    return {
        **{f"{score.benchmark}.{score.metric}": score.value for score in scores},
        "completion_tokens": float(sum(part.completion_tokens for part in parts)),
        **({} if judging is None else judging.metrics),
    }


def _evaluated_model(
    config: EvaluateConfig, artifact: Artifact, context: Context
) -> "EvaluatedModel":
    from factory.evaluation.asking import EvaluatedModel
    from factory.sampling.served import read_served

    served = read_served(artifact.path)
    if config.budgets and served is not None and not served.has_tokenizer:
        raise RecipeError(
            f"budgets: {served.name} is on a server that writes its prompts itself: none goes on "
            "after closed thoughts; name the model's tokenizer (source.tokenizer)"
        )
    return EvaluatedModel(
        fingerprint=artifact.fingerprint,
        tokenizer=open_tokenizer(artifact.path),
        prompt=config.prompt,
        open_sampler=partial(_sampler, artifact.path, context),
        context=context,
    )


def _own_runs(config: EvaluateConfig, inputs: Inputs) -> "list[OwnRun]":
    """Two runs of each benchmark of the factory's own, sampled and greedy, where both are asked
    for."""
    from factory.evaluation.runs import OwnRun

    runs = []
    for number, benchmark in enumerate(config.benchmarks):
        if benchmark.problems is not None:
            problems = _held_out(inputs[f"benchmarks.{number}.problems"], benchmark)
            version = PROBLEMS_VERSION
        elif benchmark.is_own:
            problems = _named_problems(benchmark.task or "")
            version = BENCHMARKS.row(benchmark.task or "").version
        else:
            continue
        sampling = benchmark.sampling or config.sampling
        sampling = sampling.model_copy(update={"stop": sampling.stop or stop_texts(config.prompt)})
        build = partial(
            OwnRun, benchmark=benchmark.name, version=str(version),
            problems=problems[: benchmark.limit],
        )  # fmt: skip
        if samples := config.samples_of(benchmark):
            runs.append(
                build(mode="sampled", samples=samples, sampling=sampling, stop_at=config.stop_at)
            )
        if config.greedy:
            greedily = sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0})
            runs.append(build(mode="greedy", samples=1, sampling=greedily))
    return runs


def _named_problems(name: str) -> tuple[Problem, ...]:
    """Of a benchmark by name; DataError where a plug-in's has a reference that is no answer."""
    problems, origin = benchmark_problems(name), BENCHMARKS.row(name).origin
    if origin.kind != "factory":
        from factory.grading import GradingPool
        from factory.problems.foreign import check_reference

        with GradingPool() as pool:
            for problem in problems:
                check_reference(problem, f"benchmark {name} of {origin}, {problem.id}", pool)
    return problems


@contextmanager
def _registry_runs(
    config: EvaluateConfig, model: Path, context: Context
) -> "Iterator[list[TaskRun]]":
    """The runs of tasks of lm-eval's registry, whose data are at hand for so long; RecipeError
    where one needs the likelihoods of a model that is on a server."""
    benchmarks = [benchmark for benchmark in config.benchmarks if not benchmark.is_own]
    if not benchmarks:
        yield []
        return
    from factory.evaluation.registry_tasks import Registry, datasets_cache
    from factory.sampling.served import read_served

    served = read_served(model)
    with datasets_cache(context.scratch / "datasets"):
        registry = Registry(EVALS, context.seed)
        runs = [
            registry.run_of(
                benchmark.name, benchmark.task or "",
                sampling=benchmark.sampling, is_raw=benchmark.raw, limit=benchmark.limit,
            )
            for benchmark in benchmarks
        ]  # fmt: skip
        for run in runs:
            if served is not None and run.task.OUTPUT_TYPE != "generate_until":
                raise RecipeError(
                    f"benchmark {run.benchmark}: its task compares likelihoods, for which weights "
                    f"are needed, and {served.name} is on a server; leave it out"
                )
        yield runs


def _check_versions(config: EvaluateConfig, runs: "Sequence[Run]") -> None:
    """RecipeError where a task is not of the version that its benchmark means."""
    meant = {b.name: b.version for b in config.benchmarks if b.version is not None}
    for run in runs:
        if meant.get(run.benchmark, run.version) != run.version:
            raise RecipeError(
                f"benchmark {run.benchmark}: version {meant[run.benchmark]} is meant, its task is "
                f"of version {run.version}"
            )


def plugin_rows(config: EvaluateConfig) -> set[tuple[str, str]]:
    """(door, name) of benchmarks that are asked by name, and of the graders of a plug-in's."""
    names = [b.task for b in config.benchmarks if b.is_own and b.task is not None]
    others = [name for name in names if BENCHMARKS.row(name).origin.kind != "factory"]
    kinds = {problem.kind for name in others for problem in benchmark_problems(name)}
    return {("benchmarks", name) for name in names} | {("graders", kind) for kind in kinds}


def task_files(config: EvaluateConfig) -> tuple[Path, ...]:
    """The YAML in `evals/` of its tasks, which say what is asked and how it is scored."""
    names = {TEMPLATE} | {
        benchmark.task for benchmark in config.benchmarks if benchmark.task is not None
    }
    paths = (EVALS / f"{name}.yaml" for name in sorted(names))
    return tuple(path for path in paths if path.is_file())


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
    arguments: dict[str, Any] = {
        "pretrained": str(model),
        "device": "cuda" if on_gpu else "cpu",
        "dtype": machine.torch_dtype_name(on_gpu=on_gpu),
        "batch_size": 8,  # not a machine setting: what shares a batch rounds alike
        "trust_remote_code": False,
    }
    return HFLM(**arguments)


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
        "budgets": [],  # so few tokens leave no room for thoughts, a mark and an answer
        "judge": fields["judge"] and small_judge(fields["judge"]),
    }


STAGE = register(
    sampling_stage(
        EvaluateConfig,
        produces="scores",
        version=3,
        run=run,
        packages=("torch", "transformers", "lm-eval", *GRADING_PACKAGES),
        preload=("transformers", "factory.evaluation.run"),
        external_files=task_files,
        uses=plugin_rows,
        estimate=estimate,
        completions=completions,
        small=small,
        shows=Shows("stages", judge_blocks),
    )
)
