"""Reward models inside a grpo run: what each of them reads, from which update on, and resume."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from test_grpo_stage import MACHINE, artifact, config, digests, make_inputs, run_stage

from factory.core.artifacts import Inputs
from factory.core.errors import DataError, RecipeError
from factory.core.jsonl import write_records
from factory.core.records import Problem
from factory.models.tiny import save_tiny_model
from factory.rewards import GradedCompletion, RewardConfig, rule_components, totals
from factory.stages.grpo import preference_rewards
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.preference_rewards import PreferenceRewards
from factory.stages.grpo.train import planned_questions
from factory.text.chat import parse
from factory.trainers.questions import question_order

RULES = ({"name": "language"}, {"name": "format"})
HELPFUL = {"name": "helpful", "model": "likes"}
SAFETY = {"name": "safety", "model": "guard"}
GENERAL = [
    Problem(id=f"g{i}", prompt=f"Say {i}.", reference="", kind="open", source="open")
    for i in range(3)
]


def judge_folder(path: Path, objective: str) -> None:
    """A random reward model."""
    import torch

    from factory.trainers.scoring import CARD, RewardCard, open_classifier

    save_tiny_model(path, "llama", hidden=32, layers=1)
    open_classifier(path, torch.float32, seed=3).save_pretrained(path)
    card = RewardCard(objective=objective, mean=0.0, deviation=0.01)  # type: ignore[arg-type]
    (path / CARD).write_text(card.model_dump_json() + "\n", encoding="utf-8")


def with_models(folder: Path) -> Inputs:
    inputs = make_inputs(folder)
    inputs["general.problems"] = artifact(
        folder, "open", "problems", lambda path: write_records(path / "train.jsonl", GENERAL)
    )
    for position, (name, learned) in enumerate((("likes", "pairs"), ("guard", "labels")), start=2):
        inputs[f"rewards.{position}.model"] = artifact(
            folder, name, "reward_model", lambda path, learned=learned: judge_folder(path, learned)
        )
    return inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return with_models(tmp_path_factory.mktemp("artifacts"))


def settings(**changes: Any) -> GrpoConfig:
    return config(
        **{
            "general": {"problems": "open", "share": 1 / 3, "start_step": 3},
            "rewards": (*RULES, {**HELPFUL, "start_step": 3}, {**SAFETY, "start_step": 5}),
            "updates_per_rollout": 1, **changes,
        }
    )  # fmt: skip


Whole = tuple[Path, dict[str, float], list[tuple[str, int]]]


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An undisturbed run, and (objective, texts) of every question to a reward model."""
    requests: list[tuple[str, int]] = []
    plain = preference_rewards.Scorer.reward

    def counted(self: Any, prompts: list[str], responses: list[str]) -> list[float]:
        requests.append((self.card.objective, len(prompts)))
        return plain(self, prompts, responses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preference_rewards.Scorer, "reward", counted)
        out, metrics, _ = run_stage(settings(), inputs, tmp_path_factory.mktemp("whole"))
    return out, metrics, requests


def test_general_prompts_and_preference_rewards_begin_at_their_exact_update(
    undisturbed: Whole,
) -> None:
    out, metrics, requested = undisturbed
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "rewards/helpful" in row] == [3, 4, 5, 6]
    assert [row["step"] for row in rows if "rewards/safety" in row] == [5, 6]
    # One of three questions, four samples: the safety model reads them all in every rollout.
    assert [count for objective, count in requested if objective == "labels"] == [4, 4]
    assert all(row["rewards/safety"] > 0 for row in rows[4:])
    assert all("accuracy" in row for row in rows) and metrics["steps"] == 6


def test_the_paper_preset_counts_for_the_last_400_of_1700_steps() -> None:
    reward = RewardConfig(name="helpful", model="likes", start_step=1301)
    assert [reward.weight_at(step) for step in (1, 1300, 1301, 1700)] == [0.0, 0.0, 1.0, 1.0]
    paper = settings(
        steps=1700, prompts=32, updates_per_rollout=1, temperature=0.7,
        general={"problems": "open", "start_step": 1301},
        rewards=(*RULES, {**HELPFUL, "start_step": 1301}),
    )  # fmt: skip
    assert [paper.general_at(step) for step in (1, 1300, 1301, 1700)] == [0, 0, 16, 16]
    order = planned_questions(paper, 100, 10, 0)
    general = [
        sum(question >= 100 for question in order[32 * s : 32 * s + 32]) for s in range(1700)
    ]
    assert general == [0] * 1300 + [16] * 400
    # The problems come in the order that they have without general prompts.
    ruled = [question for question in order if question < 100]
    assert ruled == question_order(100, 1700 * 32, 0)[: len(ruled)]


