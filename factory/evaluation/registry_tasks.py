"""Tasks of lm-eval's registry, run by lm-eval with the factory's sampler behind it.

They keep their own documents, text, settings, filters and metrics; only what answers is ours. The
factory's own benchmarks do not come by here (`run.py`).
"""

# pyright: basic
# lm-eval has no types of its own.

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from factory.core.errors import DataError, RecipeError
from factory.core.records import OUTCOMES, EvalSample, SamplingConfig, Score, Verdict
from factory.evaluation.asking import EvaluatedModel
from factory.evaluation.runs import EvalRequest, Results, Run, Sampled
from factory.evaluation.scores import graded_sample, score_row
from factory.evaluation.statistics import mean_interval
from factory.sampling.sampler import Completion


@dataclass(frozen=True, kw_only=True)
class TaskRun(Run):
    """A task of the registry, in the mode that its own settings say."""

    task: Task
    sampling: SamplingConfig | None
    """None where the task's own settings hold."""
    is_raw: bool
    """Its text goes to the model as it is, without the prompt protocol."""
    limit: int | None


@dataclass
class Registry:
    """Finds tasks by name: YAML of a folder first, then all of lm-eval's."""

    folder: Path
    seed: int
    """Of few-shot examples."""
    _managers: dict[bool, TaskManager] = field(default_factory=dict)

    def run_of(
        self, benchmark: str, name: str, *,
        sampling: SamplingConfig | None, is_raw: bool, limit: int | None,
    ) -> TaskRun:  # fmt: skip
        """The run of a benchmark that asks this task; RecipeError if there is no such task,
        DataError if its data cannot be had."""
        task = self._load(name)
        _refuse_unsafe(name, task)
        settings = task.get_config("generation_kwargs") or {}
        used = sampling or foreign_sampling(settings, 1)
        run = TaskRun(
            benchmark=benchmark,
            mode="greedy" if used.temperature == 0 else "sampled",
            version=str(task.VERSION),
            samples=task.get_config("repeats") or 1,
            task=task,
            sampling=sampling,
            is_raw=is_raw,
            limit=limit,
        )
        task.set_config("task", run.name)
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(self.seed)
        return run

    def _load(self, name: str) -> Task:
        """The one task of this name; its data may come from the hub, which is lm-eval's affair."""
        manager = self._manager(with_defaults=False)
        if name not in manager.task_index:
            # Reading lm-eval's own 14 000 files takes seconds: only when ours do not have it.
            manager = self._manager(with_defaults=True)
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=4, cutoff=0.6)
            hint = f"; near names: {', '.join(near)}" if near else ""
            raise RecipeError(
                f"task {name!r}: neither a YAML in evals/ nor a task of lm-eval's registry{hint}"
            )
        try:
            tasks = manager.load(name)["tasks"]
        except (OSError, ValueError) as error:
            raise DataError(
                f"task {name!r}: its data cannot be loaded ({type(error).__name__}: "
                f"{_first_line(error)}); registry tasks read the hub or its local cache"
            ) from error
        if name in tasks and _is_graded_here(tasks[name]):
            raise RecipeError(
                f"task {name!r}: problems that the factory grades are asked by the name of a "
                "benchmark: register them with @benchmark"
            )
        if list(tasks) != [name]:
            raise RecipeError(
                f"task {name!r} is a group of {len(tasks)} tasks; name one of them, "
                f"e.g. {', '.join(sorted(tasks)[:3])}"
            )
        return tasks[name]

    def _manager(self, *, with_defaults: bool) -> TaskManager:
        if with_defaults not in self._managers:
            self._managers[with_defaults] = TaskManager(
                include_path=str(self.folder), include_defaults=with_defaults
            )
        return self._managers[with_defaults]


