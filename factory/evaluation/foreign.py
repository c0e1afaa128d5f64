"""Scores of tasks from lm-eval's registry, taken from its own filters and metrics."""

from numbers import Real
from typing import Any

from factory.chat import PromptConfig
from factory.evaluation.runs import EvalRequest, Run, Sampled
from factory.evaluation.scores import graded_sample, score_row
from factory.evaluation.statistics import mean_interval
from factory.evaluation.tasks import foreign_sampling
from factory.records import OUTCOMES, EvalSample, Score, Verdict


def foreign_results(
    run: Run, results: dict[str, Any], *, sampled: Sampled, prompt: PromptConfig, model: str
) -> tuple[list[Score], list[EvalSample]]:
    """Score rows and samples of a foreign task, from lm-eval's own metrics.

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
    draws = [(draw, completion) for draw, completion in sampled if draw.run is run]
    scores = [
        _score(run, key, values=values, draws=draws, prompt=prompt) for key, values in means.items()
    ]
    if not means:
        return scores, []
    verdicts = _verdicts(means)
    samples = [
        graded_sample(
            draw, completion, verdicts=verdicts[_number(draw)], prompt=prompt, model=model
        )
        for draw, completion in draws
    ]
    return scores, samples


def _number(draw: EvalRequest) -> int:
    return int(draw.document.split(".")[0])


def _is_mean(values: dict[int, Any], aggregate: Any) -> bool:
    everything = [aggregate, *values.values()]
    if not all(isinstance(value, Real) for value in everything):
        return False
    total, *numbers = map(float, everything)
    in_range = all(0 <= number <= 1 for number in numbers)
    return in_range and abs(total - sum(numbers) / len(numbers)) < 1e-9


def _score(
    run: Run,
    key: tuple[str, str],
    *,
    values: dict[int, float],
    draws: Sampled,
    prompt: PromptConfig,
) -> Score:
    metric, filter_name = key
    right = sum(value == 1 for value in values.values())
    outcomes = dict.fromkeys(OUTCOMES, 0) | {"correct": right, "wrong": len(values) - right}
    return score_row(
        run,
        metric if filter_name == "none" else f"{metric}_{filter_name}",
        mean_interval(list(values.values())),
        k=run.samples,
        outcomes=outcomes,
        sampling=draws[0][0].sampling if draws else foreign_sampling({}, 1),
        # Likelihoods are always those of lm-eval's own text.
        prompt_style="raw" if run.is_raw or not draws else prompt.style,
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
