"""A recipe's rehearsal: the same graph on tiny random models and a handful of generated problems.

It finds the mistakes of a recipe (names, batch arithmetic, arguments that TRL refuses, filters
that leave nothing) in minutes on a CPU, before hours on GPUs. What is learned means nothing: a
random model solves nothing, so filters keep what fails too.

Every stage's own settings are rehearsed. Stages that are then the same are made once, and of models
that differ in nothing but their weights the first is read in the place of the others.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from factory.machine import Machine
from factory.plan import make_plan, put
from factory.recipe import Recipe
from factory.stages import StageConfig

MACHINE = Machine(
    device="cpu", dtype="float32", matmul="float32", threads=1, engine="transformers", block=8,
    micro_batch=4, parallel=2, checkpoint_steps=1,
)  # fmt: skip
"""What every rehearsal runs on, whatever machine the recipe is for."""
TRAIN, HELD_OUT, SAMPLES, TOKENS, ROWS = 16, 4, 2, 8, 4

DATA = Path(__file__).resolve().parents[1] / "recipes" / "data"
PAIRS = str(DATA / "general_pairs.jsonl")
LABELS = str(DATA / "safety_labels.jsonl")
PROMPTS = str(DATA / "general_prompts.jsonl")
"""The preferences of r1-small stand in for data sets."""

Fields = dict[str, Any]


def rehearsal(recipe: Recipe) -> Recipe:
    """The recipe in small, under the name `<name>-rehearsal`; every setting that does not cost
    time stays as it is."""
    stages = _stages(recipe)
    name = f"{recipe.name[:54]}-rehearsal"
    # The few problems left are of the first source only.
    claims = tuple(claim.model_copy(update={"sources": ()}) for claim in recipe.header.claims)
    header = recipe.header.model_copy(update={"name": name, "seed": 0, "claims": claims})
    resolved = {
        **recipe.resolved,
        "name": name,
        "seed": 0,
        "claims": [claim.model_dump(mode="json") for claim in claims],
        "stages": {key: config.model_dump(mode="json") for key, config in stages.items()},
    }
    return Recipe(header, stages, recipe.overrides, resolved)


SHOWN: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("hidden", "layers", "heads", "feed_forward", "sequence"),
    "sft": ("model", "prompt", "completions", "add_tokens", "lora"),
    "grpo": ("model", "prompt", "lora"),
    "distill": ("model", "prompt", "completions", "lora"),
}
"""Settings of training that its model shows to who reads it; the others change weights alone."""


def _stages(recipe: Recipe) -> dict[str, StageConfig]:
    small: dict[str, StageConfig] = {}
    stand_ins: dict[str, str] = {}
    first: dict[str, str] = {}
    for step in make_plan(recipe):
        fields = step.config.model_dump(mode="json")
        # Stages that differ in their seed alone are rehearsed once.
        fields = {**SMALLER[step.kind](fields), "seed": None}
        for path, name in step.inputs.items():
            put(fields, path, stand_ins[name])
        small[step.name] = type(step.config).model_validate(fields, strict=False)
        shown = {key: fields[key] for key in ("kind", *SHOWN.get(step.kind, fields))}
        stand_ins[step.name] = first.setdefault(json.dumps(shown, sort_keys=True), step.name)
    return {name: small[name] for name in recipe.stages}


def alike(recipe: Recipe) -> list[tuple[str, ...]]:
    """Names of the stages of a rehearsal that are made once, the one that is made first."""
    groups: dict[str, tuple[str, ...]] = {}
    for step in make_plan(recipe):
        groups[step.fingerprint] = (*groups.get(step.fingerprint, ()), step.name)
    return [names for names in groups.values() if len(names) > 1]


def _model(fields: Fields) -> Fields:
    source = fields["source"]
    if source["type"] == "tiny":
        return fields
    named = str(source.get("id") or source.get("path") or source.get("name")).lower()
    architecture = "qwen2" if "qwen" in named else "llama"
    return {
        **fields,
        "source": {"type": "tiny", "architecture": architecture},
        # The tiny tokenizer knows ChatML's tokens only, and reads bytes: prompts are longer.
        "turns": fields["turns"] and "chatml",
        "context": {"tokens": 8192, "rope_theta": 1e6},
    }


def _pretrain(fields: Fields) -> Fields:
    return {**fields, "tokens": 2 * fields["batch"] * fields["sequence"]}


def _problems(fields: Fields) -> Fields:
    return {**fields, "sources": [_source(source) for source in fields["sources"]]}


def _source(source: Mapping[str, Any]) -> Fields:
    asked = {
        key: most if source[key] is None else min(source[key], most)
        for key, most in (("train", TRAIN), ("held_out", HELD_OUT))
        if key in source
    }
    absent = source["type"] == "local" and not Path(source["path"]).is_file()
    if source["type"] != "hub" and not absent:
        return {**source, **asked}
    if source.get("kind") == "open":
        return {"type": "local", "path": PROMPTS, **asked}
    digits = {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2}
    return {"type": "reasoning_gym", "family": "chain_sum", "settings": digits, **asked}


def _generate(fields: Fields) -> Fields:
    return {
        **fields,
        "sources": [],
        "limit": min(fields["limit"] or TRAIN, TRAIN // 2),
        "samples": min(fields["samples"], SAMPLES),
        "enough": fields["enough"] and min(fields["enough"], SAMPLES),
        "length_stops": _length_stops(fields["length_stops"]),
        "sampling": _sampling(fields["sampling"]),
    }


def _length_stops(given: str | Mapping[str, Any]) -> str | Fields:
    return given if isinstance(given, str) else {"retry": 2 * TOKENS}


def _sampling(sampling: Mapping[str, Any]) -> Fields:
    return {**sampling, "max_new_tokens": min(sampling["max_new_tokens"], TOKENS)}


def _judge(fields: Fields) -> Fields:
    # A random model decides nothing.
    return {
        **fields,
        "votes": min(fields["votes"], SAMPLES),
        "sampling": _sampling(fields["sampling"]),
        "max_ungradable": 1.0,
    }


def _select(fields: Fields) -> Fields:
    return {
        **fields,
        "outcomes": ["correct", "wrong", "no_answer", "truncated"],
        "require_well_formed": False,
        "min_reasoning_characters": 0,
        "max_reasoning_characters": None,
        "max_completion_tokens": None,
        "require_sound_steps": False,
        "max_repetition": 1.0,
        "min_language_consistency": 0.0,
        "readable": None,
    }


def _rewrite(fields: Fields) -> Fields:
    return {
        **_select(fields),
        "limit": min(fields["limit"] or TRAIN, TRAIN // 2),
        "samples": min(fields["samples"], SAMPLES),
        "keep_steps": False,
        # In bytes, which is what tiny models read, examples leave no room.
        "examples": [],
        "sampling": _sampling(fields["sampling"]),
    }


def _review(fields: Fields) -> Fields:
    return {**_select(fields), "decisions": None, "policy": "accept"}


def _mix(fields: Fields) -> Fields:
    parts = [{**part, "count": None} for part in fields["parts"]]
    return {**fields, "parts": parts, "limit": None}


def _sft(fields: Fields) -> Fields:
    return {
        **fields,
        "epochs": 1,
        "batch": ROWS,
        "context": min(fields["context"], 1024),
        "max_dropped_share": 0.5,
        "completions": "verbatim",
    }


def _pairs(fields: Fields) -> Fields:
    """A data set or a missing file becomes r1-small's; a random judge decides nothing."""
    loose = {"margin": -1.0, "compares": "completion"}
    return {**fields, "source": _preferences(fields["source"], PAIRS, loose)}


