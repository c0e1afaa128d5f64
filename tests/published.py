"""A store with a tiny student that answers seven and stops: what the publishing tests publish."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.building.plan import make_plan
from factory.building.recipe import Recipe, load_recipe
from factory.core.artifacts import Artifact, InputEntry, seal
from factory.core.jsonl import write_records
from factory.core.records import (
    OUTCOMES,
    EvalSample,
    Problem,
    SamplingConfig,
    Score,
    Trace,
    Verdict,
)
from factory.evaluation.statistics import mean_interval
from factory.grading import grade
from factory.models.tiny import save_tiny_model
from factory.text.chat import PromptConfig, completion_text, render

ANSWER = completion_text("it is seven", "7")
PREFILL = "<think>"
GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=64)
RECIPE = {
    "name": "sevens",
    "seed": 3,
    "stages": {
        "base": {"kind": "model", "source": {"type": "tiny", "architecture": "llama"}},
        "sevens": {
            "kind": "problems",
            "sources": [
                {"type": "reasoning_gym", "family": "chain_sum", "train": 4, "held_out": 6}
            ],
        },
        "traces": {"kind": "generate", "model": "base", "problems": "sevens", "samples": 1},
        "kept": {"kind": "select", "traces": "traces"},
        "student": {
            "kind": "sft",
            "model": "base",
            "traces": "kept",
            "prompt": {"style": "chat", "prefill": PREFILL},
        },
        "eval_student": {
            "kind": "evaluate",
            "model": "student",
            "prompt": {"style": "chat", "prefill": PREFILL},
            "benchmarks": [{"name": "sevens", "problems": "sevens"}],
        },
    },
}


def recipe(folder: Path, **changes: Mapping[str, Any]) -> Recipe:
    stages = {name: {**stage, **changes.get(name, {})} for name, stage in RECIPE["stages"].items()}
    path = folder / "recipe.json"
    path.write_text(json.dumps({**RECIPE, "stages": stages}), encoding="utf-8")
    return load_recipe(path)


def make_store(
    folder: Path, student: Path, /, **changes: Mapping[str, Any]
) -> tuple[Path, dict[str, Artifact]]:
    """The recipe's artifacts, sealed under the fingerprints that its plan gives.

    `student` is a model folder that `trained_student` made; `changes` go into the stages' settings.
    """
    store = folder / "store"
    store.mkdir(parents=True)
    made: dict[str, Artifact] = {}
    for step in make_plan(recipe(folder, **changes)):
        partial = store / f"{step.name}.partial"
        partial.mkdir()
        _fill(step.name, partial, student, made)
        made[step.name] = seal(
            partial,
            store / f"{step.name}-{step.fingerprint[:12]}",
            {
                "kind": step.stage.produces,
                "name": step.name,
                "stage": step.kind,
                "stage_version": step.stage.version,
                "fingerprint": step.fingerprint,
                "config": step.config.model_dump(mode="json"),
                "inputs": {
                    path: InputEntry(name=name, fingerprint=made[name].fingerprint)
                    for path, name in step.inputs.items()
                },
                "seed": step.seed,
                "metrics": {"rows": 4.0} if step.kind == "sft" else {},
                "versions": {},
                "machine": {},
                "commit": "0" * 40,
                "dirty": False,
                "seconds": 1.0,
                "peak_memory_gib": 0.1,
                "created": f"2026-01-05T10:0{len(made)}:00Z",
            },
        )
    return store, made


def problems(start: int, count: int) -> list[Problem]:
    """Sums that are all seven."""
    return [
        Problem(
            id=f"sevens-{n}",
            prompt=f"What is {n} + {7 - n}?",
            reference="7",
            kind="math",
            source="reasoning_gym/chain_sum",
            licence="Apache-2.0",
        )
        for n in range(start, start + count)
    ]


def _fill(name: str, out: Path, student: Path, made: Mapping[str, Artifact]) -> None:
    if name == "base":
        save_tiny_model(out, "llama", seed=1)
    elif name == "student":
        for path in student.iterdir():
            shutil.copyfile(path, out / path.name)
    elif name == "sevens":
        write_records(out / "train.jsonl", problems(20, 4))
        write_records(out / "held_out.jsonl", problems(0, 6))
    elif name in ("traces", "kept"):
        write_records(
            out / "traces.jsonl", [_trace(problem, PromptConfig()) for problem in problems(20, 4)]
        )
    else:
        _write_scores(out)


def _trace(problem: Problem, prompt: PromptConfig) -> Trace:
    from factory.models.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    said = ANSWER.removeprefix(prompt.prefill)
    return Trace(
        problem_id=problem.id,
        sample=0,
        question=problem.prompt,
        prompt=render(problem.prompt, prompt, tokenizer),
        completion=said,
        reasoning="it is seven",
        answer="7",
        finish_reason="stop",
        completion_tokens=len(said) + 1,
        seed=2**63 + 5,
        sampling=GREEDY,
        style="chat",
        model="f" * 64,
        verdict=grade(problem, said, prefill=prompt.prefill),
    )


def _write_scores(out: Path) -> None:
    requested = PromptConfig(prefill=PREFILL)
    samples = [
        EvalSample(
            benchmark="sevens",
            mode="greedy",
            trace=_trace(problem, requested),
            lenient=Verdict(outcome="correct", answer="7", explanation="last number"),
        )
        for problem in problems(0, 6)
    ]
    interval = mean_interval([float(problem.trace.verdict.is_correct) for problem in samples])
    outcomes = [problem.trace.verdict.outcome for problem in samples]
    score = Score(
        benchmark="sevens",
        version="1",
        metric="greedy",
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=6,
        k=1,
        outcomes={name: outcomes.count(name) for name in OUTCOMES},
        sampling=GREEDY,
        prompt_style="chat",
    )
    write_records(out / "scores.jsonl", [score])
    write_records(out / "samples.jsonl", samples)


def trained_student(folder: Path) -> Path:
    """A tiny model that gives the one answer to every question, and then ends."""
    import torch

    from factory.models.tiny import byte_tokenizer, tiny_model

    tokenizer = byte_tokenizer()
    model = tiny_model("llama", seed=1)
    requested = PromptConfig(prefill=PREFILL)
    said = [*tokenizer(ANSWER.removeprefix(PREFILL))["input_ids"], tokenizer.eos_token_id]
    rows = []
    for item in problems(0, 6) + problems(20, 4):
        before = tokenizer(render(item.prompt, requested, tokenizer))["input_ids"]
        rows.append((before, said))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    width = max(len(before) for before, _ in rows) + len(said)
    ids = torch.full((len(rows), width), tokenizer.eos_token_id)
    labels = torch.full((len(rows), width), -100)
    for at, (before, after) in enumerate(rows):
        full = torch.tensor([*before, *after])
        ids[at, : len(full)] = full
        labels[at, len(before) : len(full)] = torch.tensor(after)
    for _ in range(70):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
