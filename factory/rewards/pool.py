"""Rewards of plug-ins, in a process that can be killed: a user's function may never end."""

import json
from collections.abc import Sequence
from typing import Any

from factory.core.errors import EngineError
from factory.core.plugin_files import loaded_plugins
from factory.grading.process import LineProcess
from factory.rewards.components import RewardConfig
from factory.rewards.reward import REWARDS, GradedCompletion

SECONDS = 10.0
"""Wall clock of one reward of one completion."""


class PluginRewards:
    """The plug-in rewards of a stage; their process starts with the first completion."""

    def __init__(self, rewards: Sequence[RewardConfig]) -> None:
        self._rewards = [reward for reward in rewards if reward.is_plugin]
        self._process: LineProcess | None = None

    def components(self, completions: Sequence[GradedCompletion]) -> list[dict[str, float]]:
        """By name, of each completion; one that does not apply is missing.

        EngineError, with reward and problem, where a function raises, gives what it must not, or
        takes longer than ten seconds: taking any of these for 0 would train on it.
        """
        return [
            {
                reward.name: value
                for reward in self._rewards
                if (value := self._value(reward, completion)) is not None
            }
            for completion in completions
        ]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _value(self, reward: RewardConfig, completion: GradedCompletion) -> float | None:
        request: dict[str, Any] = {
            "name": reward.name,
            "settings": reward.settings,
            "completion": completion.model_dump(mode="json"),
        }
        process = self._started()
        process.send(json.dumps(request).encode(), seconds=SECONDS)
        line, failure = process.receive()
        if line is None:
            self.close()
            origin = REWARDS.row(reward.name).origin
            raise EngineError(
                f"reward {reward.name} of {origin}, problem {completion.problem.id}: {failure}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["value"]

    def _started(self) -> LineProcess:
        if self._process is None:
            files = json.dumps([file.model_dump() for file in loaded_plugins()])
            self._process = LineProcess("factory.rewards.child", [files], purpose="plug-in")
            self._process.wait_until_ready()
        return self._process
