"""Graded completions of a rollout, and what they are on average."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from factory.core.records import FinishReason, Problem, Verdict
from factory.grading import check_ungradable
from factory.problems.canaries import is_canary
from factory.rewards import holds_code, redone_steps, reflective_words
from factory.text.chat import Response

BARE_WORDS = 4
"""Thoughts of fewer words are none: "5 + 8 = 13" has five."""


@dataclass(frozen=True)
class Graded:
    """One completion with everything that was found out about it."""

    verdict: Verdict
    response: Response
    components: dict[str, float]


class GraderFailures:
    """Stops a run whose graders fail: more than a tenth of one rollout, or of the latest 2,000 more
    than the recipe allows.

    A rollout may be small, so that a single failure is more than 1 % of it.
    """

    ROLLOUT_LIMIT, LATEST = 0.1, 2000

    def __init__(self, limit: float = 0.01) -> None:
        self.limit = limit
        self._latest: deque[Verdict] = deque(maxlen=self.LATEST)

    def check(self, verdicts: Sequence[Verdict]) -> None:
        """Take a rollout's verdicts; EngineError if too many are ungradable."""
        check_ungradable(verdicts, limit=max(self.limit, self.ROLLOUT_LIMIT))
        self._latest.extend(verdicts)
        if len(self._latest) == self.LATEST:
            check_ungradable(self._latest, limit=self.limit)


def figures(
    graded: Sequence[Graded],
    text: Sequence[str],
    finish_reason: Sequence[FinishReason],
    *,
    problems: Sequence[Problem],
) -> dict[str, float]:
    """Means over a rollout's completions, `problems` being what each answers.

    `accuracy` is over the answers that rules decide, canaries left out (0 where there are only
    those), and missing where no rule decides any; `canary_accuracy` is over canaries, and missing
    where none was asked. `accuracy` and `format_share` are shares whether or not they are rewarded;
    `ungradable_share` is missing where it is 0; `truncated_share` counts completions cut at
    max_new_tokens; `words/<word>` is how often a reflective word occurs in a completion.
    `language_mix_share` is the mean share of words in another language, over completions that
    reason at all; missing where none does.
    """
    count = len(graded)
    words = [reflective_words(completion) for completion in text]
    foreign = [1 - row.components["language"] for row in graded if row.response.reasoning]
    caught = [g.verdict.is_correct for g, p in zip(graded, problems, strict=True) if is_canary(p)]
    ruled = [row.verdict for row in graded if "accuracy" in row.components]
    failed = sum(verdict.outcome == "ungradable" for verdict in ruled)
    solved = sum(verdict.is_correct for verdict in ruled) - sum(caught)
    right = solved / max(1, len(ruled) - len(caught))
    return {
        **({"accuracy": right} if ruled else {}),
        **({"ungradable_share": failed / len(ruled)} if failed else {}),
        **({"canary_accuracy": sum(caught) / len(caught)} if caught else {}),
        "format_share": sum(row.response.is_well_formed for row in graded) / count,
        "truncated_share": sum(reason == "length" for reason in finish_reason) / count,
        **({"language_mix_share": sum(foreign) / len(foreign)} if foreign else {}),
        **{f"words/{word}": sum(row[word] for row in words) / count for word in words[0]},
    }


def close_figures(
    graded: Sequence[Graded], text: Sequence[str], finish_reason: Sequence[FinishReason]
) -> dict[str, float]:
    """Further means over a rollout's completions, of a run with a watch.

    `redone`: steps that a completion's thoughts do again. Shares of completions: `runs_on_share`
    answered and went on to the limit; `code_share` hold a program; `bare_share` answer after
    fewer than four words of thought.
    """
    count = len(graded)
    thoughts = [row.response.reasoning or "" for row in graded]
    return {
        "redone": sum(map(redone_steps, thoughts)) / count,
        "runs_on_share": sum(
            reason == "length" and "</answer>" in completion
            for completion, reason in zip(text, finish_reason, strict=True)
        )
        / count,
        "code_share": sum(map(holds_code, text)) / count,
        "bare_share": sum(
            row.response.is_well_formed and len(words.split()) < BARE_WORDS
            for row, words in zip(graded, thoughts, strict=True)
        )
        / count,
    }