@dataclass(eq=False)
class SamplerLM(LM):
    """What lm-eval takes for a model: the sampler, and for tasks that compare likelihoods lm-eval's
    own model, which is opened only if there are such."""

    runs: dict[str, TaskRun]
    model: EvaluatedModel
    max_new_tokens: int
    """For tasks that state no limit."""
    open_scorer: Callable[[], LM]

    def __post_init__(self) -> None:
        super().__init__()
        self._scorer: LM | None = None
        self.sampled: Sampled = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text a request; lm-eval hands over those of all tasks at once."""
        own = [
            request for _, same in groupby(requests, key=id) for request in self._own(list(same))
        ]
        sampled = [pair for batch in self.model.ask(own, segment="registry") for pair in batch]
        self.sampled += sampled
        return [_reply(request, completion) for request, completion in sampled]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        return self._likelihood_model().loglikelihood(requests)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        return self._likelihood_model().loglikelihood_rolling(requests)

    def _likelihood_model(self) -> LM:
        if self._scorer is None:
            self._scorer = self.open_scorer()
        return self._scorer

    def _own(self, same: Sequence[Instance]) -> list[EvalRequest]:
        """Our requests of one of lm-eval's, which it repeats for every sample of it."""
        instance = same[0]
        run = self.runs[str(instance.task_name)]
        text, arguments = instance.arguments
        if run.sampling is None:
            sampling = foreign_sampling(arguments, self.max_new_tokens)
        else:
            # Where the text ends is part of the task.
            ends = {key: value for key, value in arguments.items() if key == "until"}
            stop = foreign_sampling(ends, self.max_new_tokens).stop
            sampling = run.sampling.model_copy(update={"stop": stop})
        return self.model.requests(
            run, f"{instance.doc_id}.{instance.idx}",
            text if run.is_raw else self.model.render(text),
            samples=len(same), sampling=sampling, question=text, is_raw=run.is_raw,
        )  # fmt: skip


def _reply(request: EvalRequest, completion: Completion) -> str:
    """The text for lm-eval's filters, without the stop text."""
    ends = [completion.text.find(stop) for stop in request.sampling.stop]
    return completion.text[: min((end for end in ends if end >= 0), default=None)]


def evaluate_tasks(
    runs: Sequence[TaskRun],
    model: EvaluatedModel,
    *,
    max_new_tokens: int,
    open_scorer: Callable[[], LM],
) -> Results:
    """Run tasks of the registry by lm-eval; `max_new_tokens` is for those that state no limit, and
    `open_scorer` makes lm-eval's own model for those that compare likelihoods."""
    lm = SamplerLM({run.name: run for run in runs}, model, max_new_tokens, open_scorer)
    limits = {
        run.name: list(range(min(run.limit, len(run.task.eval_docs))))
        for run in runs
        if run.limit is not None
    }
    results: Any = evaluate(
        lm=lm,
        task_dict={"tasks": {run.name: run.task for run in runs}},
        samples=limits or None,
        # Its standard errors know nothing of the other samples of a problem; ours do.
        bootstrap_iters=0,
        log_samples=True,
    )
    return Results(
        by_run={run.name: task_results(run, results, lm) for run in runs},
        record=harness_record(results),
        completion_tokens=sum(completion.tokens for _, completion in lm.sampled),
    )


