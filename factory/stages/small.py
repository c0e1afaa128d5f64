"""Sizes that rehearsals share, and what stands in for data that is not at hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.shipped import shipped
from factory.stages.stage import Fields

TRAIN, HELD_OUT, SAMPLES, TOKENS, ROWS = 16, 4, 2, 8, 4
CONTEXT = 1024

DATA = shipped("recipes") / "data"
PAIRS = str(DATA / "general_pairs.jsonl")
LABELS = str(DATA / "safety_labels.jsonl")
PROMPTS = str(DATA / "general_prompts.jsonl")
"""The preferences of r1-small stand in for data sets."""


def small_sampling(sampling: Mapping[str, Any]) -> Fields:
    return {**sampling, "max_new_tokens": min(sampling["max_new_tokens"], TOKENS)}


def small_preferences(source: Mapping[str, Any], shipped: str, loose: Fields) -> Fields:
    """A data set or a missing file becomes the shipped one; a random judge decides nothing."""
    if source["type"] == "judged":
        sampling = small_sampling(source["sampling"])
        return {**source, "votes": SAMPLES, "least_votes": 0, "sampling": sampling, **loose}
    if source["type"] == "local" and Path(source["path"]).is_file():
        return dict(source)
    return {"type": "local", "path": shipped}


def keeping_all(fields: Fields) -> Fields:
    """A selection that keeps what fails too: a random model solves nothing."""
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


def small_judge(fields: Fields) -> Fields:
    """A judge's settings for a rehearsal: a random model decides nothing."""
    return {
        **fields,
        "votes": min(fields["votes"], SAMPLES),
        "sampling": small_sampling(fields["sampling"]),
        "max_ungradable": 1.0,
        "agreement": min(fields["agreement"], SAMPLES),
    }
