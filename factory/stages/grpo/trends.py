"""Rules over the figures of an RL run: a false reward, and why responses got shorter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from factory.core.records import Record
from factory.evaluation.measured import mean
from factory.evaluation.statistics import Interval, paired_difference

WINDOW = 8
"""Rollouts behind a mean: one rollout alone is mostly noise."""

IN_A_ROW = 2
"""Measurements that must agree before an alarm. A fall is measured against the best of all earlier
measurements, which is a little better than the truth: one alone would often be by chance."""

FALL = 0.2
"""Part of its greatest length that a response must have lost."""
NOTABLE = 0.1
"""Share of responses from which a cause is worth its name."""


class Measurement(Protocol):
    """What an alarm needs of one measurement on held-out problems."""

    @property
    def step(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def correct(self) -> Sequence[int]: ...


class Alarm(Record):
    """The reward rose while the held-out score fell."""

    step: int
    """Of the measurement at which it is certain."""
    best_step: int
    """Of the best measurement before it."""
    held_out: Interval
    """Paired difference of the shares of right answers to the best one; its high end is below 0."""
    reward_before: float
    reward_now: float

    @property
    def sentence(self) -> str:
        return (
            f"ALARM at step {self.step}: since step {self.best_step} the reward rose from "
            f"{self.reward_before:.3g} to {self.reward_now:.3g} while the held-out score fell by "
            f"{-100 * self.held_out.value:.1f} points "
            f"[{-100 * self.held_out.high:.1f}, {-100 * self.held_out.low:.1f}] "
            f"(n = {self.held_out.n}): the reward may be won without what it stands for"
        )


def alarm(
    measurements: Sequence[Measurement], rewards: Sequence[tuple[int, float]]
) -> Alarm | None:
    """The first alarm of a run, or None; `rewards` are (step, mean of a rollout), in order.

    The rule, at a measurement: the paired 95 % interval of its difference to the best earlier one
    lies below zero, and the mean reward of the last 8 rollouts before it is above that of the 8
    before the best one by more than two standard errors; and the same held at the measurement
    before. Before the first update there are no rollouts: the first 8 stand for them.

    Any reward will do: the total, or a single component such as that of a preference model.
    """
    agreeing = 0
    for end in range(1, len(measurements)):
        fall = _fall(measurements[: end + 1], rewards)
        agreeing = agreeing + 1 if fall else 0
        if fall and agreeing == IN_A_ROW:
            return fall
    return None


def _fall(
    measurements: Sequence[Measurement], rewards: Sequence[tuple[int, float]]
) -> Alarm | None:
    """What the last measurement shows against the best before it, if reward and score part."""
    *earlier, now = measurements
    best = max(earlier, key=lambda row: sum(row.correct) / row.samples)
    shares = [[count / row.samples for count in row.correct] for row in (now, best)]
    difference = paired_difference(*shares, samples=min(now.samples, best.samples))
    before = [reward for step, reward in rewards if step <= best.step][-WINDOW:]
    after = [reward for step, reward in rewards if best.step < step <= now.step][-WINDOW:]
    before = before or [reward for step, reward in rewards if step <= now.step][:WINDOW]
    if difference.high >= 0 or not _is_above(after, before):
        return None
    return Alarm(
        step=now.step,
        best_step=best.step,
        held_out=difference,
        reward_before=mean(before),
        reward_now=mean(after),
    )


class LengthFall(Record):
    """Responses got shorter, and what else the telemetry shows."""

    longest_step: int
    """Last step of the 8 rollouts in which they were longest."""
    longest: float
    """Mean tokens then."""
    last: float
    """Mean tokens in the last 8 rollouts."""
    causes: tuple[str, ...]
    """A sentence each, with its figures."""


def length_fall(rows: Sequence[Mapping[str, Any]]) -> LengthFall | None:
    """Why responses got shorter, from telemetry rows; None where they did not.

    Shorter: the mean over the last 8 rollouts is less than 80 % of that over the 8 in which they
    were longest, and by more than two standard errors. A share counts as a cause from 10 % on.
    """
    rollouts = [row for row in rows if row.get("completion_length") is not None]
    if len(rollouts) < 2 * WINDOW:
        return None
    lengths = [row["completion_length"] for row in rollouts]
    ends = range(WINDOW, len(lengths) + 1)
    end = max(ends, key=lambda end: mean(lengths[end - WINDOW : end]))
    then, now = rollouts[end - WINDOW : end], rollouts[-WINDOW:]
    longest, last = lengths[end - WINDOW : end], lengths[-WINDOW:]
    if mean(last) >= (1 - FALL) * mean(longest) or not _is_above(longest, last):
        return None
    return LengthFall(
        longest_step=then[-1]["step"],
        longest=mean(longest),
        last=mean(last),
        causes=tuple(_causes(then, now)) or ("none of the known causes shows in the telemetry",),
    )


def _causes(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    def shares(name: str) -> tuple[float, float]:
        """The mean share of responses then and now; 0 where it was not recorded."""
        before, after = (mean([row.get(name) or 0.0 for row in group]) for group in (then, now))
        return before, after

    def shift(pair: tuple[float, float]) -> str:
        return f"{100 * pair[0]:.0f} % of responses at their longest, {100 * pair[1]:.0f} % now"

    causes = []
    cut, on = shares("truncated_share"), shares("runs_on_share")
    if cut[0] - on[0] >= NOTABLE:
        causes.append(
            f"the limit: {shift(cut)} were cut at max_new_tokens before they had answered, and "
            "what is cut earns nothing, so the long ones die out: raise max_new_tokens"
        )
    if on[0] >= NOTABLE:
        causes.append(
            f"a missing stop token: {shift(on)} had answered and went on to the limit; unlearning "
            "that is no loss of thinking: check the end of turn (model.turns) if it stays"
        )
    code = shares("code_share")
    if max(code) >= NOTABLE:
        causes.append(
            f"programs: {shift(code)} hold code; a base that was trained on programs as answers "
            "changes its length when it takes them up or drops them"
        )
    bare = shares("bare_share")
    if bare[1] >= NOTABLE and bare[1] > bare[0]:
        causes.append(
            f"bare guesses: {shift(bare)} answer without reasoning: thinking does not pay here; "
            "the questions may be too easy or too hard, or format alone is worth writing"
        )
    return causes


def _is_above(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the mean of `a` exceeds that of `b` by more than two standard errors.

    Two values each are the least; without spread any excess counts.
    """
    if min(len(a), len(b)) < 2:
        return False
    error = math.sqrt(sum(_variance(group) / len(group) for group in (a, b)))
    return mean(a) - mean(b) > 2 * error


def _variance(values: Sequence[float]) -> float:
    centre = mean(values)
    return sum((value - centre) ** 2 for value in values) / (len(values) - 1)