def harness_record(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What of lm-eval's results is kept: all numbers and settings, no paths, times or code."""
    kept = ("results", "versions", "n-shot", "n-samples", "higher_is_better")
    settings = ("output_type", "repeats", "num_fewshot", "generation_kwargs", "metric_list")
    return {
        **{key: results[key] for key in kept},
        "configs": {
            name: {key: config[key] for key in settings if key in config}
            for name, config in results["configs"].items()
        },
    }


@contextmanager
def datasets_cache(folder: Path) -> Iterator[None]:
    """Let `datasets` prepare its files in this folder, not in the user's home, for a while."""
    from datasets import config

    before = config.HF_DATASETS_CACHE
    config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        config.HF_DATASETS_CACHE = before


def task_results(
    run: TaskRun, results: dict[str, Any], lm: SamplerLM
) -> tuple[list[Score], list[EvalSample]]:
    """Score rows and samples of a task, from lm-eval's own metrics.

    A metric becomes a row if it is a mean of values in [0, 1]; others stay in harness.json only.
    A sample's strict verdict is that of the task's first filter, the lenient one of its last.
    """
    by_metric: dict[tuple[str, str], dict[int, Any]] = {}
    for example in results["samples"][run.name]:
        for metric in example["metrics"]:
            values = by_metric.setdefault((metric, example["filter"]), {})
            values[example["doc_id"]] = example[metric]
    means = {
        key: {number: float(value) for number, value in values.items()}
        for key, values in by_metric.items()
        if _is_mean(values, results["results"][run.name].get(",".join(key)))
    }
    if not means:
        return [], []
    sampled = [(request, completion) for request, completion in lm.sampled if request.run is run]
    # Likelihoods are always those of lm-eval's own text.
    prompt = None if run.is_raw or not sampled else lm.model.prompt
    sampling = sampled[0][0].sampling if sampled else foreign_sampling({}, 1)
    verdicts = _verdicts(means)
    samples = [
        graded_sample(
            request,
            completion,
            verdicts=verdicts[_number(request)],
            prompt=prompt,
            model=lm.model.fingerprint,
        )
        for request, completion in sampled
    ]
    style = prompt.style if prompt else "raw"
    scores = [
        _score(run, key, values, sampling=sampling, style=style) for key, values in means.items()
    ]
    return scores, samples


def _number(request: EvalRequest) -> int:
    return int(request.document.split(".")[0])


def _is_mean(values: dict[int, Any], aggregate: Any) -> bool:
    everything = [aggregate, *values.values()]
    if not all(isinstance(value, Real) for value in everything):
        return False
    total, *numbers = map(float, everything)
    in_range = all(0 <= number <= 1 for number in numbers)
    return in_range and abs(total - sum(numbers) / len(numbers)) < 1e-9


def _score(
    run: TaskRun,
    key: tuple[str, str],
    values: dict[int, float],
    *,
    sampling: SamplingConfig,
    style: str,
) -> Score:
    metric, filter_name = key
    right = sum(value == 1 for value in values.values())
    return score_row(
        run,
        metric if filter_name == "none" else f"{metric}_{filter_name}",
        mean_interval(list(values.values())),
        k=run.samples,
        outcomes=dict.fromkeys(OUTCOMES, 0) | {"correct": right, "wrong": len(values) - right},
        sampling=sampling,
        prompt_style=style,
    )


def _verdicts(
    means: dict[tuple[str, str], dict[int, float]],
) -> dict[int, tuple[Verdict, Verdict]]:
    first = next(iter(means))
    last = [key for key in means if key[0] == first[0]][-1]
    return {
        number: (_verdict(first, means[first][number]), _verdict(last, means[last][number]))
        for number in means[first]
    }


def _verdict(key: tuple[str, str], value: float) -> Verdict:
    return Verdict(
        outcome="correct" if value == 1 else "wrong",
        answer=None,
        explanation=f"lm-eval {','.join(key)} = {value:g}",
    )


def foreign_sampling(arguments: dict[str, Any], max_new_tokens: int) -> SamplingConfig:
    """lm-eval's generation arguments as our settings, `max_new_tokens` where they have no limit.

    RecipeError on an argument that no engine of ours knows: ignoring it would change the score.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    rest: dict[str, Any] = {**normalize_gen_kwargs(arguments, default_max_gen_toks=max_new_tokens)}
    until, limit = rest.pop("until"), rest.pop("max_gen_toks")
    do_sample, top_p = rest.pop("do_sample"), rest.pop("top_p", 1.0)
    # lm-eval: sampling without a temperature means temperature 1.
    temperature = rest.pop("temperature", 1.0)
    if rest:
        raise RecipeError(
            f"generation_kwargs {', '.join(sorted(rest))}: not supported; known are until, "
            "do_sample, temperature, top_p and max_gen_toks. Set the benchmark's sampling instead"
        )
    return SamplingConfig(
        temperature=float(temperature) if do_sample else 0.0,
        top_p=float(top_p) if do_sample else 1.0,
        max_new_tokens=limit,
        stop=tuple(until),
    )


def _refuse_unsafe(name: str, task: Task) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise RecipeError(f"task {name!r} runs model-written code outside any sandbox: refused")
    if getattr(task, "MULTIMODAL", False):
        raise RecipeError(f"task {name!r} needs images or audio; the factory's models read text")


def _is_graded_here(task: Task) -> bool:
    return (task.get_config("metadata") or {}).get("graded_by") == "factory"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
