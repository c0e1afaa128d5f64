"""Rehearsals: the same graph, everything small, nothing from outside."""

from pathlib import Path

import pytest

from factory.building.pipeline import build
from factory.building.plan import make_plan, missing
from factory.building.recipe import load_recipe
from factory.building.rehearse import alike, rehearsal
from factory.core.errors import RecipeError
from factory.core.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
OPEN = """
name: open
stages:
  base: {kind: model, source: {type: hub, id: Qwen/Qwen2.5-7B}}
  questions:
    kind: problems
    sources: [{type: hub, id: org/maths, question: problem, reference: answer, held_out: 500}]
  traces: {kind: generate, model: base, problems: questions, sources: [maths], samples: 16}
"""


@pytest.fixture
def recipe(tmp_path: Path):
    path = tmp_path / "open.yaml"
    path.write_text(OPEN, encoding="utf-8")
    return load_recipe(path)


def test_the_graph_stays_and_hub_sources_become_local(recipe) -> None:
    small = rehearsal(recipe)
    assert {s.name: s.inputs for s in make_plan(small)} == {
        s.name: s.inputs for s in make_plan(recipe)
    }
    assert missing(make_plan(small)) == []
    base, questions, traces = (small.stages[name] for name in ("base", "questions", "traces"))
    assert base.model_dump()["source"]["architecture"] == "qwen2"
    source = questions.model_dump()["sources"][0]
    assert (source["type"], source["train"], source["held_out"]) == ("reasoning_gym", 16, 4)
    assert (traces.model_dump()["sources"], traces.model_dump()["samples"]) == ((), 2)


LIKE_EACH_OTHER = (
    OPEN
    + """
  slow: {kind: grpo, model: base, problems: questions, steps: 9, prompts: 16, learning_rate: 1e-6}
  fast: {like: slow, learning_rate: 1e-5}
  again: {like: slow, seed: 3}
  eval_slow: {kind: evaluate, model: slow, benchmarks: [{name: maths, problems: questions}]}
  eval_fast: {like: eval_slow, model: fast}
  eval_base: {like: eval_slow, model: base}
"""
)


def test_models_that_differ_in_their_weights_alone_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "alike.yaml"
    path.write_text(LIKE_EACH_OTHER, encoding="utf-8")
    small = rehearsal(load_recipe(path))
    stages = {name: stage.model_dump() for name, stage in small.stages.items()}
    assert list(stages) == list(load_recipe(path).stages)
    # Its own settings are rehearsed, whoever reads it.
    assert stages["fast"]["learning_rate"] == 1e-5
    read = {name: stages[name]["model"] for name in ("eval_slow", "eval_fast", "eval_base")}
    assert read == {"eval_slow": "slow", "eval_fast": "slow", "eval_base": "base"}
    assert alike(small) == [("slow", "again"), ("eval_slow", "eval_fast")]


def test_what_a_recipe_leaves_open_is_listed_and_not_built(recipe, tmp_path: Path) -> None:
    gaps = [
        "stages.base.source.revision: the commit of huggingface.co/Qwen/Qwen2.5-7B to build from",
        "stages.questions.sources.0.revision: the commit of huggingface.co/datasets/org/maths "
        "to read",
    ]
    plan = make_plan(recipe)
    assert missing(plan) == gaps
    store = tmp_path / "store"
    with pytest.raises(RecipeError, match=r"to be filled in: stages.base.source.revision"):
        build(plan, store, Machine(), None)  # type: ignore[arg-type]
    assert not store.exists()


def test_a_rehearsal_is_a_recipe_that_loads_again(recipe, tmp_path: Path) -> None:
    import json

    small = rehearsal(recipe)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(small.resolved), encoding="utf-8")
    again = load_recipe(path)
    assert [s.fingerprint for s in make_plan(again)] == [s.fingerprint for s in make_plan(small)]


