"""Rollouts: a step's questions to sampled, graded and rewarded completions.

TRL asks `Rollouts.sample` for completions (its `rollout_func`) and then every function of
`reward_functions` for one reward component, so that it weighs and logs them apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from factory.chat import PromptConfig, Response, parse
from factory.errors import EngineError
from factory.grading import GradeItem, GradingPool, check_ungradable
from factory.jsonl import append_rows
from factory.records import FinishReason, Problem, SamplingConfig, Trace, Verdict
from factory.rewards import RewardConfig, reflective_words, reward_components, total_reward
from factory.sampling.sampler import Request, Sampler
from factory.seeds import derive
from factory.training.checkpoints import is_first_rank
from factory.training.grpo import FactoryGrpoTrainer, policy_weights
from factory.training.phases import PhaseClock
from factory.training.precision import exact_products
from factory.training.telemetry import truncate_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_GROUPS, KEPT_SAMPLES = 2, 2
"""Questions of a rollout that are kept to be read, and completions of each."""

PARITY_ROWS = 4
"""Completions whose log-probs are compared between engine and trainer."""

PARITY_BOUNDS = {"float32": (1e-3, 1e-2), "bfloat16": (5e-2, 2.0)}
"""Largest mean and single absolute gap of a token's log-prob, nats.

