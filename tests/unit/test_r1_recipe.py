"""recipes/r1.yaml states the paper's numbers and wires its phases as the paper does.

Sources are named as in the recipe. docs/r1.md has these tests beside the sentences that they hold.
"""

from pathlib import Path
from typing import Any

import pytest

from factory.building.recipe import load_recipe
from factory.stages.pairs import PairsConfig
from factory.stages.reward_model.config import RewardModelConfig

R1 = Path(__file__).resolve().parents[2] / "recipes" / "r1.yaml"


@pytest.fixture(scope="module")
def stages() -> dict[str, dict[str, Any]]:
    return {name: config.model_dump() for name, config in load_recipe(R1).stages.items()}


def named(stage: dict[str, Any]) -> dict[str, float]:
    return {reward["name"]: reward["weight"] for reward in stage["rewards"]}


def test_r1_zero_is_pure_rl_on_the_base_with_the_numbers_of_2_1(stages: dict[str, Any]) -> None:
    zero = stages["zero"]
    assert (zero["model"], stages["base"]["kind"], zero["prompt"]["style"]) == (
        "base", "model", "zero",
    )  # fmt: skip
    assert (zero["steps"], zero["prompts"], zero["group"]) == (10400, 32, 16)
    assert (zero["updates_per_rollout"], zero["learning_rate"], zero["kl"]) == (16, 3e-6, 0.001)
    assert (zero["temperature"], zero["max_new_tokens"]) == (1.0, 32768)
    assert zero["length_jumps"] == ({"from_step": 8200, "max_new_tokens": 65536},)
    assert zero["reference_refresh_steps"] == 400
    assert named(zero) == {"accuracy": 1.0, "format": 1.0}


def test_the_cold_start_has_its_three_sources_at_their_temperature(stages: dict[str, Any]) -> None:
    requests = [stages[f"{name}_traces"]["prompt"]["style"] for name in ("few_shot", "reflect")]
    assert requests == ["few_shot", "reflect"]
    own = stages["zero_traces"]
    assert (own["model"], own["sampling"]["temperature"]) == ("zero", 1.0)
    kept = stages["zero_kept"]
    assert kept["outcomes"] == ("correct",) and kept["readable"] is not None
    assert (stages["zero_rewritten"]["traces"], stages["zero_reviewed"]["traces"]) == (
        "zero_kept", "zero_rewritten",
    )  # fmt: skip
    parts = {part["traces"] for part in stages["cold_traces"]["parts"]}
    assert parts == {"few_shot_kept", "reflect_kept", "zero_reviewed"}


def test_both_fine_tunings_start_from_the_base_as_in_b_4_2(stages: dict[str, Any]) -> None:
    cold, teacher = stages["cold"], stages["teacher"]
    assert (cold["learning_rate"], cold["final_learning_rate_share"]) == (5e-5, 0.1)
    assert (cold["batch"], cold["epochs"], cold["context"]) == (128, 2, 32768)
    assert cold["model"] == "base" and teacher == {**cold, "traces": "teacher_traces"}
    assert stages["teacher_traces"]["quotas"] == "r1"


def test_reasoning_rl_is_r1_zeros_from_the_cold_start_with_the_language_reward(
    stages: dict[str, Any],
) -> None:
    reasoning, zero = stages["reasoning"], stages["zero"]
    changed = {key for key in zero if reasoning[key] != zero[key]}
    assert changed == {"model", "prompt", "rewards", "steps", "length_jumps"}
    assert reasoning["model"] == "cold"
    assert named(reasoning) == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    # The ablation of B.6 leaves out that reward and nothing else.
    without = tuple(item for item in reasoning["rewards"] if item["name"] != "language")
    assert stages["reasoning_mixed"] == {**reasoning, "rewards": without}


def test_rejection_sampling_keeps_right_and_readable_answers(stages: dict[str, Any]) -> None:
    assert stages["reasoning_traces"]["model"] == "reasoning"
    assert stages["reasoning_traces"]["samples"] > 1
    kept = stages["reasoning_kept"]
    assert kept["outcomes"] == ("correct",) and kept["readable"] is not None
    judged = stages["general_judged"]
    assert (judged["kind"], judged["traces"]) == ("judge", "general_traces")
    assert stages["general_kept"]["traces"] == "general_judged"


def test_rl_for_all_scenarios_has_the_numbers_of_3_1_and_3_2_2(stages: dict[str, Any]) -> None:
    aligned = stages["aligned"]
    assert (aligned["model"], aligned["steps"], aligned["temperature"]) == ("teacher", 1700, 0.7)
    assert aligned["general"]["start_step"] == 1301
    starts = {reward["name"]: reward["start_step"] for reward in aligned["rewards"]}
    assert starts == {"accuracy": 1, "format": 1, "language": 1, "helpful": 1301, "safety": 1301}
    source = stages["preferred"]["source"]
    assert (source["votes"], source["margin"]) == (4, 1.0)
    assert stages["preferred"]["max_length_gap"] is not None
    for name in ("helpful", "safety"):
        model = stages[name]
        assert (model["learning_rate"], model["batch"]) == (6e-6, 256)
        assert (model["epochs"], model["context"]) == (1, 8192)


def test_the_numbers_of_3_1_are_the_defaults_too() -> None:
    model = RewardModelConfig(kind="reward_model", model="m", pairs="p")
    assert (model.learning_rate, model.batch, model.epochs, model.context) == (6e-6, 256, 1, 8192)
    judged = {"type": "judged", "traces": "t", "judge": "j"}
    source = PairsConfig.model_validate({"kind": "pairs", "source": judged}).model_dump()["source"]
    assert (source["votes"], source["margin"]) == (4, 1.0)
