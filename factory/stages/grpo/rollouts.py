"""Rollouts: a step's questions to sampled, graded and rewarded completions.

TRL asks `Rollouts.sample` for completions (its `rollout_func`), which are graded there, and then
`Rollouts.reward` for the total of each.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import gather_object
from transformers import TrainerState

from factory.core.jsonl import append_rows, read_records
from factory.core.records import FinishReason, Problem, SamplingConfig
from factory.core.seeds import derive
from factory.grading import GradeItem, GradingPool
from factory.rewards import (
    GradedCompletion,
    PluginRewards,
    RewardConfig,
    rule_components,
    totals,
)
from factory.sampling.sampler import OnEnd, Request, Sampler, nobody
from factory.sampling.streams import Streaming
from factory.stages.grpo.config import DynamicSampling
from factory.stages.grpo.dynamic_sampling import AskedRow, Questions, fill
from factory.stages.grpo.efficiency import Drawn
from factory.stages.grpo.graded import Graded, GraderFailures, close_figures, figures
from factory.stages.grpo.groups import GradedRow, SampledGroup, with_graded
from factory.stages.grpo.judge_rewards import JudgeRewards
from factory.stages.grpo.kept import KeptRollouts
from factory.stages.grpo.preference_rewards import PreferenceRewards
from factory.stages.grpo.streaming import Groups
from factory.stages.grpo.trainer import FactoryGrpoTrainer
from factory.stages.grpo.watch import Watcher
from factory.text.chat import PromptConfig, parse_completion
from factory.trainers.checkpoints import is_first_rank
from factory.trainers.parity import engine_parity
from factory.trainers.phases import DRAWING, PhaseClock
from factory.trainers.watch import Ranks
from factory.trainers.weights import policy_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    max_ungradable: float = 0.01
    """Of the latest answers that rules decide."""
    is_streamed: bool = False
    """Whether an engine that can draws without rounds, graded beside it."""
    drawing: Callable[[float], OnEnd] = lambda worth: nobody
    """Gives what hears that a completion has ended, worth such a part of a step."""


class Rollouts:
    """Draws, grades and rewards; lives as long as its trainer.

    `problems[i]` is the problem whose dataset rows have the prompt `i`, and `prompts[i]` what it is
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
        judge: JudgeRewards | None = None,
    ) -> None:
        self.settings = settings
        self.watcher = watcher
        self.preferences = preferences
        self.judge = judge
        self.problems = problems
        self.prompts = prompts
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.pool = pool
        self.clock = clock
        self._kept = KeptRollouts(
            folder / "rollouts.jsonl", problems, prompts, settings.prompt.style,
            model=settings.model, group=settings.group, steps=settings.kept_steps,
            is_watched=watcher is not None,
        )  # fmt: skip
        self.asked_path = folder / "asked.jsonl"
        self.parity: dict[str, float] = {}
        """Gaps found by the last check, taken by the telemetry of its step."""
        self.totals_drawn = Drawn(0, 0, 0, 0)
        self._count = 0
        self._sampling = settings.sampling_at(1)
        self._weights: dict[str, float] = {}
        """Of the reward components, for the rollout that is being sampled."""
        self._loaded_step = 0
        self._check_reference: Callable[[], None] = lambda: None
        self._is_streamed = settings.is_streamed and isinstance(sampler, Streaming)
        self._plugins = PluginRewards(settings.rewards)
        self._failures = GraderFailures(settings.max_ungradable)
        self._agreement: dict[str, float] = {}
        dynamic = settings.dynamic_sampling
        self._questions = Questions(
            len(problems), seed=settings.seed, rest_steps=dynamic.rest_steps if dynamic else 0
        )

    def sample(self, prompts: list[str], trainer: FactoryGrpoTrainer) -> dict[str, Any]:
        """TRL's rollout_func: one completion for each of `prompts`, repeated once a sample.

        A prompt is the index of its problem. All requests of a round go to the engine in one call,
        so no sample waits for the slowest of another group; each has a seed that depends on the
        step and its row only, so a resumed run draws the same completions.
        """
        self.totals_drawn = Drawn(0, 0, 0, 0)
        self._agreement = {}
        self._check_reference = trainer.check_reference
        step = trainer.state.global_step
        self._sampling = self.settings.sampling_at(step + 1)
        self._weights = {r.name: r.weight_at(step + 1) for r in self.settings.rewards}
        if self._count == 0:
            self._resume(step, trainer)
        self._count += 1
        self._load(trainer)
        if self.watcher is not None and self.watcher.is_due(step):
            self.watch(trainer)
        questions = [int(prompt) for prompt in prompts[:: self.settings.group]]
        shares: dict[str, float] = {}
        if self.settings.dynamic_sampling is None:
            first_row = trainer.accelerator.process_index * len(prompts)
            groups = self._sample(questions, step, first_row=first_row)
        else:
            rounds = self.settings.dynamic_sampling.max_rounds
            groups, shares = self._sample_with_signal(questions, step, rounds=rounds)
        self._check(groups, trainer)
        if self.settings.dynamic_sampling is None:
            groups = self._graded(groups)
        rows = self._rows(groups)
        self._kept.add(rows, step + 1, self._sampling, _ranks(trainer))
        return {
            "prompt_ids": [list(row.request.prompt_ids) for row in rows],
            "completion_ids": [list(row.completion.token_ids) for row in rows],
            "logprobs": [list(row.completion.logprobs) for row in rows],
            "total": [row.total for row in rows],
            # Not a list: TRL hands the same to every row.
            "figures": {**self._figures(rows, trainer), **shares, **self._agreement},
        }

    def reward(
        self,
        *,
        total: list[float | None],
        figures: Sequence[Mapping[str, float]],
        log_metric: Callable[[str, float], None],
        trainer_state: TrainerState,
        **rest: Any,
    ) -> list[float | None]:
        """TRL's reward function: the totals that `sample` found; None leaves a row out of the mean.

        It is the last of our code before TRL shuffles the rows by the global stream. What else drew
        from it differs between a resumed run and an undisturbed one, so the shuffle gets its own.
        """
        for name, value in figures[0].items():
            log_metric(name, value)
        self._check_reference()
        step = trainer_state.global_step
        torch.manual_seed(derive(self.settings.seed, "grpo", "shuffle", step))
        return total

    def _check(self, groups: Sequence[SampledGroup], trainer: FactoryGrpoTrainer) -> None:
        """With the first rollout choose the training pass; now and then compare log-probs."""
        requests = [request for group in groups for request in group.requests]
        if self._count == 1:
            completions = [completion for group in groups for completion in group.completions]
            trainer.choose_pass(
                [(r.prompt_ids, c.token_ids) for r, c in zip(requests, completions, strict=True)]
            )
        if self._count.bit_count() == 1:
            with self.clock.measure("parity"):
                self.parity = engine_parity(
                    self.sampler, requests, self._sampling,
                    logprobs=trainer.completion_logprobs, device=trainer.accelerator.device,
                    dtype=self.settings.dtype, step=trainer.state.global_step + 1,
                )  # fmt: skip

    def _rows(self, groups: Sequence[SampledGroup]) -> list[GradedRow]:
        graded = [result for group in groups for result in group.graded]
        values = iter(totals([result.components for result in graded], self._weights))
        return [
            GradedRow(group.problem, request, completion, result, next(values))
            for group in groups
            for request, completion, result in zip(
                group.requests, group.completions, group.graded, strict=True
            )
        ]

    def _figures(self, rows: Sequence[GradedRow], trainer: FactoryGrpoTrainer) -> dict[str, float]:
        """What to log of a rollout; the components' means are over all ranks."""
        graded = [row.graded for row in rows]
        text = [row.completion.text for row in rows]
        reasons: list[FinishReason] = [row.completion.finish_reason for row in rows]
        problems = [self.problems[row.problem] for row in rows]
        result = figures(graded, text, reasons, problems=problems)
        if self.watcher is not None:
            result |= close_figures(graded, text, reasons)
        components = torch.tensor(
            [[row.components.get(name, math.nan) for name in self._weights] for row in graded],
            device=trainer.accelerator.device,
        )
        components = trainer.accelerator.gather(components)
        for column, name in enumerate(self._weights):
            mean = components[:, column].nanmean().item()
            if not math.isnan(mean):
                result[f"rewards/{name}"] = mean
        return result

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
        """Know again what a killed run had seen up to this step."""
        if is_first_rank():
            self._kept.resume()
        if self.watcher is not None:
            self.watcher.resume(step, ranks=_ranks(trainer))
        if self.settings.dynamic_sampling is not None and self.asked_path.exists():
            for row in read_records(self.asked_path, AskedRow):
                self._questions.note(row)

    def _sample(self, questions: Sequence[int], step: int, *, first_row: int) -> list[SampledGroup]:
        """A group of samples for each question, graded by rules where they stream."""
        if self._is_streamed:
            return self._streamed(questions, (), step, first_row=first_row, rounds=0)
        size = self.settings.group
        requests = self._requests(questions, step, first_row=first_row)
        with self.clock.measure("generate"):
            completions = self.sampler.sample(
                requests, self._sampling, self._drawing(len(requests))
            )
        self.totals_drawn = self.totals_drawn.plus(requests, completions)
        return [
            SampledGroup(
                question,
                requests[index * size : (index + 1) * size],
                completions[index * size : (index + 1) * size],
            )
            for index, question in enumerate(questions)
        ]

    def _drawing(self, count: int) -> OnEnd:
        """What hears that one of so many completions has ended."""
        return self.settings.drawing(DRAWING / count) if count else nobody

    def _requests(self, questions: Sequence[int], step: int, *, first_row: int) -> list[Request]:
        """Of a group for each question; no two rows of a step share a seed."""
        ids = {
            question: tuple(
                self.tokenizer(self.prompts[question], add_special_tokens=False)["input_ids"]
            )
            for question in dict.fromkeys(questions)
        }
        rows = (question for question in questions for _ in range(self.settings.group))
        return [
            Request(ids[question], derive(self.settings.seed, "grpo", step, first_row + row))
            for row, question in enumerate(rows)
        ]

    def _streamed(
        self,
        questions: Sequence[int],
        spare: Sequence[int],
        step: int,
        *,
        first_row: int,
        rounds: int,
    ) -> list[SampledGroup]:
        """Groups graded by rules: those of the questions, and spare ones as `fill` asks for."""
        every, size = [*questions, *spare], self.settings.group
        groups = Groups(
            lambda number: self._requests(
                every[number : number + 1], step, first_row=first_row + number * size
            ),
            first=len(questions), spare=len(spare), rounds=rounds,
            grade=lambda at, *answered: self._ruled([SampledGroup(every[at], *answered)])[0],
            has_signal=self._has_signal,
        )  # fmt: skip
        on_end = self._drawing(size * (len(questions) + len(spare)))
        with self.clock.measure("generate"):
            sampled = groups.draw(cast("Streaming", self.sampler), self._sampling, on_end)
        for group in sampled:
            self.totals_drawn = self.totals_drawn.plus(group.requests, group.completions)
        return sampled

    def _sample_with_signal(
        self, planned: Sequence[int], step: int, *, rounds: int
    ) -> tuple[list[SampledGroup], dict[str, float]]:
        """Graded groups for the planned questions, those without a signal replaced while rounds
        last, and figures of all that was drawn."""
        size, ready = self.settings.group, list[SampledGroup]()
        first, spare = self._questions.plan(planned, step + 1)
        # A learned reward or a judge takes the engine's device: it waits for the end of a round.
        if self._is_streamed and self.preferences is None and self.judge is None:
            most = spare[: rounds * len(first)]
            ready = self._graded(self._streamed(first, most, step, first_row=0, rounds=rounds))

        def draw(questions: Sequence[int], before: int) -> list[SampledGroup]:
            if ready:
                return ready[before : before + len(questions)]
            return self._graded(self._sample(questions, step, first_row=before * size))

        kept, sampled = fill(first, spare, rounds=rounds, draw=draw, has_signal=self._has_signal)
        row = AskedRow(
            step=step + 1,
            asked=tuple(group.problem for group in sampled),
            solved=tuple(all(g.verdict.is_correct for g in group.graded) for group in sampled),
        )
        right = sum(g.verdict.is_correct for group in sampled for g in group.graded)
        shares = {
            "drawn_groups_per_used": len(sampled) / len(kept),
            "drawn_accuracy": right / (len(sampled) * size),
            "drawn_tokens": float(sum(len(c.token_ids) for g in sampled for c in g.completions)),
            "drawn_resting": float(len(self._questions.resting(step + 1))),
        }
        append_rows(self.asked_path, [row.model_dump(mode="json")])
        self._questions.note(row)
        return kept, shares

    def _has_signal(self, group: SampledGroup) -> bool:
        return len(set(totals([g.components for g in group.graded], self._weights))) > 1

    def _graded(self, groups: Sequence[SampledGroup]) -> list[SampledGroup]:
        """The groups with everything that there is to say about each completion."""
        if not groups[0].graded:
            with self.clock.measure("grade"):
                groups = self._ruled(groups)
        completions = [completion for group in groups for completion in group.completions]
        problems = [self.problems[group.problem] for group in groups for _ in group.completions]
        graded = [result for group in groups for result in group.graded]
        ruled = zip(graded, problems, strict=True)
        self._failures.check([each.verdict for each, problem in ruled if problem.kind != "open"])
        if self.preferences is not None:
            with self.clock.measure("score"):
                texts = [completion.text for completion in completions]
                graded = self.preferences.added(graded, problems, texts, weights=self._weights)
        if self.judge is not None and self._weights[self.judge.name]:
            requests = [request for group in groups for request in group.requests]
            with self.clock.measure("judge"):
                graded, self._agreement = self.judge.added(
                    graded, problems, requests, step=self._loaded_step
                )
        return with_graded(groups, graded)

    def _ruled(self, groups: Sequence[SampledGroup]) -> list[SampledGroup]:
        """The groups with verdicts and the rewards that functions give."""
        completions = [completion for group in groups for completion in group.completions]
        problems = [self.problems[group.problem] for group in groups for _ in group.completions]
        prompt = self.settings.prompt
        verdicts = self.pool.grade(
            [
                GradeItem.for_prompt(problem, completion.text, completion.finish_reason, prompt)
                for problem, completion in zip(problems, completions, strict=True)
            ]
        )
        responses = [parse_completion(c.text, c.finish_reason, prompt) for c in completions]
        results = [
            GradedCompletion.of(
                problem, verdict, response, completion.text, tokens=len(completion.token_ids),
                limit=self._sampling.max_new_tokens, language=self.settings.language,
            )
            for problem, verdict, response, completion in zip(
                problems, verdicts, responses, completions, strict=True
            )
        ]  # fmt: skip
        graded = [
            Graded(verdict, response, {**rule_components(result), **plugin})
            for verdict, response, result, plugin in zip(
                verdicts, responses, results, self._plugins.components(results), strict=True
            )
        ]
        return with_graded(groups, graded)


def _ranks(trainer: FactoryGrpoTrainer) -> Ranks:
    process = trainer.accelerator
    if process.num_processes == 1:
        return Ranks()
    return Ranks(process.process_index, process.num_processes, gather_object)
