"""The benchmarks of `evals/` as stock lm-eval runs them and as the factory does: equal scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate as stock_evaluate
from lm_eval.tasks import TaskManager
from test_harness import Bench, bench, model, problems, tagged

from factory.core.records import Problem, SamplingConfig
from factory.problems.benchmark import BENCHMARKS, benchmark_problems
from factory.stages.evaluate import EVALS, PROBLEMS_VERSION, TEMPLATE, BenchmarkConfig

__all__ = ["bench", "model", "problems"]
"""Fixtures of the harness's tests."""

NAMES = sorted(path.stem for path in EVALS.glob("*.yaml") if path.stem in BENCHMARKS)
LIMIT = 4


def replies(problems: Sequence[Problem]) -> dict[str, str]:
    """By question: right in the form, right without it, wrong in it, nothing."""
    first, second, *_ = problems
    return dict(
        zip(
            [problem.prompt for problem in problems],
            [tagged(first.reference), f"The answer is {second.reference}", tagged("none"), ""],
            strict=True,
        )
    )


class Scripted(LM):
    """Answers by question, which stock lm-eval sends as it is."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self.texts = texts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [self.texts[request.arguments[0]] for request in requests]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError


def test_every_task_file_is_a_benchmark_and_the_other_way_round() -> None:
    files = {path.stem for path in EVALS.glob("*.yaml")} - {TEMPLATE, "published"}
    assert files == set(NAMES) == {row.name for row in BENCHMARKS.rows()}
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_the_same_completions_score_the_same(
    name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = benchmark_problems(name)[:LIMIT]
    texts = replies(requested)
    manager = TaskManager(include_path=str(EVALS), include_defaults=False)
    result: Any = stock_evaluate(
        lm=Scripted(texts),
        task_dict={"tasks": manager.load(name)["tasks"]},
        samples={name: list(range(LIMIT))},
        bootstrap_iters=0,
    )
    theirs = result["results"][name]

    def reply(prompt: str, seed: int) -> str:
        return next(text for question, text in texts.items() if question in prompt)

    sampling = SamplingConfig(max_new_tokens=4000)
    benchmark = BenchmarkConfig(name=name, task=name, limit=LIMIT, sampling=sampling)
    bench.run(reply, monkeypatch, benchmarks=(benchmark,), samples=0)
    ours = bench.scores()
    assert {metric: theirs[f"{metric},samples"] for metric in ("pass@1", "pass@1_lenient")} == {
        "pass@1": ours["greedy"].value,
        "pass@1_lenient": ours["greedy_lenient"].value,
    }
    assert (
        ours["greedy"].version == str(result["versions"][name]) == str(BENCHMARKS.row(name).version)
    )
    if name != "ifeval_541":  # nothing is the right answer there
        assert ours["greedy"].value == 1 / LIMIT
    if name not in ("ifeval_541", "humaneval_164"):  # a program needs its fence
        assert ours["greedy_lenient"].value == 2 / LIMIT


def test_what_is_kept_of_a_run_is_what_stock_lm_eval_says_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """harness.json has our runs in lm-eval's words: keys, settings and means."""
    from factory.evaluation.registry_tasks import harness_record

    name = "gsm8k_100"
    requested = benchmark_problems(name)[:LIMIT]
    texts = replies(requested)
    manager = TaskManager(include_path=str(EVALS), include_defaults=False)
    task = manager.load(name)["tasks"][name]
    assert int(task.VERSION) == PROBLEMS_VERSION
    run = f"{name}.greedy"
    task.set_config("task", run)
    task.set_config("num_fewshot", 0)
    kwargs = {
        "until": [], "do_sample": False, "temperature": 0.0, "top_p": 1.0,
        "max_gen_toks": 100,
    }  # fmt: skip
    task.set_config("generation_kwargs", kwargs)
    result: Any = stock_evaluate(
        lm=Scripted(texts),
        task_dict={"tasks": {run: task}},
        samples={run: list(range(LIMIT))},
        bootstrap_iters=0,
    )
    benchmark = BenchmarkConfig(name=name, task=name, limit=LIMIT)
    bench.run(
        lambda prompt, _: next(text for question, text in texts.items() if question in prompt),
        monkeypatch,
        benchmarks=(benchmark,),
        samples=0,
    )
    ours, theirs = bench.harness(), harness_record(result)
    # Ours knows only the problems that it asks.
    assert theirs["n-samples"][run].pop("original") == 100
    assert ours["n-samples"][run].pop("original") == LIMIT
    assert ours == theirs


def test_no_lm_eval_is_imported_for_benchmarks_of_our_own(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, factory.stages.evaluate, factory.evaluation.run\n"
        "from factory.problems.benchmark import benchmark_problems\n"
        "assert len(benchmark_problems('gsm8k_100')) == 100\n"
        "print(*(m for m in ('lm_eval', 'datasets', 'torch') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=EVALS.parent
    )
    assert done.stdout.split() == []