def _labels(fields: Fields) -> Fields:
    source = _preferences(fields["source"], LABELS, {"least_agreement": 0.5})
    return {**fields, "source": source}


def _preferences(source: Mapping[str, Any], shipped: str, loose: Fields) -> Fields:
    if source["type"] == "judged":
        sampling = _sampling(source["sampling"])
        return {**source, "votes": SAMPLES, "least_votes": 0, "sampling": sampling, **loose}
    if source["type"] == "local" and Path(source["path"]).is_file():
        return dict(source)
    return {"type": "local", "path": shipped}


def _reward_model(fields: Fields) -> Fields:
    return {
        **fields,
        "epochs": 1,
        "batch": 2 * ROWS,
        "context": min(fields["context"], 1024),
        "max_dropped_share": 0.5,
        "held_out_share": max(fields["held_out_share"], 0.5),
    }


def _distill(fields: Fields) -> Fields:
    return {
        **fields,
        "sources": [],
        # Half an update's texts are traces as soon as any are.
        "on_policy_share": 0.5 if fields["traces"] else 1.0,
        "completions": "verbatim",
        "steps": 2,
        "prompts": 2,
        "max_new_tokens": 16 * TOKENS if fields["traces"] else TOKENS,
    }


def _grpo(fields: Fields) -> Fields:
    # A reward that starts late starts at the last step, so that its start is rehearsed too.
    rewards = [
        {**reward, "start_step": min(reward["start_step"], 2), "end_step": None, "ramp_steps": 0}
        for reward in fields["rewards"]
    ]
    # So does the last jump of the length.
    jumps = [{"from_step": 2, "max_new_tokens": 2 * TOKENS}] if fields["length_jumps"] else []
    watch = fields["watch"]
    updates = min(fields["updates_per_rollout"], 2)
    if watch:
        most = {"samples": min(watch["samples"], SAMPLES), "limit": HELD_OUT}
        watch = {**watch, **most, "sources": [], "every": updates}
    general = fields["general"]
    return {
        **fields,
        "general": general and {**general, "start_step": min(general["start_step"], 3 - updates)},
        "rewards": rewards,
        "length_jumps": jumps,
        "watch": watch,
        "sources": [],
        "steps": 2,
        "prompts": 2,
        "group": 2,
        "updates_per_rollout": updates,
        "warmup_steps": min(fields["warmup_steps"], 1),
        "reference_refresh_steps": min(fields["reference_refresh_steps"], 1),
        "max_new_tokens": TOKENS,
    }


def _evaluate(fields: Fields) -> Fields:
    def small(benchmark: Mapping[str, Any]) -> Fields:
        sampling = benchmark["sampling"]
        return {
            **benchmark,
            "source": None,
            "limit": min(benchmark["limit"] or 2, 2),
            "sampling": sampling and _sampling(sampling),
            "samples": benchmark["samples"] and min(benchmark["samples"], SAMPLES),
        }

    return {
        **fields,
        "benchmarks": [small(benchmark) for benchmark in fields["benchmarks"]],
        "sampling": _sampling(fields["sampling"]),
        "samples": min(fields["samples"], SAMPLES),
    }


def _as_it_is(fields: Fields) -> Fields:
    return fields


SMALLER: Mapping[str, Callable[[Fields], Fields]] = {
    "model": _model,
    "pretrain": _pretrain,
    "problems": _problems,
    "written": _as_it_is,
    "generate": _generate,
    "judge": _judge,
    "select": _select,
    "rewrite": _rewrite,
    "review": _review,
    "mix": _mix,
    "sft": _sft,
    "pairs": _pairs,
    "labels": _labels,
    "reward_model": _reward_model,
    "distill": _distill,
    "grpo": _grpo,
    "evaluate": _evaluate,
}
"""How each kind of stage is made small; a test holds that no kind is left out."""
