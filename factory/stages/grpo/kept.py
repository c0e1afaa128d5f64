"""A few completions of a rollout, kept to be read."""

from collections.abc import Sequence
from pathlib import Path

from factory.jsonl import append_rows, recover_rows
from factory.records import Problem, SamplingConfig, Trace
from factory.rewards import redone_steps
from factory.stages.grpo.groups import GradedRow
from factory.trainers.checkpoints import is_first_rank

KEPT_GROUPS, KEPT_SAMPLES = 2, 2
"""Questions of a rollout that are kept to be read, and completions of each."""


class KeptRollouts:
    """The file that they are in; the first rank writes it."""

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

    def add(self, rows: Sequence[GradedRow], step: int, sampling: SamplingConfig) -> None:
        """Append a few completions of the rollout that feeds update `step`.

        Those of the first questions; with a watch also the one with the most steps done again,
        and that one from the very first rollout that has any.
        """
        if not is_first_rank():
            return
        redone = []
        if self._is_watched:
            redone = [redone_steps(row.graded.response.reasoning or "") for row in rows]
        telling = _most_telling(rows, redone)
        is_kept = step in self._steps
        chosen = self._first_rows(len(rows)) if is_kept else []
        if telling is not None and (is_kept or not self._has_redone):
            self._has_redone = True
            chosen = sorted({*chosen, telling})
        lines = []
        for index in chosen:
            row = rows[index]
            trace = self._trace(row, step, sampling, sample=index % self._group)
            rewards = {**row.graded.components, "total": row.total}
            line = {"step": step, "trace": trace.model_dump(mode="json"), "rewards": rewards}
            lines.append({**line, "redone": redone[index]} if index == telling else line)
        if lines:
            append_rows(self._path, lines)

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

    def _first_rows(self, rows: int) -> list[int]:
        size = self._group
        return [
            group * size + sample
            for group in range(min(KEPT_GROUPS, rows // size))
            for sample in range(min(KEPT_SAMPLES, size))
        ]


def _most_telling(rows: Sequence[GradedRow], redone: Sequence[int]) -> int | None:
    """The completion with the most steps done again, right ones first."""
    if not any(redone):
        return None
    return max(range(len(redone)), key=lambda i: (redone[i], rows[i].graded.verdict.is_correct))
