"""Measurements of held-out problems: their figures by hand, which problems, several ranks."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from factory.core.jsonl import append_rows, read_records
from factory.core.records import Problem, SamplingConfig, Verdict
from factory.evaluation.measured import WatchRow
from factory.evaluation.statistics import mean_interval
from factory.grading import GradingPool
from factory.models.tiny import save_tiny_model
from factory.sampling.sampler import Request
from factory.sampling.scripted import ScriptedSampler
from factory.stages.grpo.watch import Watcher
from factory.text.chat import PromptConfig
from factory.trainers.watch import Looked, Ranks, group_of, spread, summary


def problem(number: int, source: str = "sums", **data: Any) -> Problem:
    return Problem(
        id=f"p{number}", prompt=f"{number} + 1 =", reference=str(number + 1), kind="exact",
        source=source, data=data,
    )  # fmt: skip


def looked(number: int, sample: int, answer: str | None, *, right: bool, **other: Any) -> Looked:
    outcome = "no_answer" if answer is None else "correct" if right else "wrong"
    fields = {
        "tokens": 10, "is_well_formed": answer is not None, "is_truncated": False,
        "language_share": 1.0, **other,
    }  # fmt: skip
    verdict = Verdict(outcome=outcome, answer=answer, explanation="")
    return Looked(number, sample, verdict, **fields)


def test_a_measurement_by_hand() -> None:
    """Two problems x 3. The first: 3, 3, 9, of which 3 is right: 2/3, and the vote is right. The
    second: 8 wrong, two without an answer: 0, and the vote is wrong."""
    problems = [problem(2, level=5), problem(6, level=1)]
    rows = [
        looked(0, 0, "3", right=True, tokens=10),
        looked(0, 1, "3", right=True, tokens=20),
        looked(0, 2, "9", right=False, tokens=30, language_share=0.4),
        looked(1, 0, "8", right=False, tokens=20, language_share=None),
        looked(1, 1, None, right=False, tokens=40, is_truncated=True, language_share=None),
        looked(1, 2, None, right=False, tokens=30, language_share=None),
    ]
    watch = summary(7, problems, rows, samples=3)
    interval = mean_interval([2 / 3, 0.0], samples=3)
    assert watch.model_dump() == {
        "step": 7, "n": 2, "samples": 3, "accuracy": pytest.approx(1 / 3),
        "low": interval.low, "high": interval.high, "consensus": 0.5,
        "completion_length": 25.0, "format_share": pytest.approx(4 / 6),
        "truncated_share": pytest.approx(1 / 6), "language_share": pytest.approx(0.8),
        "groups": {
            "level 1": {"n": 1, "accuracy": 0.0},
            "level 5": {"n": 1, "accuracy": pytest.approx(2 / 3)},
        },
        "correct": (2, 0),
    }  # fmt: skip


def test_a_limit_takes_of_every_group_in_turn() -> None:
    problems = [problem(n, source) for n, source in enumerate("aaaabbc")]
    assert [p.source for p in spread(problems, 5)] == ["a", "b", "c", "a", "b"]
    assert [p.id for p in spread(problems, 4)] == ["p0", "p4", "p6", "p1"]
    assert len(spread(problems, None)) == 7
    assert [group_of(problem(0, level=level)) for level in (3, None)] == ["level 3", "sums"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_tiny_model(tmp_path_factory.mktemp("model"), "llama", hidden=32, layers=1)
    return AutoTokenizer.from_pretrained(folder)


def watcher(folder: Path, tokenizer: Any, pool: GradingPool, notes: list[str]) -> Watcher:
    """Five sums; a request with an even seed is answered rightly where its number is below 3."""

    def reply(request: Request) -> str:
        number = int(tokenizer.decode(list(request.prompt_ids)).split(" + ")[0])
        answer = number + 1 if number < 3 and request.seed % 2 == 0 else 99
        return f"<think> {number} + 1 </think> <answer> {answer} </answer>"

    folder.mkdir(exist_ok=True)
    problems = [problem(number) for number in range(5)]
    return Watcher(
        problems, [task.prompt for task in problems], every=2, samples=4,
        sampling=SamplingConfig(temperature=0.6, max_new_tokens=1), prompt=PromptConfig(),
        language="en", seed=3, sampler=ScriptedSampler(reply, tokenizer), tokenizer=tokenizer,
        pool=pool, folder=folder, notify=notes.append,
    )  # fmt: skip


def test_two_ranks_measure_what_one_does(tokenizer: Any, tmp_path: Path) -> None:
    with GradingPool(1) as pool:
        single = watcher(tmp_path / "one", tokenizer, pool, [])
        alone = single.measure(0, limit=64)
        assert 0 < alone.accuracy < 0.6
        assert alone.correct[3:] == (0, 0)
        again = single.measure(2, limit=64)
        assert again.model_copy(update={"step": 0}) == alone, "the same seeds at every step"
        assert single.measure(4, limit=3).truncated_share == 1.0, "the run's limit of that step"

        # The second rank runs first, and its share waits for the first rank to gather it.
        shares: list[Any] = []
        second = watcher(tmp_path / "two", tokenizer, pool, [])
        shares += second._look(SamplingConfig(temperature=0.6, max_new_tokens=64), Ranks(1, 2))
        assert {task.problem for task in shares} == {1, 3}
        first = watcher(tmp_path / "two", tokenizer, pool, [])
        ranks = Ranks(0, 2, lambda own: [*own, *(shares if own != [None] else [None])])
        assert first.measure(0, limit=64, ranks=ranks) == alone


def test_a_fall_under_a_rising_reward_is_told_once(tokenizer: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    with GradingPool(1) as pool:
        watch = watcher(tmp_path, tokenizer, pool, notes)
        good = watch.measure(0, limit=64)
        watch.problems = [problem(number) for number in range(40)]
        watch.rows = [good.model_copy(update={"n": 40, "correct": (4,) * 40})]
        watch.prompts = [task.prompt for task in watch.problems]
        append_rows(watch.telemetry, [{"step": s, "reward": 0.1 * s} for s in range(1, 41)])
        for step in (20, 30, 40):
            watch.measure(step, limit=64)
    assert watch.alarm is not None
    assert (watch.alarm.step, watch.alarm.best_step) == (30, 0)
    assert len([note for note in notes if note.startswith("ALARM at step 30")]) == 1


def test_a_resumed_watch_measures_its_step_again(tokenizer: Any, tmp_path: Path) -> None:
    with GradingPool(1) as pool:
        watch = watcher(tmp_path, tokenizer, pool, [])
        for step in (0, 2, 4):
            watch.measure(step, limit=64)
        again = watcher(tmp_path, tokenizer, pool, [])
        again.resume(2)
        assert [row.step for row in again.rows] == [0]
        again.measure(2, limit=64)
    assert [row.step for row in read_records(tmp_path / "watch.jsonl", WatchRow)] == [0, 2]
