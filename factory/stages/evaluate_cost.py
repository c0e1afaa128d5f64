"""What an evaluation takes: problems by samples, once more for each budget of thinking tokens."""

from factory.cost.context import CostContext, StageCost
from factory.cost.flows import Questions
from factory.cost.shapes import Unpriced
from factory.cost.work import drawing_work
from factory.problems.benchmark import benchmark_problems
from factory.stages.evaluate_config import BenchmarkConfig, EvaluateConfig
from factory.stages.judged import judge_work

GRADERS_SECONDS = 1.0
"""Until graders have imported what mathematics needs: 1.3 s of processor time in two processes."""
ANSWER_TOKENS = 64.0
"""Behind closed thoughts; an assumption."""
REGISTRY_SECONDS = 7.0
"""Of lm-eval, where it is asked for a task: its import and the reading of its registry, processor
time of one run."""


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
                if config.judge is not None and benchmark.problems is not None:
                    # As if all of its problems were open ones, each answer another.
                    work = judge_work(
                        cost, "judge.model", config.judge, question=question,
                        completion=completion, rows=problems * samples,
                    )  # fmt: skip
                    parts.append(work)
        for budget in config.budgets:
            rows = problems * (config.samples_of(benchmark) or 1)
            longer = question + budget * model.shape.characters_per_token
            load = cost.decode_load(
                model, config.prompt, question=longer, prompts=rows, rows=rows,
                completion=min(completion, ANSWER_TOKENS), limit=limit - budget,
            )  # fmt: skip
            parts.append(drawing_work(cost, model, load, is_assumed=True))
    start = cost.start
    is_all_own = all(benchmark.is_own for benchmark in config.benchmarks)
    own = GRADERS_SECONDS + (0.0 if is_all_own else REGISTRY_SECONDS)
    return StageCost(
        start + own + sum(part.seconds - start for part in parts),
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
    if benchmark.is_own:
        problems = benchmark_problems(benchmark.task or "")
        characters = sum(len(problem.prompt) for problem in problems) / len(problems)
        return min(len(problems), benchmark.limit or len(problems)), characters
    if benchmark.limit is None:
        raise Unpriced(
            f"how many questions lm-eval's task {benchmark.task} has is not known here: give its "
            "benchmark a limit"
        )
    return benchmark.limit, 400.0
