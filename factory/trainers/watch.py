"""Held-out problems measured during a training run: with a sampler, apart from its training.

Every request has a seed of its own, nothing here draws from a global random stream, and the
problems are those of another split, so a run with a watch trains on the same bytes as one without.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.jsonl import append_rows, read_records
from factory.core.records import Problem, SamplingConfig, Verdict
from factory.core.seeds import derive
from factory.evaluation.measured import GroupRow, WatchRow, mean
from factory.evaluation.statistics import consensus, mean_interval
from factory.evaluation.summary import votes
from factory.grading import GradeItem, GradingPool, check_ungradable
from factory.rewards import language_consistency
from factory.sampling.sampler import Completion, Request, Sampler
from factory.text.chat import PromptConfig, parse_completion
from factory.trainers.unchanged import truncate_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


UNGRADABLE = 0.1
"""Largest share of answers that graders may fail on: measurements are small."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and how what each has becomes one list on all."""

    own: int = 0
    count: int = 1
    gather: Callable[[list[Any]], list[Any]] = list


ALONE = Ranks()


@dataclass(frozen=True)
class Looked:
    """One completion, as far as a measurement needs it."""

    problem: int
    sample: int
    verdict: Verdict
    tokens: int
    is_well_formed: bool
    is_truncated: bool
    language_share: float | None


class Measurer:
    """Measures at given steps; lives as long as its trainer.

    `prompts[i]` is what `problems[i]` is asked with. Lines go to `watch.jsonl` in `folder`, where
    the run's `telemetry.jsonl` lies too.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[str],
        *,
        every: int,
        samples: int,
        sampling: SamplingConfig,
        prompt: PromptConfig,
        language: str,
        seed: int,
        sampler: Sampler,
        tokenizer: "PreTrainedTokenizerBase",
        pool: GradingPool,
        folder: Path,
        notify: Callable[[str], None],
    ) -> None:
        self.problems = problems
        self.prompts = prompts
        self.every = every
        self.samples = samples
        self.sampling = sampling
        self.prompt = prompt
        self.language = language
        self.seed = seed
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.pool = pool
        self.path = folder / "watch.jsonl"
        self.notify = notify
        self.rows: list[WatchRow] = []

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def resume(self, step: int, *, ranks: Ranks = ALONE) -> None:
        """Go on at `step`: its own measurement, and later ones, are made again."""
        if ranks.own == 0:
            truncate_rows(self.path, step - 1)
        earlier = list(read_records(self.path, WatchRow)) if self.path.exists() else []
        self.rows = [row for row in earlier if row.step < step]

    def measure(self, step: int, *, limit: int, ranks: Ranks = ALONE) -> WatchRow:
        """Ask every problem with the sampler's present weights; each rank asks its share.

        `limit` is how many new tokens the run allows at this step.
        """
        sampling = self.sampling.model_copy(update={"max_new_tokens": limit})
        looked = ranks.gather(self._look(sampling, ranks))
        looked.sort(key=lambda completion: (completion.problem, completion.sample))
        row = summary(step, self.problems, looked, samples=self.samples)
        self.rows.append(row)
        if ranks.own == 0:
            append_rows(self.path, [row.model_dump(mode="json")])
            self.notify(
                f"step {step}: {100 * row.accuracy:.1f} % right of {row.n} held-out problems "
                f"x {row.samples} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
            )
        return row

    def _look(self, sampling: SamplingConfig, ranks: Ranks) -> list[Looked]:
        own = range(ranks.own, len(self.problems), ranks.count)
        questions = [(problem, sample) for problem in own for sample in range(self.samples)]
        if not questions:
            return []
        ids = {
            i: tuple(self.tokenizer(self.prompts[i], add_special_tokens=False)["input_ids"])
            for i in own
        }
        completions = self.sampler.sample(
            [
                # The same seeds at every step: what changes is the policy.
                Request(ids[i], derive(self.seed, "watch", self.problems[i].id, sample))
                for i, sample in questions
            ],
            sampling,
        )
        items = [
            GradeItem.for_prompt(
                self.problems[i], completion.text, completion.finish_reason, self.prompt
            )
            for (i, _), completion in zip(questions, completions, strict=True)
        ]
        verdicts = self.pool.grade(items)
        check_ungradable(verdicts, limit=UNGRADABLE)
        return [
            self._looked(i, sample, completion=completion, verdict=verdict)
            for (i, sample), completion, verdict in zip(
                questions, completions, verdicts, strict=True
            )
        ]

    def _looked(
        self, problem: int, sample: int, *, completion: Completion, verdict: Verdict
    ) -> Looked:
        response = parse_completion(completion.text, completion.finish_reason, self.prompt)
        spoken = response.reasoning
        return Looked(
            problem=problem,
            sample=sample,
            verdict=verdict,
            tokens=len(completion.token_ids),
            is_well_formed=response.is_well_formed,
            is_truncated=completion.finish_reason == "length",
            language_share=language_consistency(spoken, self.language) if spoken else None,
        )


def summary(
    step: int, problems: Sequence[Problem], looked: Sequence[Looked], *, samples: int
) -> WatchRow:
    """The line of one measurement from its completions, `samples` a problem, in order."""
    by_problem = [looked[start : start + samples] for start in range(0, len(looked), samples)]
    correct = [sum(completion.verdict.is_correct for completion in group) for group in by_problem]
    shares = [count / samples for count in correct]
    interval = mean_interval(shares, samples=samples)
    spoken = [
        completion.language_share for completion in looked if completion.language_share is not None
    ]
    groups: dict[str, list[float]] = {}
    for problem, share in zip(problems, shares, strict=True):
        groups.setdefault(group_of(problem), []).append(share)
    return WatchRow(
        step=step,
        n=len(by_problem),
        samples=samples,
        accuracy=interval.value,
        low=interval.low,
        high=interval.high,
        consensus=mean([_vote(group) for group in by_problem]),
        completion_length=mean([completion.tokens for completion in looked]),
        format_share=mean([completion.is_well_formed for completion in looked]),
        truncated_share=mean([completion.is_truncated for completion in looked]),
        language_share=mean(spoken) if spoken else None,
        groups={
            name: GroupRow(n=len(group), accuracy=mean(group))
            for name, group in sorted(groups.items())
        },
        correct=tuple(correct),
    )


def _vote(completions: Sequence[Looked]) -> float:
    """Whether the majority of finished, well-formed answers to a problem is right."""
    verdicts = [completion.verdict for completion in completions]
    return consensus(votes(verdicts), [verdict.is_correct for verdict in verdicts])


def group_of(problem: Problem) -> str:
    """`level 5` where the problem states a level (MATH has 1 to 5), else its source."""
    level = problem.data.get("level")
    return problem.source if level is None else f"level {level}"


def spread(problems: Sequence[Problem], limit: int | None) -> list[Problem]:
    """`limit` problems, taken in turn from every group."""
    turns: dict[str, int] = {}
    placed = []
    for index, problem in enumerate(problems):
        group = group_of(problem)
        turns[group] = turns.get(group, 0) + 1
        placed.append((turns[group], index, problem))
    return [problem for _, _, problem in sorted(placed, key=lambda turn: turn[:2])][:limit]
