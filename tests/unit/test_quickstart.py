"""The quickstart: what it promises about its length, and what it sets out to show."""

from pathlib import Path

import pytest

from factory.building.plan import Step, make_plan
from factory.building.pricing import bill
from factory.building.recipe import load_recipe
from factory.core.machine import DevicePeaks, Machine
from factory.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = load_recipe(ROOT / "recipes" / "quickstart.yaml")
INSTALL_SECONDS = 180.0
"""Two to three minutes, measured with an empty cache."""


def steps() -> dict[str, Step]:
    return {step.name: step for step in make_plan(QUICKSTART)}


@pytest.mark.parametrize(("gflops", "minutes"), [(185, 20), (66, 45)])
def test_install_and_build_are_estimated_within_the_promised_minutes(
    gflops: float, minutes: float, tmp_path: Path
) -> None:
    peaks = DevicePeaks(gflops=gflops, gigabytes_per_second=25, memory_gib=16)
    estimate = bill(make_plan(QUICKSTART), tmp_path, Machine(threads=2, peaks=peaks))
    assert estimate.missing == []
    assert INSTALL_SECONDS + estimate.seconds <= 60 * minutes
    assert max(row.estimate.memory_gib for row in estimate.rows if row.estimate) < 8


def test_every_rl_stage_is_claimed_to_beat_the_model_that_it_starts_from_under_one_prompt() -> None:
    plan = steps()
    claimed = {(of, claim.against[0]) for claim in QUICKSTART.header.claims for of in claim.of}
    trained = [step for step in plan.values() if step.kind == "grpo"]
    assert [step.name for step in trained] == ["zero", "reasoning"]
    for step in trained:
        after, before = next(
            (plan[of], plan[against])
            for of, against in claimed
            if plan[of].inputs["model"] == step.name
        )
        assert before.inputs["model"] == step.inputs["model"]
        same = {"model"}
        assert after.config.model_dump(exclude=same) == before.config.model_dump(exclude=same)


def test_the_student_is_claimed_to_beat_its_base_with_two_demonstrations() -> None:
    plan = steps()
    of, against = next(
        (plan[claim.of[0]], plan[claim.against[0]])
        for claim in QUICKSTART.header.claims
        if plan[claim.of[0]].inputs["model"] == "student"
    )
    assert plan["student"].inputs["model"] == against.inputs["model"]
    assert len(against.config.model_dump()["prompt"]["demonstrations"]) == 2
    assert of.config.model_dump()["benchmarks"] == against.config.model_dump()["benchmarks"]


def test_a_hundred_questions_or_more_are_held_out() -> None:
    (source,) = steps()["sums"].config.model_dump()["sources"]
    assert source["held_out"] >= 100


def test_the_smoke_recipe_goes_through_the_whole_chain_and_every_kind_that_a_cpu_trains() -> None:
    smoke = {step.kind for step in make_plan(load_recipe(ROOT / "recipes" / "smoke.yaml"))}
    full = {step.kind for step in make_plan(load_recipe(ROOT / "recipes" / "r1-small.yaml"))}
    assert set(STAGES) >= smoke >= full >= {step.kind for step in steps().values()}


def test_the_last_line_of_make_quickstart_names_the_whole_chain() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = makefile.split("\nquickstart:")[1].split("\n\n")[0].splitlines()[1:]
    assert commands[-2].strip() == "$(BIN)/factory build recipes/quickstart.yaml"
    assert commands[-1].strip().startswith("@echo")
    assert "$(BIN)/factory build recipes/r1-small.yaml" in commands[-1]
