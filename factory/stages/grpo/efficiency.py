"""A step's rates and its shares of the roofline, for the telemetry of `grpo`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from factory.cost.roofline import Peaks, Size, generation_seconds, training_seconds
from factory.sampling.sampler import Completion, Request


@dataclass(frozen=True)
class Drawn:
    """What a rollout drew, replaced groups included."""

    rows: int
    prompt_tokens: int
    """Of all rows, so a shared prompt counts once a row."""
    completion_tokens: int
    prompt_tokens_run: int
    """Prompt tokens that the engine ran: a prompt that is shared should count once a group."""

    def plus(self, requests: Sequence[Request], completions: Sequence[Completion]) -> "Drawn":
        return Drawn(
            self.rows + len(requests),
            self.prompt_tokens + sum(len(request.prompt_ids) for request in requests),
            self.completion_tokens + sum(len(c.token_ids) for c in completions),
            self.prompt_tokens_run
            + sum(
                len(request.prompt_ids) - completion.cached_prompt_tokens
                for request, completion in zip(requests, completions, strict=True)
            ),
        )


@dataclass(frozen=True)
class Efficiency:
    """Turns seconds into rates; what does not change during a run is given once."""

    size: Size
    peaks: Peaks
    completions: int
    """Rows of a rollout that are trained on."""
    group: int
    rows_at_once: int
    """Rows that an engine decodes together at most."""
    updates: int
    """Updates that share a rollout."""

    def of_step(
        self, seconds: Mapping[str, float], rollout: Drawn, logs: Mapping[str, float]
    ) -> dict[str, float]:
        """Rates of one step; those of a phase that took no time are missing.

        `roofline/generate` and `roofline/train` are the least possible seconds by the formulas of
        `roofline.py` over those taken. The training pass is measured against all rows of the step,
        with a signal or not: skipping rows that add nothing counts as efficiency. Peaks are those
        of one process.
        """
        figures: dict[str, float] = {}
        if rollout.rows == 0:
            return figures
        prompt = rollout.prompt_tokens / rollout.rows
        completion = rollout.completion_tokens / rollout.rows
        generate = seconds.get("generate", 0.0)
        if "completions/mean_length" in logs:
            figures["prompt_run_share"] = round(
                rollout.prompt_tokens_run / rollout.prompt_tokens, 4
            )
        if "completions/mean_length" in logs and generate:
            figures["generated_per_second"] = round(rollout.completion_tokens / generate, 1)
            least = generation_seconds(
                self.size,
                self.peaks,
                rows=rollout.rows,
                prompt=prompt,
                completion=completion,
                group=self.group,
                rows_at_once=self.rows_at_once,
            )
            figures["roofline/generate"] = round(least / generate, 4)
        train = seconds.get("train", 0.0)
        if train:
            rows = self.completions / self.updates
            figures["trained_per_second"] = round(rows * completion / train, 1)
            least = training_seconds(
                self.size,
                self.peaks,
                rows=rows,
                prompt=prompt,
                completion=completion,
                group=self.group,
            )
            figures["roofline/train"] = round(least / train, 4)
        return figures
