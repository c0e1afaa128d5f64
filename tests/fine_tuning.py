"""The sft stage on a tiny model and traces by hand."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from factory.core.artifacts import Artifact, Inputs, seal
from factory.core.context import Context
from factory.core.jsonl import write_records
from factory.core.machine import Machine
from factory.core.records import SamplingConfig, Trace, Verdict
from factory.models.tiny import save_tiny_model
from factory.stages.sft.config import SftConfig
from factory.stages.sft.run import run

MACHINE = Machine(device="cpu", threads=1, micro_batch=4, checkpoint_steps=3)
ROWS = 20


def trace(number: int, *, reasoning: str | None = None, answer: str | None = "4") -> Trace:
    return Trace(
        problem_id=f"p{number}",
        sample=0,
        question=f"What is {number}?",
        prompt="another prompt, with examples",
        completion="as it was sampled",
        reasoning=reasoning if answer is None or reasoning else "so" + " so" * (number % 5),
        answer=answer,
        finish_reason="stop",
        completion_tokens=9,
        seed=0,
        sampling=SamplingConfig(),
        style="few_shot",
        model="0" * 64,
        verdict=Verdict(outcome="correct", answer=answer, explanation=""),
    )


def sealed(folder: Path, kind: str) -> Artifact:
    """Seal a folder as an artifact of the kind, made by no particular stage."""
    fields = {
        "kind": kind,
        "name": kind,
        "stage": kind,
        "stage_version": 1,
        "fingerprint": "0" * 64,
        "config": {},
        "inputs": {},
        "seed": 0,
        "metrics": {},
        "versions": {},
        "machine": {},
        "commit": "",
        "dirty": False,
        "seconds": 0.0,
        "peak_memory_gib": 0.0,
        "created": "",
    }
    return seal(folder, folder.with_name(folder.name + "-sealed"), fields)


def make_inputs(root: Path, traces: Sequence[Trace]) -> Inputs:
    root.mkdir(parents=True, exist_ok=True)
    model = save_tiny_model(root / "model", "llama", hidden=32, layers=1)
    (root / "traces").mkdir()
    write_records(root / "traces" / "traces.jsonl", traces)
    return Inputs(model=sealed(model, "model"), traces=sealed(root / "traces", "traces"))


def config(**changes) -> SftConfig:
    values = {"learning_rate": 1e-2, "epochs": 3, "batch": 8, **changes}
    return SftConfig(kind="sft", model="model", traces="traces", **values)


def stage(
    root: Path, settings: SftConfig, inputs: Inputs, *, machine: Machine = MACHINE
) -> tuple[dict[str, float], list[dict]]:
    """Run the stage into root/out; returns its metrics and the events it sent."""
    for name in ("out", "scratch"):
        (root / name).mkdir(parents=True, exist_ok=True)
    events = io.StringIO()
    metrics = run(settings, inputs, root / "out", Context(7, machine, root / "scratch", events))
    return metrics, [json.loads(line) for line in events.getvalue().splitlines()]
