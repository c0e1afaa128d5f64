"""Rollouts: a step's questions to sampled, graded and rewarded completions.

TRL asks `Rollouts.sample` for completions (its `rollout_func`) and then every function of
`reward_functions` for one reward component, so that it weighs and logs them apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from factory.chat import PromptConfig, parse_completion
from factory.grading import GradeItem, GradingPool
from factory.jsonl import append_rows, read_records, recover_rows
from factory.records import FinishReason, Problem, SamplingConfig, Trace
from factory.rewards import (
    GradedCompletion,
    PluginRewards,
    RewardConfig,
    redone_steps,
    rule_components,
    total_reward,
)
from factory.sampling.sampler import Completion, Request, Sampler
from factory.seeds import derive
from factory.stages.grpo.config import DynamicSampling
from factory.stages.grpo.dynamic_sampling import AskedRow, Questions, fill
from factory.stages.grpo.efficiency import Drawn
from factory.stages.grpo.graded import Graded, GraderFailures, close_figures, figures
from factory.stages.grpo.preference_rewards import PreferenceRewards
from factory.stages.grpo.trainer import FactoryGrpoTrainer
from factory.stages.grpo.watch import Ranks, Watcher
from factory.trainers.checkpoints import is_first_rank
from factory.trainers.parity import engine_parity
from factory.trainers.phases import PhaseClock
from factory.trainers.telemetry import truncate_rows
from factory.trainers.weights import policy_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


KEPT_GROUPS, KEPT_SAMPLES = 2, 2
"""Questions of a rollout that are kept to be read, and completions of each."""


@dataclass(frozen=True)
class RolloutSettings:
    """What a rollout needs to know of the recipe."""

    prompt: PromptConfig
    rewards: tuple[RewardConfig, ...]
    sampling_at: Callable[[int], SamplingConfig]
    """How the rollout that is first used for this update is drawn."""
    group: int
    """Completions a question."""
    language: str
    seed: int
    dtype: str
    """The dtype that engine and trainer share; decides how far they may differ."""
    model: str
    """Fingerprint of the model that training starts from."""
    kept_steps: frozenset[int]
    """Steps whose rollout is kept in part."""
    dynamic_sampling: DynamicSampling | None = None


@dataclass(frozen=True)
class DrawnGroup:
    """One question's samples; graded already where dynamic sampling had to look at them."""

    problem: int
    requests: Sequence[Request]
    completions: Sequence[Completion]
    graded: Sequence[Graded] = ()


