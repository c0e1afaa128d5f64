"""The alarm and the diagnosis, on series made by hand."""

from dataclasses import dataclass

import pytest

from factory.stages.grpo.trends import Alarm, alarm, length_fall


@dataclass(frozen=True)
class Measured:
    step: int
    correct: tuple[int, ...]
    samples: int = 4


def measured(*right: int, every: int = 10) -> list[Measured]:
    """Measurements of 40 problems with 4 samples; `right` of them solved wholly, the rest never."""
    return [
        Measured(every * position, (4,) * count + (0,) * (40 - count))
        for position, count in enumerate(right)
    ]


def rising(steps: int) -> list[tuple[int, float]]:
    return [(step, 0.01 * step) for step in range(1, steps + 1)]


def flat(steps: int) -> list[tuple[int, float]]:
    return [(step, 0.5 + 0.1 * (step % 2)) for step in range(1, steps + 1)]


def test_reward_up_and_score_down_twice_is_an_alarm() -> None:
    result = alarm(measured(10, 20, 12, 12), rising(30))
    assert result is not None
    assert (result.step, result.best_step) == (30, 10)
    # 8 of 40 problems fell from 1 to 0. Rewards: steps 3..10 and 23..30.
    assert result.held_out.value == pytest.approx(-0.2)
    assert result.held_out.high < 0
    assert (result.reward_before, result.reward_now) == pytest.approx((0.065, 0.265))
    assert "since step 10 the reward rose from 0.065 to 0.265" in result.sentence
    assert "fell by 20.0 points" in result.sentence


@pytest.mark.parametrize(
    ("right", "rewards"),
    [
        ((10, 20, 12), rising(20)),  # one measurement may be chance
        ((10, 20, 12, 20, 12), rising(40)),  # not twice in a row
        ((10, 20, 12, 12), flat(30)),  # the reward did not rise
        ((10, 20, 12, 12), [(s, -r) for s, r in rising(30)]),  # it fell too
        ((10, 20, 19, 19), rising(30)),  # within what 40 problems can tell
        ((10, 12, 14, 20), rising(30)),
        ((10,), rising(10)),
        ((), []),
    ],
)
def test_anything_else_is_none(right: tuple[int, ...], rewards: list[tuple[int, float]]) -> None:
    assert alarm(measured(*right), rewards) is None


def test_a_fall_from_the_first_model_is_held_against_the_first_rollouts() -> None:
    """At step 10 the rollouts before it are nearly those first ones: too early to tell."""
    result = alarm(measured(20, 12, 10, 10), rising(30))
    assert result is not None
    assert (result.step, result.best_step, result.reward_before) == (30, 0, pytest.approx(0.045))


def test_an_alarm_stays_that_of_its_own_step() -> None:
    early = alarm(measured(10, 20, 12, 12), rising(30))
    late = alarm(measured(10, 20, 12, 12, 25, 25), rising(50))
    assert early == late
    assert isinstance(late, Alarm)


def telemetry(lengths: list[float], **shares: tuple[float, float]) -> list[dict[str, float]]:
    """Rows whose shares change half-way; an off-policy row without figures stands between."""
    rows: list[dict[str, float]] = []
    for position, length in enumerate(lengths):
        late = position >= len(lengths) // 2
        figures = {name: pair[late] for name, pair in shares.items()}
        step = 2 * position + 1
        rows += [{"step": step, "completion_length": length, **figures}, {"step": step + 1}]
    return rows


SHRINKING = [100.0] * 4 + [200.0] * 8 + [90.0] * 12


@pytest.mark.parametrize(
    ("shares", "cause"),
    [
        ({"truncated_share": (0.3, 0.0)}, "the limit: 30 % of responses at their longest, 0 % now"),
        (
            {"truncated_share": (0.3, 0.0), "runs_on_share": (0.3, 0.0)},
            "a missing stop token: 30 %",
        ),
        ({"code_share": (0.4, 0.05)}, "programs: 40 %"),
        ({"bare_share": (0.0, 0.7)}, "bare guesses: 0 % of responses at their longest, 70 % now"),
        ({"truncated_share": (0.05, 0.0), "bare_share": (0.5, 0.2)}, "none of the known causes"),
    ],
)
def test_shorter_responses_are_told_with_their_causes(
    shares: dict[str, tuple[float, float]], cause: str
) -> None:
    result = length_fall(telemetry(SHRINKING, **shares))
    assert result is not None
    # The 8 longest rollouts are the 5th to the 12th; the 12th is at step 23.
    assert (result.longest_step, result.longest, result.last) == (23, 200.0, 90.0)
    assert len(result.causes) == 1, result.causes
    assert result.causes[0].startswith(cause)


@pytest.mark.parametrize(
    "lengths",
    [
        [100.0] * 24,
        [100.0 + position for position in range(24)],
        [100.0] * 12 + [85.0] * 12,
        [200.0, 20.0] * 8 + [190.0, 15.0] * 4,
        [100.0] * 8,
    ],
)
def test_no_fall_no_diagnosis(lengths: list[float]) -> None:
    assert length_fall(telemetry(lengths, truncated_share=(0.5, 0.0))) is None
