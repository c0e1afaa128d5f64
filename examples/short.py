"""A stage of your own: traces of at most so many tokens.

factory build recipe.yaml --plugin examples/short.py

stages:
  short: {kind: short, traces: kept, most_tokens: 300}
"""

from pathlib import Path
from typing import Literal

from factory import plugins as api


class ShortConfig(api.StageConfig):
    """Keeps short traces, for a student that cannot write long ones."""

    kind: Literal["short"]
    traces: api.TracesRef
    most_tokens: int = 300


def run(config: ShortConfig, inputs: api.Inputs, out: Path, context: api.Context) -> api.Metrics:
    """Fill the folder `out`: what lies there is sealed, and the same inputs give the same bytes."""
    traces = list(api.read_records(inputs["traces"].file("traces.jsonl"), api.Trace))
    kept = [trace for trace in traces if trace.completion_tokens <= config.most_tokens]
    api.write_records(out / "traces.jsonl", kept)
    return {"kept": len(kept), "rejected.long": len(traces) - len(kept)}


def estimate(config: ShortConfig, cost: api.CostContext) -> tuple[api.StageCost, api.Flow]:
    """What it takes, and that it hands on as many traces as it reads, at most."""
    return api.line_work(cost.read("traces"))


api.register(api.light_stage(ShortConfig, produces="traces", version=1, run=run, estimate=estimate))