class Rollouts:
    """Draws, grades and rewards; lives as long as its trainer.

    `problems[i]` is the problem whose dataset rows carry `problem: i`, and `prompts[i]` what it is
    asked with. `folder` is where a few rollouts are kept (`rollouts.jsonl`) and, with dynamic
    sampling, which questions each rollout asked (`asked.jsonl`).
    """

    def __init__(
        self,
        settings: RolloutSettings,
        problems: Sequence[Problem],
        prompts: Sequence[str],
        *,
        sampler: Sampler,
        tokenizer: "PreTrainedTokenizerBase",
        pool: GradingPool,
        clock: PhaseClock,
        folder: Path,
        watcher: Watcher | None = None,
        preferences: PreferenceRewards | None = None,
    ) -> None:
        self.settings = settings
        self.watcher = watcher
        self.preferences = preferences
        self.problems = problems
        self.prompts = prompts
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.pool = pool
        self.clock = clock
        self.path = folder / "rollouts.jsonl"
        self.asked_path = folder / "asked.jsonl"
        self.parity: dict[str, float] = {}
        """Gaps found by the last check, taken by the telemetry of its step."""
        self.drawn = Drawn(0, 0, 0, 0)
        self._count = 0
        self._update = 1
        self._sampling = settings.sampling_at(1)
        self._loaded_step = 0
        self._graded: list[Graded] = []
        self._graded_early: list[Graded] = []
        self._draw_figures: dict[str, float] = {}
        self._plugins = PluginRewards(settings.rewards)
        self._failures = GraderFailures()
        self._has_redone = False
        dynamic = settings.dynamic_sampling
        self._questions = Questions(
            len(problems), seed=settings.seed, rest_steps=dynamic.rest_steps if dynamic else 0
        )

    def sample(self, prompts: list[str], trainer: FactoryGrpoTrainer) -> dict[str, list[Any]]:
        """TRL's rollout_func: one completion for each of `prompts`, repeated once a sample.

        All requests of a round go to the engine in one call, so no sample waits for the slowest
        of another group; each has a seed that depends on the step and its row only, so a resumed
        run draws the same completions.
        """
        self._graded = []
        self.drawn = Drawn(0, 0, 0, 0)
        step = trainer.state.global_step
        self._update = step + 1
        self._sampling = self.settings.sampling_at(self._update)
        # TRL multiplies the components by these and adds them up; its own are constant.
        weights = [reward.weight_at(self._update) for reward in self.settings.rewards]
        trainer.reward_weights = torch.tensor(weights, dtype=torch.float32)
        if self._count == 0:
            self._resume(step, trainer)
        self._count += 1
        self._load(trainer)
        if self.watcher is not None and self.watcher.is_due(step):
            self.watch(trainer)
        questions = trainer.asked[:: self.settings.group]
        if self.settings.dynamic_sampling is None:
            first_row = trainer.accelerator.process_index * len(prompts)
            groups = self._draw(questions, step, first_row=first_row)
        else:
            rounds = self.settings.dynamic_sampling.max_rounds
            groups = self._draw_with_signal(questions, step, rounds=rounds)
        requests = [request for group in groups for request in group.requests]
        completions = [completion for group in groups for completion in group.completions]
        self._graded_early = [graded for group in groups for graded in group.graded]
        if self._count == 1:
            trainer.choose_pass(
                [(r.prompt_ids, c.token_ids) for r, c in zip(requests, completions, strict=True)]
            )
        if self._count.bit_count() == 1:
            with self.clock.measure("parity"):
                self.parity = engine_parity(
                    self.sampler, requests, self._sampling,
                    logprobs=trainer.completion_logprobs, device=trainer.accelerator.device,
                    dtype=self.settings.dtype, step=step + 1,
                )  # fmt: skip
        problems = [group.problem for group in groups for _ in group.requests]
        return {
            "prompt_ids": [list(request.prompt_ids) for request in requests],
            "completion_ids": [list(completion.token_ids) for completion in completions],
            "logprobs": [list(completion.logprobs) for completion in completions],
            "text": [completion.text for completion in completions],
            "finish_reason": [completion.finish_reason for completion in completions],
            "seed": [request.seed for request in requests],
            # Takes the place of the planned rows' column: rewards grade what was asked.
            "problem": problems,
            "asked_with": [self.prompts[problem] for problem in problems],
        }

    def watch(self, trainer: FactoryGrpoTrainer) -> None:
        """Measure the held-out problems with the trainer's present weights."""
        if self.watcher is None:
            return
        self._load(trainer)
        with self.clock.measure("watch"):
            self.watcher.measure(
                trainer.state.global_step,
                limit=self._sampling.max_new_tokens,
                ranks=_ranks(trainer),
            )

    def _load(self, trainer: FactoryGrpoTrainer) -> None:
        """Give the engine the trainer's weights unless it holds them."""
        step = trainer.state.global_step
        if step != self._loaded_step:
            with self.clock.measure("sync"):
                model = trainer.accelerator.unwrap_model(trainer.model)
                self.sampler.load_weights(policy_weights(model))
                self._loaded_step = step

    def _resume(self, step: int, trainer: FactoryGrpoTrainer) -> None:
        """Drop what a killed run wrote past this step, and know again what it had seen."""
        if is_first_rank():
            truncate_rows(self.path, step)
            self._has_redone = any("redone" in row for row in recover_rows(self.path))
        if self.watcher is not None:
            self.watcher.resume(step, ranks=_ranks(trainer))
        if self.settings.dynamic_sampling is not None:
            truncate_rows(self.asked_path, step)
            if self.asked_path.exists():
                for row in read_records(self.asked_path, AskedRow):
                    self._questions.note(row)

    def _draw(self, questions: Sequence[int], step: int, *, first_row: int) -> list[DrawnGroup]:
        """A group of samples for each question; no two rows of a step share a seed."""
        size = self.settings.group
        ids = {
            question: tuple(
                self.tokenizer(self.prompts[question], add_special_tokens=False)["input_ids"]
            )
            for question in dict.fromkeys(questions)
        }
        requests = [
            Request(ids[question], derive(self.settings.seed, "grpo", step, first_row + row))
            for row, question in enumerate(q for q in questions for _ in range(size))
        ]
        with self.clock.measure("generate"):
            completions = self.sampler.sample(requests, self._sampling)
        self.drawn = self.drawn.plus(requests, completions)
        return [
            DrawnGroup(
                question,
                requests[place * size : (place + 1) * size],
                completions[place * size : (place + 1) * size],
            )
            for place, question in enumerate(questions)
        ]

    def _draw_with_signal(
        self, planned: Sequence[int], step: int, *, rounds: int
    ) -> list[DrawnGroup]:
        """Groups for the planned questions, those without a signal replaced while rounds last."""
        size = self.settings.group

        def draw(questions: Sequence[int], groups_before: int) -> list[DrawnGroup]:
            groups = self._draw(questions, step, first_row=groups_before * size)
            graded = self._grade(
                [group.problem for group in groups for _ in range(size)],
                [completion.text for group in groups for completion in group.completions],
                [completion.finish_reason for group in groups for completion in group.completions],
                [len(c.token_ids) for group in groups for c in group.completions],
            )
            return [
                replace(group, graded=graded[place * size : (place + 1) * size])
                for place, group in enumerate(groups)
            ]

        first, spare = self._questions.plan(planned, step + 1)
        kept, drawn = fill(first, spare, rounds=rounds, draw=draw, has_signal=self._has_signal)
        row = AskedRow(
            step=step + 1,
            asked=tuple(group.problem for group in drawn),
            solved=tuple(all(g.verdict.is_correct for g in group.graded) for group in drawn),
        )
        self._draw_figures = {
            "drawn_groups_per_used": len(drawn) / len(kept),
            "drawn_accuracy": sum(g.verdict.is_correct for group in drawn for g in group.graded)
            / (len(drawn) * size),
            "drawn_tokens": float(sum(len(c.token_ids) for g in drawn for c in g.completions)),
            "drawn_resting": float(len(self._questions.resting(step + 1))),
        }
        append_rows(self.asked_path, [row.model_dump(mode="json")])
        self._questions.note(row)
        return kept

    def _has_signal(self, group: DrawnGroup) -> bool:
        totals = {self._total(one) for one in group.graded}
        return len(totals) > 1

    def _total(self, graded: Graded) -> float:
        return total_reward(graded.components, self.settings.rewards, step=self._update)

    def reward_functions(self) -> list[Callable[..., list[float | None]]]:
        """One function a configured component; the first one called grades the rollout."""
        return [self._reward_function(reward.name) for reward in self.settings.rewards]

    def _reward_function(self, name: str) -> Callable[..., list[float | None]]:
        def reward(
            *,
            problem: list[int],
            text: list[str],
            finish_reason: list[FinishReason],
            log_metric: Callable[[str, float], None],
            **rest: Any,
        ) -> list[float | None]:
            if not self._graded:
                tokens = [len(ids) for ids in rest["completion_ids"]]
                self._graded = self._graded_early or self._grade(
                    problem, text, finish_reason, tokens
                )
                asked = [self.problems[i] for i in problem]
                of_rollout = figures(self._graded, text, finish_reason, problems=asked)
                if self.watcher is not None:
                    of_rollout |= close_figures(self._graded, text, finish_reason)
                for metric, value in {**of_rollout, **self._draw_figures}.items():
                    log_metric(metric, value)
                self._keep(problem, text, finish_reason, rest)
            # None where a component does not apply: TRL leaves it out of sum and mean.
            return [graded.components.get(name) for graded in self._graded]

        reward.__name__ = name
        return reward

    def _grade(
        self,
        problem: list[int],
        text: list[str],
        finish_reason: list[FinishReason],
        tokens: list[int],
    ) -> list[Graded]:
        prompt = self.settings.prompt
        with self.clock.measure("grade"):
            verdicts = self.pool.grade(
                [
                    GradeItem.for_prompt(self.problems[i], completion, reason, prompt)
                    for i, completion, reason in zip(problem, text, finish_reason, strict=True)
                ]
            )
            asked = [self.problems[i] for i in problem]
            ruled = [v for v, p in zip(verdicts, asked, strict=True) if p.kind != "open"]
            self._failures.check(ruled)
            responses = [
                parse_completion(completion, reason, prompt)
                for completion, reason in zip(text, finish_reason, strict=True)
            ]
            results = [
                GradedCompletion.of(
                    source, verdict, response, completion, tokens=count,
                    limit=self._sampling.max_new_tokens, language=self.settings.language,
                )
                for source, verdict, response, completion, count in zip(
                    asked, verdicts, responses, text, tokens, strict=True
                )
            ]  # fmt: skip
            graded = [
                Graded(verdict, response, {**rule_components(result), **plugin})
                for verdict, response, result, plugin in zip(
                    verdicts, responses, results, self._plugins.components(results), strict=True
                )
            ]
        if self.preferences is None:
            return graded
        with self.clock.measure("score"):
            return self.preferences.added(graded, asked, text, step=self._update)

    def _keep(
        self,
        problem: list[int],
        text: list[str],
        finish_reason: list[FinishReason],
        rest: dict[str, Any],
    ) -> None:
        """Append a few completions of the rollout that feeds the next update.

        Those of the first questions; with a watch also the one with the most steps done again,
        and that one from the very first rollout that has any.
        """
        if not is_first_rank():
            return
        step = rest["trainer_state"].global_step + 1
        redone = []
        if self.watcher is not None:
            redone = [redone_steps(graded.response.reasoning or "") for graded in self._graded]
        telling = self._most_telling(redone)
        is_kept = step in self.settings.kept_steps
        chosen = self._first_rows() if is_kept else []
        if telling is not None and (is_kept or not self._has_redone):
            self._has_redone = True
            chosen = sorted({*chosen, telling})
        lines = []
        for row in chosen:
            trace = self._trace(
                row, step, problem=problem, text=text, finish_reason=finish_reason, rest=rest
            )
            graded = self._graded[row]
            rewards = {**graded.components, "total": self._total(graded)}
            line = {"step": step, "trace": trace.model_dump(mode="json"), "rewards": rewards}
            lines.append({**line, "redone": redone[row]} if row == telling else line)
        if lines:
            append_rows(self.path, lines)

    def _trace(
        self,
        row: int,
        step: int,
        *,
        problem: list[int],
        text: list[str],
        finish_reason: list[FinishReason],
        rest: dict[str, Any],
    ) -> Trace:
        """One completion of the rollout that feeds update `step`, as it is kept."""
        source, graded = self.problems[problem[row]], self._graded[row]
        return Trace(
            problem_id=source.id,
            sample=row % self.settings.group,
            question=source.prompt,
            prompt=rest["asked_with"][row],
            completion=text[row],
            reasoning=graded.response.reasoning,
            answer=graded.response.answer,
            summary=graded.response.summary,
            finish_reason=finish_reason[row],
            completion_tokens=len(rest["completion_ids"][row]),
            seed=rest["seed"][row],
            sampling=self._sampling,
            style=self.settings.prompt.style,
            model=f"{self.settings.model}+{step - 1}",
            verdict=graded.verdict,
        )

    def _first_rows(self) -> list[int]:
        size = self.settings.group
        return [
            group * size + sample
            for group in range(min(KEPT_GROUPS, len(self._graded) // size))
            for sample in range(min(KEPT_SAMPLES, size))
        ]

    def _most_telling(self, redone: Sequence[int]) -> int | None:
        """The completion with the most steps done again, right ones first."""
        if not any(redone):
            return None
        rows = range(len(redone))
        return max(rows, key=lambda row: (redone[row], self._graded[row].verdict.is_correct))


def _ranks(trainer: FactoryGrpoTrainer) -> Ranks:
    process = trainer.accelerator
    if process.num_processes == 1:
        return Ranks()
    return Ranks(process.process_index, process.num_processes, gather_object)
