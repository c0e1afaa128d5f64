"""Rewards of reward models: `helpful` on the final summary, `safety` on the whole response.

R1's last RL stage (arXiv 2501.12948 v2, 3.1 and 3.2.2): the helpful model reads the summary alone,
so that it disturbs the reasoning as little as it can; the safety model reads everything, thoughts
included. Both look at general prompts only, where no rule can decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from factory.core.errors import RecipeError
from factory.core.machine import Machine
from factory.core.records import Problem
from factory.rewards import REWARDS, RewardConfig
from factory.stages.grpo.graded import Graded
from factory.text.chat import Response
from factory.trainers.scoring import Scorer, read_card

"""What the reward model of each component has to have learned from."""


class PreferenceRewards:
    """Holds the reward models of a run; each is loaded when it first counts."""

    def __init__(
        self,
        rewards: Sequence[RewardConfig],
        models: Mapping[str, Path],
        *,
        prefill: str,
        machine: Machine,
        device: Any,
    ) -> None:
        """`models` by component; RecipeError where one learned from what its component is not."""
        self.rewards = [reward for reward in rewards if reward.is_learned]
        self.models = models
        self.prefill = prefill
        self.machine = machine
        self.device = device
        self._scorers: dict[str, Scorer] = {}
        for name, folder in models.items():
            learned, wanted = read_card(folder).objective, REWARDS[name].learns_from
            if learned != wanted:
                raise RecipeError(
                    f"rewards: {name} needs a reward model that learned from {wanted}, "
                    f"{folder.name} learned from {learned}"
                )

    def added(
        self,
        graded: Sequence[Graded],
        problems: Sequence[Problem],
        text: Sequence[str],
        *,
        weights: Mapping[str, float],
    ) -> list[Graded]:
        """The completions of a rollout with the components of `of_rollout` added to the rules'."""
        responses = [row.response for row in graded]
        learned = self.of_rollout(problems, responses, text, weights=weights)
        return [
            replace(row, components={**row.components, **values})
            for row, values in zip(graded, learned, strict=True)
        ]

    def of_rollout(
        self,
        problems: Sequence[Problem],
        responses: Sequence[Response],
        text: Sequence[str],
        *,
        weights: Mapping[str, float],
    ) -> list[dict[str, float]]:
        """What the models give each completion: nothing but to answers of general prompts.

        A component whose weight is 0 is not computed, and missing.
        """
        components: list[dict[str, float]] = [{} for _ in problems]
        rows = [row for row, problem in enumerate(problems) if problem.kind == "open"]
        for reward in self.rewards:
            if weights[reward.name] == 0.0 or not rows:
                continue
            prompts = [problems[row].prompt for row in rows]
            if reward.name == "helpful":
                values = self._helpful(prompts, [responses[row] for row in rows])
            else:
                full_texts = [self.prefill + text[row] for row in rows]
                values = self._scorer("safety").reward(prompts, full_texts)
            for row, value in zip(rows, values, strict=True):
                components[row][reward.name] = value
        return components

    def _helpful(self, prompts: Sequence[str], responses: Sequence[Response]) -> list[float]:
        """The reward of each summary; 0, below any, where a malformed text has none."""
        summaries = [response.summary or response.answer or "" for response in responses]
        rows = [row for row, summary in enumerate(summaries) if summary]
        values = [0.0] * len(responses)
        if rows:
            rewards = self._scorer("helpful").reward(
                [prompts[row] for row in rows], [summaries[row] for row in rows]
            )
            for row, value in zip(rows, rewards, strict=True):
                values[row] = value
        return values

    def _scorer(self, name: str) -> Scorer:
        if name not in self._scorers:
            on_gpu = self.machine.takes_gpu()
            self._scorers[name] = Scorer(
                self.models[name],
                device=self.device,
                dtype=getattr(torch, self.machine.torch_dtype_name(on_gpu=on_gpu)),
                rows=self.machine.micro_batch,
            )
        return self._scorers[name]