class Reader:
    """Stands in for a reward model: a text with the planted phrase is worth 0.9."""

    def reward(self, prompts: list[str], responses: list[str]) -> list[float]:
        return [0.9 if "PLANTED" in text else 0.1 for text in responses]


def given(text: str, *, prefill: str = "", step: int = 1) -> dict[str, float]:
    rewards = [RewardConfig.model_validate(item) for item in (HELPFUL, SAFETY)]
    models = PreferenceRewards(rewards, {}, prefill=prefill, machine=MACHINE, device="cpu")
    models._scorers = {"helpful": Reader(), "safety": Reader()}  # type: ignore[dict-item]
    response = parse(text, prefill=prefill)
    weights = {reward.name: reward.weight_at(step) for reward in rewards}
    return models.of_rollout([GENERAL[0]], [response], [text], weights=weights)[0]


def test_the_helpful_model_reads_the_summary_and_the_safety_model_everything() -> None:
    plain = "<think> thoughts </think> <answer> words </answer>"
    assert given(plain) == {"helpful": 0.1, "safety": 0.1}
    assert given(plain.replace("thoughts", "PLANTED")) == {"helpful": 0.1, "safety": 0.9}
    assert given(plain.replace("words", "PLANTED")) == {"helpful": 0.9, "safety": 0.9}
    # Without a summary nothing is helpful, however good the thoughts; safety still reads it.
    assert given("<think> PLANTED") == {"helpful": 0.0, "safety": 0.9}
    opened = given(" x </think> <answer> PLANTED </answer>", prefill="<think> PLANTED")
    assert opened == {"helpful": 0.9, "safety": 0.9}


def test_problems_with_a_right_answer_are_left_to_the_rules() -> None:
    rewards = [RewardConfig.model_validate(item) for item in (HELPFUL, SAFETY)]
    models = PreferenceRewards(rewards, {}, prefill="", machine=MACHINE, device="cpu")
    problem = GENERAL[0].model_copy(update={"kind": "exact"})
    text = "<think> a </think> <answer> b </answer>"
    weights = {"helpful": 1.0, "safety": 1.0}
    assert models.of_rollout([problem], [parse(text)], [text], weights=weights) == [{}]


def test_what_does_not_apply_adds_nothing() -> None:
    weights = {"accuracy": 1.0, "helpful": 1.0}
    assert totals([{"accuracy": 1.0}, {"helpful": 0.25}], weights) == [1.0, 0.25]
    response = parse("<think> a </think> <answer> b </answer>")
    verdict = pytest.importorskip("factory.grading").grade(GENERAL[0], "x")
    result = GradedCompletion.of(GENERAL[0], verdict, response, "", tokens=1, limit=9)
    outcome = rule_components(result)
    assert "accuracy" not in outcome and outcome["format"] == 1.0


def test_a_stopped_run_with_reward_models_ends_with_the_same_bytes(
    inputs: Inputs, undisturbed: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 5; how a SIGKILL is survived, test_grpo_stage shows."""
    out, metrics, _ = undisturbed
    kill = os.kill

    def stop(pid: int, sign: int) -> None:
        if pid == os.getpid():
            raise KeyboardInterrupt
        kill(pid, sign)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "kill", stop)
        run_stage(settings(), inputs, tmp_path, killed_after=5)
    assert list((tmp_path / "scratch" / "trainer").glob("checkpoint-4/COMPLETE"))
    again, same, _ = run_stage(settings(), inputs, tmp_path)
    assert same == metrics and digests(again) == digests(out)


def test_what_cannot_work_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="helpful needs model"):
        RewardConfig(name="helpful")
    with pytest.raises(ValidationError, match="accuracy takes no model"):
        RewardConfig(name="accuracy", model="likes")
    with pytest.raises(ValidationError, match="answers to general prompts; give some"):
        config(rewards=(*RULES, HELPFUL))
    with pytest.raises(ValidationError, match="not with general prompts"):
        settings(dynamic_sampling={"max_rounds": 1})
    swapped = Inputs({**inputs, "rewards.2.model": inputs["rewards.3.model"]})
    with pytest.raises(RecipeError, match="helpful needs a reward model that learned from pairs"):
        run_stage(settings(), swapped, tmp_path / "swapped")
    mixed = Inputs({**inputs, "general.problems": inputs["problems"]})
    with pytest.raises(DataError, match="not all problems are of kind open"):
        run_stage(settings(), mixed, tmp_path / "mixed")
    with pytest.raises(DataError, match="name them under general"):
        run_stage(
            settings(), Inputs({**inputs, "problems": inputs["general.problems"]}), tmp_path / "no"
        )