def test_a_stages_own_seed_counts_instead_of_the_recipes() -> None:
    path = ROOT / "recipes" / "r1-small.yaml"
    plain = {s.name: s.fingerprint for s in make_plan(load_recipe(path))}
    same = {s.name: s.fingerprint for s in make_plan(load_recipe(path, ["stages.zero.seed=7"]))}
    other = {s.name: s.fingerprint for s in make_plan(load_recipe(path, ["stages.zero.seed=8"]))}
    assert same == plain
    assert other["zero"] != plain["zero"]
    assert other["cold_traces"] != plain["cold_traces"], "what reads it is made again"
    assert other["sums"] == plain["sums"]


def test_stages_that_do_not_need_each_other_are_at_work_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    source = "{type: tiny, architecture: llama, hidden: 32, layers: 1}"
    path.write_text(
        "name: two\nstages:\n"
        + "".join(f"  m{n}: {{kind: model, seed: {n}, source: {source}}}\n" for n in range(3)),
        encoding="utf-8",
    )

    class Watcher:
        def __init__(self) -> None:
            self.at_work: set[str] = set()
            self.most = 0

        def started(self, step, folder) -> None:
            self.at_work.add(step.name)
            self.most = max(self.most, len(self.at_work))

        def made(self, step, artifact) -> None:
            self.at_work.remove(step.name)

        def event(self, step, event) -> None:
            pass

    watcher = Watcher()
    machine = Machine(device="cpu", matmul="float32", threads=1, parallel=2)
    made = build(make_plan(load_recipe(path)), tmp_path / "store", machine, watcher)  # type: ignore[arg-type]
    assert (watcher.most, watcher.at_work, set(made)) == (2, set(), {"m0", "m1", "m2"})


# R1-Distill-Qwen-1.5B, 7B, 14B, 32B, R1-Distill-Llama-8B, 70B (arXiv 2501.12948 v2, distillation).
LEARNING_RATES = {
    "qwen2.5-math-1.5b": 1e-4,
    "qwen2.5-math-7b": 8e-5,
    "qwen2.5-14b": 7e-5,
    "qwen2.5-32b": 6e-5,
    "llama-3.1-8b": 5e-5,
    "llama-3.3-70b-instruct": 2e-5,
}


@pytest.mark.parametrize(("name", "rate"), LEARNING_RATES.items())
def test_a_distill_recipe_has_the_papers_numbers_and_rehearses_as_its_parent(
    name: str, rate: float
) -> None:
    recipe = load_recipe(ROOT / "recipes" / "distill" / f"{name}.yaml")
    student = recipe.stages["student"].model_dump()
    assert (student["learning_rate"], student["batch"], student["context"]) == (rate, 64, 32768)
    assert (student["epochs"], student["final_learning_rate_share"]) == (2, 0.1)
    # The ladder, which test_rehearsals.py builds, holds the parent: what differs from it is data.
    parent = rehearsal(load_recipe(ROOT / "recipes" / "distill" / "qwen2.5-math-1.5b.yaml"))
    small = rehearsal(recipe)
    differing = {key for key in parent.stages if parent.stages[key] != small.stages[key]}
    assert differing <= {"student", "student_base"}
    unlike = small.stages["student"].model_dump() | {"learning_rate": 1e-4}
    assert unlike == parent.stages["student"].model_dump()


def test_on_policy_distillation_is_rehearsed_with_a_trace_beside_an_answer() -> None:
    small = rehearsal(load_recipe(ROOT / "recipes" / "distill" / "on-policy.yaml")).stages
    alone, mixed = (small[name].model_dump() for name in ("student_on_policy", "student_mixed"))
    assert (alone["steps"], alone["prompts"], alone["on_policy_share"]) == (2, 2, 1.0)
    assert (mixed["on_policy_share"], mixed["traces"]) == (0.5, "teacher_kept")
    assert alone["max_new_tokens"] < mixed["max_new_tokens"]


def test_a_short_native_context_is_extended_where_the_student_has_one() -> None:
    for name, is_short in (("qwen2.5-math-7b", True), ("qwen2.5-14b", False)):
        recipe = load_recipe(ROOT / "recipes" / "distill" / f"{name}.yaml")
        context = recipe.stages["student_base"].model_dump()["context"]
        assert context == ({"tokens": 32768, "rope_theta": 3e5} if is_short else None)
