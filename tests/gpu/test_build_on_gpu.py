"""The whole chain on a CUDA device; without one these tests say so and are skipped."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.building.pipeline import build
from factory.building.plan import make_plan
from factory.building.recipe import load_recipe
from factory.core.artifacts import open_artifact
from factory.core.machine import Machine

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]


class Quiet:
    """An observer that says nothing."""

    def __getattr__(self, occasion: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.fixture(scope="module")
def device() -> str:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.cuda.get_device_name()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_smoke_recipe_builds_on_a_gpu_in_bfloat16(
    device: str, architecture: str, tmp_path: Path
) -> None:
    recipe = load_recipe(
        ROOT / "recipes" / "smoke.yaml", [f"stages.base.source.architecture={architecture}"]
    )
    machine = Machine(device="cuda", dtype="bfloat16", block=8, micro_batch=4, checkpoint_steps=1)
    made = build(make_plan(recipe), tmp_path, machine, Quiet())
    assert set(made) == set(recipe.stages)
    zero = open_artifact(made["zero"].path)
    rows = [json.loads(line) for line in zero.file("telemetry.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    events = [
        json.loads(line) for line in (zero.run_path / "metrics.jsonl").read_text().splitlines()
    ]
    notes = [row["text"] for row in events if row["event"] == "note"]
    assert sum("training pass, as measured" in note for note in notes) == 1
    first = next(row["values"] for row in events if row["event"] == "metrics")
    assert first["pass/packed_seconds"] > 0 and first["pass/plain_seconds"] > 0
