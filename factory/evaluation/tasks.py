"""Benchmarks as lm-eval tasks: our own YAML in `evals/`, or any task of lm-eval's registry.

A benchmark asked in one mode (sampled, greedy) is one `Run`, hence one lm-eval task under a name
of its own. Runs of our own YAML carry Problems and are graded by the factory; foreign ones keep
their own documents, text, settings, filters and metrics.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from factory.errors import DataError, RecipeError
from factory.evaluation.documents import document_problem, pass_rates, problem_documents
from factory.evaluation.runs import Run, Verdicts
from factory.records import EarlyStop, Mode, Problem, SamplingConfig

TEMPLATE = "factory_problems"
"""The YAML in `evals/` that takes any problems."""


@dataclass(frozen=True)
class Benchmark:
    """What to ask, how often and with which settings."""

    name: str
    task: str
    """Name of a YAML in `evals/` or of a task in lm-eval's registry."""
    sampling: SamplingConfig
    samples: int
    """Samples a problem in the sampled mode; 0 leaves that mode out."""
    greedy: bool
    problems: tuple[Problem, ...] | None = None
    """Documents for the template; None where the task has its own."""
    limit: int | None = None
    is_raw: bool = False
    """A foreign task's text goes to the model as it is, without the prompt protocol."""
    overrides_sampling: bool = False
    """`sampling` was asked for by name, so it also replaces a foreign task's own settings."""
    stop_at: EarlyStop | None = None


@dataclass
class TaskBuilder:
    """Turns benchmarks into runs.

    `ask` renders a question as the model's prompt; `verdicts` is read when lm-eval asks for scores,
    after the caller has filled it.
    """

    evals: Path
    ask: Callable[[str], str]
    verdicts: Verdicts
    seed: int
    _registries: dict[bool, TaskManager] = field(default_factory=dict)

    def build(self, benchmark: Benchmark) -> list[Run]:
        """The benchmark's runs: sampled, then greedy. RecipeError if there is no such task."""
        yaml = self.evals / f"{benchmark.task}.yaml"
        config = load_yaml(yaml, resolve_func=True) if yaml.is_file() else {}
        if config.get("metadata", {}).get("graded_by") != "factory":
            return [self._foreign(benchmark)]
        problems = benchmark.problems
        if problems is None:
            problems = _own_problems(config)
        problems = problems[: benchmark.limit]
        modes: list[Mode] = ["sampled"] if benchmark.samples else []
        if benchmark.greedy:
            modes.append("greedy")
        return [self._own(benchmark, mode, config=config, problems=problems) for mode in modes]

    def _own(
        self,
        benchmark: Benchmark,
        mode: Mode,
        *,
        config: dict[str, Any],
        problems: tuple[Problem, ...],
    ) -> Run:
        name = f"{benchmark.name}.{mode}"
        samples = benchmark.samples if mode == "sampled" else 1
        sampling = benchmark.sampling
        if mode == "greedy":
            sampling = sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0})
        documents = problem_documents(problems)
        task = ConfigurableTask(
            config={
                **config,
                "task": name,
                "num_fewshot": 0,
                "custom_dataset": lambda **_: documents,
                "doc_to_text": lambda document: self.ask(document["prompt"]),
                "process_results": lambda document, _: pass_rates(
                    self.verdicts[name, document["id"]]
                ),
                "repeats": samples,
                "generation_kwargs": _generation_arguments(sampling),
                "filter_list": [
                    {"name": "samples", "filter": [{"function": "take_first_k", "k": samples}]}
                ],
            }
        )
        version = str(config["metadata"]["version"])
        stop_at = benchmark.stop_at if mode == "sampled" else None
        return Run(
            benchmark.name, name, mode, task, version, samples, sampling, problems, stop_at=stop_at
        )

    def _foreign(self, benchmark: Benchmark) -> Run:
        task = self._load(benchmark.task)
        _refuse_unsafe(benchmark.task, task)
        mode: Mode = "greedy" if _is_greedy(task, benchmark) else "sampled"
        name = f"{benchmark.name}.{mode}"
        task.set_config("task", name)
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(self.seed)
        return Run(
            benchmark=benchmark.name,
            name=name,
            mode=mode,
            task=task,
            version=str(task.VERSION),
            samples=task.get_config("repeats") or 1,
            sampling=benchmark.sampling if benchmark.overrides_sampling else None,
            problems=None,
            is_raw=benchmark.is_raw,
            limit=benchmark.limit,
        )

    def _load(self, name: str) -> Task:
        """The one task of this name; its data may come from the hub, which is lm-eval's affair."""
        registry = self._registry(with_defaults=False)
        if name not in registry.task_index:
            # Reading lm-eval's own 14 000 files takes seconds: only when ours do not have it.
            registry = self._registry(with_defaults=True)
        if name not in registry.task_index:
            near = difflib.get_close_matches(name, registry.all_tasks, n=4, cutoff=0.6)
            hint = f"; near names: {', '.join(near)}" if near else ""
            raise RecipeError(
                f"task {name!r}: neither a YAML in evals/ nor a task of lm-eval's registry{hint}"
            )
        try:
            tasks = registry.load(name)["tasks"]
        except (OSError, ValueError) as error:
            raise DataError(
                f"task {name!r}: its data cannot be loaded ({type(error).__name__}: "
                f"{_first_line(error)}); registry tasks read the hub or its local cache"
            ) from error
        if list(tasks) != [name]:
            raise RecipeError(
                f"task {name!r} is a group of {len(tasks)} tasks; name one of them, "
                f"e.g. {', '.join(sorted(tasks)[:3])}"
            )
        return tasks[name]

    def _registry(self, *, with_defaults: bool) -> TaskManager:
        if with_defaults not in self._registries:
            self._registries[with_defaults] = TaskManager(
                include_path=str(self.evals), include_defaults=with_defaults
            )
        return self._registries[with_defaults]


def _own_problems(config: dict[str, Any]) -> tuple[Problem, ...]:
    """The problems that a YAML of ours brings along."""
    metadata, arguments = config.get("metadata") or {}, config.get("dataset_kwargs") or {}
    documents = config["custom_dataset"](**metadata, **arguments)["test"]
    return tuple(document_problem(document) for document in documents)


def _generation_arguments(sampling: SamplingConfig) -> dict[str, Any]:
    """Our settings in lm-eval's words, for its record; the sampler is given ours."""
    return {
        "until": list(sampling.stop),
        "do_sample": sampling.temperature > 0,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_gen_toks": sampling.max_new_tokens,
    }


def _is_greedy(task: Task, benchmark: Benchmark) -> bool:
    if benchmark.overrides_sampling:
        return benchmark.sampling.temperature == 0
    return foreign_sampling(task.get_config("generation_kwargs") or {}, 1).temperature == 0


def foreign_sampling(arguments: dict[str, Any], max_new_tokens: int) -> SamplingConfig:
    """lm-eval's generation arguments as our settings, `max_new_tokens` where they have no limit.

    RecipeError on an argument that no engine of ours knows: ignoring it would change the score.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    known: dict[str, Any] = {**normalize_gen_kwargs(arguments, default_max_gen_toks=max_new_tokens)}
    until, limit = known.pop("until"), known.pop("max_gen_toks")
    do_sample, top_p = known.pop("do_sample"), known.pop("top_p", 1.0)
    # lm-eval: sampling without a temperature means temperature 1.
    temperature = known.pop("temperature", 1.0)
    if known:
        raise RecipeError(
            f"generation_kwargs {', '.join(sorted(known))}: not supported; known are until, "
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
