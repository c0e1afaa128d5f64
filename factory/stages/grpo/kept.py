"""A few completions of a rollout, kept to be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.jsonl import append_rows, recover_rows
from factory.core.records import Problem, SamplingConfig, Trace
from factory.rewards import redone_steps
from factory.stages.grpo.groups import GradedRow
from factory.trainers.watch import ALONE, Ranks

KEPT_GROUPS, KEPT_SAMPLES = 2, 2
"""Questions of a rollout that are kept to be read, and completions of each."""


@dataclass(frozen=True)
class _Offer:
    """A completion that may be kept."""

    index: int
    """Of its row among those of all ranks."""
    redone: int
    """Steps done again; 0 without a watch."""
    is_correct: bool
    line: dict[str, Any]
    """As the file has it."""


class KeptRollouts:
    """The file that they are in, the same for any number of ranks; the first rank writes it."""

    def __init__(
        self, path: Path, problems: Sequence[Problem], prompts: Sequence[str], style: str, *,
        model: str, group: int, steps: frozenset[int], is_watched: bool,
    ) -> None:  # fmt: skip
        self._path, self._problems, self._prompts = path, problems, prompts
        self._style, self._model, self._group, self._steps = style, model, group, steps
        self._is_watched = is_watched
        self._has_redone = False

    def resume(self) -> None:
        """Know again what a killed run had seen."""
        self._has_redone = any("redone" in row for row in recover_rows(self._path))

    def add(
        self, rows: Sequence[GradedRow], step: int, sampling: SamplingConfig, ranks: Ranks = ALONE
    ) -> None:
        """Append a few completions of the rollout that feeds update `step`, of which each rank has
        as many `rows`.

        Those of the first questions; with a watch also the one with the most steps done again,
        and that one from the very first rollout that has any.
        """
        is_kept = step in self._steps
        if not (is_kept or self._is_watched):
            return
        begin = ranks.own * len(rows)
        offers = ranks.gather(self._offers(rows, begin, step, sampling, is_kept=is_kept))
        if ranks.own != 0:
            return
        telling = _most_telling(offers)
        if not is_kept and self._has_redone:
            telling = None
        self._has_redone = self._has_redone or telling is not None
        lines = [
            {**offer.line, "redone": offer.redone} if offer is telling else offer.line
            for offer in sorted(offers, key=lambda offer: offer.index)
            if offer is telling or (is_kept and self._is_early(offer.index))
        ]
        if lines:
            append_rows(self._path, lines)

    def _offers(
        self, rows: Sequence[GradedRow], begin: int, step: int, sampling: SamplingConfig, *,
        is_kept: bool,
    ) -> list[_Offer]:  # fmt: skip
        """What may be kept of this rank's rows, the first of which is number `begin` of all."""
        redone = [
            redone_steps(row.graded.response.reasoning or "") if self._is_watched else 0
            for row in rows
        ]
        chosen = {n for n in range(len(rows)) if is_kept and self._is_early(begin + n)}
        if any(redone):
            chosen.add(
                max(range(len(rows)), key=lambda n: (redone[n], rows[n].graded.verdict.is_correct))
            )
        offers = []
        for number in chosen:
            row = rows[number]
            trace = self._trace(row, step, sampling, sample=number % self._group)
            rewards = {**row.graded.components, "total": row.total}
            line = {"step": step, "trace": trace.model_dump(mode="json"), "rewards": rewards}
            is_correct = row.graded.verdict.is_correct
            offers.append(_Offer(begin + number, redone[number], is_correct, line))
        return offers

    def _is_early(self, index: int) -> bool:
        question, sample = divmod(index, self._group)
        return question < KEPT_GROUPS and sample < KEPT_SAMPLES

    def _trace(self, row: GradedRow, step: int, sampling: SamplingConfig, *, sample: int) -> Trace:
        """One completion of the rollout that feeds update `step`, as it is kept."""
        problem, response = self._problems[row.problem], row.graded.response
        return Trace(
            problem_id=problem.id,
            sample=sample,
            question=problem.prompt,
            prompt=self._prompts[row.problem],
            completion=row.completion.text,
            reasoning=response.reasoning,
            answer=response.answer,
            summary=response.summary,
            finish_reason=row.completion.finish_reason,
            completion_tokens=len(row.completion.token_ids),
            seed=row.request.seed,
            sampling=sampling,
            style=self._style,
            model=f"{self._model}+{step - 1}",
            verdict=row.graded.verdict,
        )


def _most_telling(offers: Sequence[_Offer]) -> _Offer | None:
    """The one with the most steps done again, right ones first, of those the first."""
    redone = [offer for offer in offers if offer.redone]
    return max(redone, key=lambda each: (each.redone, each.is_correct, -each.index), default=None)