float32: both compute the same sums in another order; measured 1e-6 on tiny models, a stale or
wrongly loaded weight shows as 1e-2 and more. bfloat16: rounding alone gives 0.04 mean and 1.05 at
most on a 135M model with an engine in bfloat16 beside a float32 trainer.
"""

UNGRADABLE_LIMIT = 0.1
"""Share of a rollout that graders may fail on before the run stops."""


@dataclass(frozen=True)
class RolloutSettings:
    """What a rollout needs to know of the recipe."""

    prompt: PromptConfig
    rewards: tuple[RewardConfig, ...]
    sampling: SamplingConfig
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


@dataclass(frozen=True)
class Graded:
    """One completion with everything that was found out about it."""

    verdict: Verdict
    response: Response
    components: dict[str, float]


class Rollouts:
    """Draws, grades and rewards; lives as long as its trainer.

    `problems[i]` is the problem whose dataset rows carry `problem: i`. `path` is where a few
    rollouts are kept, one JSON line each.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        problems: Sequence[Problem],
        *,
        sampler: Sampler,
        tokenizer: "PreTrainedTokenizerBase",
        pool: GradingPool,
        clock: PhaseClock,
        path: Path,
    ) -> None:
        self.settings = settings
        self.problems = problems
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.pool = pool
        self.clock = clock
        self.path = path
        self.parity: dict[str, float] = {}
        """Gaps found by the last check, taken by the telemetry of its step."""
        self._count = 0
        self._loaded_step = 0
        self._graded: list[Graded] = []

    def sample(self, prompts: list[str], trainer: FactoryGrpoTrainer) -> dict[str, list[Any]]:
        """TRL's rollout_func: one completion for each of `prompts`, repeated once a sample.

        All requests go to the engine in one call, each with a seed that depends on the step and
        its row only, so a resumed run draws the same completions.
        """
        self._graded = []
        step = trainer.state.global_step
        if self._count == 0 and is_first_rank():
            truncate_rows(self.path, step)
        self._count += 1
        if step != self._loaded_step:
            with self.clock.measure("sync"):
                model = trainer.accelerator.unwrap_model(trainer.model)
                self.sampler.load_weights(policy_weights(model))
                self._loaded_step = step
        requests = self._requests(prompts, step, rank=trainer.accelerator.process_index)
        with self.clock.measure("generate"):
            completions = self.sampler.sample(requests, self.settings.sampling)
        if self._count.bit_count() == 1:
            with self.clock.measure("parity"):
                self._check_parity(requests, trainer)
        return {
            "prompt_ids": [list(request.prompt_ids) for request in requests],
            "completion_ids": [list(completion.token_ids) for completion in completions],
            "logprobs": [list(completion.logprobs) for completion in completions],
            "text": [completion.text for completion in completions],
            "finish_reason": [completion.finish_reason for completion in completions],
            "seed": [request.seed for request in requests],
        }

    def _requests(self, prompts: list[str], step: int, *, rank: int) -> list[Request]:
        """A request a row; no two rows of the ranks share a seed."""
        ids = {
            prompt: tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
            for prompt in dict.fromkeys(prompts)
        }
        offset = rank * len(prompts)
        return [
            Request(ids[prompt], derive(self.settings.seed, "grpo", step, offset + row))
            for row, prompt in enumerate(prompts)
        ]

    def reward_functions(self) -> list[Callable[..., list[float]]]:
        """One function a configured component; the first one called grades the rollout."""
        return [self._reward_function(reward.name) for reward in self.settings.rewards]

    def _reward_function(self, name: str) -> Callable[..., list[float]]:
        def reward(
            *,
            problem: list[int],
            text: list[str],
            finish_reason: list[FinishReason],
            log_metric: Callable[[str, float], None],
            **rest: Any,
        ) -> list[float]:
            if not self._graded:
                self._graded = self._grade(problem, text, finish_reason)
                for metric, value in figures(self._graded, text, finish_reason).items():
                    log_metric(metric, value)
                self._keep(problem, text, finish_reason, rest)
            return [graded.components[name] for graded in self._graded]

        reward.__name__ = name
        return reward

    def _grade(
        self, problem: list[int], text: list[str], finish_reason: list[FinishReason]
    ) -> list[Graded]:
        prefill = self.settings.prompt.prefill
        with self.clock.measure("grade"):
            verdicts = self.pool.grade(
                [
                    GradeItem(self.problems[i], completion, prefill, reason)
                    for i, completion, reason in zip(problem, text, finish_reason, strict=True)
                ]
            )
            check_ungradable(verdicts, limit=UNGRADABLE_LIMIT)
            graded = []
            for verdict, completion in zip(verdicts, text, strict=True):
                response = parse(completion, prefill=prefill)
                components = reward_components(verdict, response, language=self.settings.language)
                graded.append(Graded(verdict, response, components))
        return graded

    def _keep(
        self,
        problem: list[int],
        text: list[str],
        finish_reason: list[FinishReason],
        rest: dict[str, Any],
    ) -> None:
        """Append a few completions of the rollout that feeds the next update."""
        step = rest["trainer_state"].global_step + 1
        if step not in self.settings.kept_steps or not is_first_rank():
            return
        settings = self.settings
        lines = []
        for row, graded in enumerate(self._graded):
            group, sample = divmod(row, settings.group)
            if group >= KEPT_GROUPS or sample >= KEPT_SAMPLES:
                continue
            source = self.problems[problem[row]]
            trace = Trace(
                problem_id=source.id,
                sample=sample,
                question=source.prompt,
                prompt=rest["prompts"][row],
                completion=text[row],
                reasoning=graded.response.reasoning,
                answer=graded.response.answer,
                finish_reason=finish_reason[row],
                completion_tokens=len(rest["completion_ids"][row]),
                seed=rest["seed"][row],
                sampling=settings.sampling,
                style=settings.prompt.style,
                model=f"{settings.model}+{step - 1}",
                verdict=graded.verdict,
            )
            rewards = {
                **graded.components,
                "total": total_reward(graded.components, settings.rewards),
            }
            lines.append({"step": step, "trace": trace.model_dump(mode="json"), "rewards": rewards})
        append_rows(self.path, lines)

    def _check_parity(
        self,
        requests: Sequence[Request],
        trainer: FactoryGrpoTrainer,
    ) -> None:
        """EngineError if engine and trainer disagree about the log-probs of sampled tokens.

        An engine that did not take the new weights, or computes in another way, would train on
        wrong samples silently. A few requests are drawn once more and scored by both with exact
        float32 products: where a machine rounds operands to bfloat16 for speed, rounding alone
        would hide a stale weight. Run on rollouts 1, 2, 4, 8, ...: what a small learning rate has
        changed after one update may be below the bound, and only later above it.
        """
        rows = sorted({i * len(requests) // PARITY_ROWS for i in range(PARITY_ROWS)})
        asked = [requests[row] for row in rows]
        with exact_products():
            completions = self.sampler.sample(asked, self.settings.sampling)
            ids, mask, length = _padded_batch(
                [(a.prompt_ids, c.token_ids) for a, c in zip(asked, completions, strict=True)],
                trainer.accelerator.device,
            )
            own = trainer.completion_logprobs(ids, mask, length).float().cpu()
        gaps = torch.cat(
            [
                own[row, : len(completion.logprobs)] - torch.tensor(completion.logprobs)
                for row, completion in enumerate(completions)
            ]
        ).abs()
        mean, largest = gaps.mean().item(), gaps.max().item()
        self.parity = {"parity/mean": mean, "parity/max": largest}
        mean_bound, largest_bound = PARITY_BOUNDS[self.settings.dtype]
        if not (mean <= mean_bound and largest <= largest_bound):
            raise EngineError(
                f"step {trainer.state.global_step + 1}: log-probs of {self.sampler.name} and of "
                f"the trainer differ by {mean:.2g} on average and {largest:.2g} at most over "
                f"{len(gaps)} tokens; allowed are {mean_bound} and {largest_bound} in "
                f"{self.settings.dtype}: the engine does not hold the trainer's weights; "
                "set engine: transformers in the machine file"
            )


def _padded_batch(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: Any
) -> tuple[Tensor, Tensor, int]:
    """Ids and mask (rows, prompt + completion), prompts left-padded, and the completion length."""
    width = max(len(prompt) for prompt, _ in pairs)
    length = max(len(completion) for _, completion in pairs)
    ids = torch.zeros(len(pairs), width + length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(pairs):
        span = slice(width - len(prompt), width + len(completion))
        ids[row, span] = torch.tensor([*prompt, *completion])
        mask[row, span] = 1
    return ids.to(device), mask.to(device), length


def figures(
    graded: Sequence[Graded], text: Sequence[str], finish_reason: Sequence[FinishReason]
) -> dict[str, float]:
    """Means over a rollout's completions.

    `accuracy` and `format_share` are shares whether or not they are rewarded; `truncated_share`
    counts completions cut at max_new_tokens; `words/<word>` is how often a reflective word occurs
    in a completion. `language_mix_share` is the mean share of words in another language, over
    completions that reason at all; missing where none does.
    """
    count = len(graded)
    words = [reflective_words(completion) for completion in text]
    foreign = [1 - one.components["language"] for one in graded if one.response.reasoning]
    return {
        "accuracy": sum(one.verdict.is_correct for one in graded) / count,
        "format_share": sum(one.response.is_well_formed for one in graded) / count,
        "truncated_share": sum(reason == "length" for reason in finish_reason) / count,
        **({"language_mix_share": sum(foreign) / len(foreign)} if foreign else {}),
        **{f"words/{word}": sum(row[word] for row in words) / count for word in words[0]},
    }
