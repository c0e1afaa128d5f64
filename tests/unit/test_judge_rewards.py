"""Judges beyond their own stage: rubrics, scores of `evaluate`, a reward of `grpo`."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_judge import INJECTIONS, reply

from factory.core.context import Context
from factory.core.errors import DataError, EngineError
from factory.core.machine import Machine
from factory.core.records import EvalSample, Problem, SamplingConfig, Trace
from factory.evaluation.judged import Judging, check_open
from factory.evaluation.runs import OwnRun
from factory.grading import grade, grade_lenient
from factory.grading.judge import (
    Criterion,
    Judgement,
    JudgeSettings,
    judge_request,
    judged_value,
    points_share,
    read_reply,
    require_basis,
    rubric_of,
)
from factory.models.tiny import byte_tokenizer, tiny_model
from factory.rewards import RewardConfig, rule_components
from factory.rewards.reward import GradedCompletion
from factory.sampling import Request, blocks
from factory.sampling.judging import agreement_table, spread
from factory.sampling.scripted import ScriptedSampler
from factory.stages.evaluate import EvaluateConfig
from factory.stages.grpo import judge_rewards
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.graded import Graded
from factory.stages.grpo.judge_rewards import JudgeRewards
from factory.text.chat import completion_text, parse

RUBRIC = (Criterion(text="names the cause", points=3), Criterion(text="is rude", points=-2))
SKY = Problem(
    id="sky", prompt="Why is the sky blue?", reference="scattering", kind="open", source="s"
)
SUM = Problem(id="sum", prompt="1 + 1?", reference="2", kind="math", source="s")


def points(*values: object) -> str:
    return json.dumps({"analysis": "a", "points": values})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (points(3, 0), (3, 0)),
        (points(0, -2), (0, -2)),
        (f"<think>{points(0, 0)}</think> {points(3, -1)}", (3, -1)),
        (points(4, 0), None),  # more than the criterion has
        (points(3, 1), None),  # a criterion that costs points gives none
        (points(3), None),
        (points(3, 0, 0), None),
        (points(True, 0), None),
        (points(3.0, 0), None),
        (points("3", 0), None),
        (f"{points(3, 0)} {points(0, 0)}", None),
        ('{"analysis": "a", "points": 3}', None),
        ('{"points": [3, 0]}', None),
        (reply("correct"), None),
        ("", None),
    ],
)
def test_points_are_read_only_where_each_criterion_has_its_own(text: str, expected: object) -> None:
    judgement = read_reply(text, RUBRIC, 0.5)
    assert (judgement and judgement.points) == expected


@pytest.mark.parametrize(
    ("given", "share", "correctness"),
    # Three points can be earned: 3, 3 - 2 = 1, 1 and 0 - 2 < 0 of them.
    [((3, 0), 1.0, "correct"), ((3, -2), 1 / 3, "incorrect"), ((0, -2), 0.0, "incorrect")],
)
def test_points_become_a_share_of_those_that_can_be_earned(given, share, correctness) -> None:
    assert points_share(given, RUBRIC) == pytest.approx(share, abs=1e-12)
    judgement = read_reply(points(*given), RUBRIC, 0.5)
    assert judgement and judgement.correctness == correctness


def test_the_reward_is_the_mean_share_of_readable_votes_if_most_can_be_read() -> None:
    full, third = (
        Judgement(analysis="", correctness="correct", points=given) for given in ((3, 0), (3, -2))
    )
    assert judged_value([full, third], RUBRIC) == pytest.approx(2 / 3, abs=1e-12)
    assert judged_value([full, third, None], RUBRIC) == pytest.approx(2 / 3, abs=1e-12)
    assert judged_value([full, None], RUBRIC) is None
    yes, no = (Judgement(analysis="", correctness=said) for said in ("correct", "incorrect"))
    assert [judged_value(v) for v in ([yes], [no], [yes, no], [None])] == [1.0, 0.0, None, None]


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_criterion_and_no_answer_leaves_its_place_in_a_request_for_points(text: str) -> None:
    rubric = (Criterion(text=text), RUBRIC[1])
    request = judge_request(SKY, text, rubric=rubric, control_texts=["<|im_end|>"])
    mark = request.partition("begins with ")[2][:18]
    titles = [line[19:] for line in request.splitlines() if line.startswith(mark)]
    assert titles == [
        "question", "reference answer", "answer to be graded", "criterion 1, 0 to 1 points",
        "criterion 2, -2 to 0 points", "end of the material",
    ]  # fmt: skip
    assert request.count(mark) == 7  # once in the words about it
    assert "<|im_end|>" not in request
    bare = judge_request(SKY.model_copy(update={"reference": " "}), "x", rubric=RUBRIC)
    assert "reference" not in bare


def test_a_problems_own_rubric_takes_the_place_of_the_recipes() -> None:
    settings = JudgeSettings(model="m", rubric=RUBRIC)
    own = SKY.model_copy(update={"data": {"rubric": [{"text": "says why", "points": 2}]}})
    assert rubric_of(SKY, settings) == RUBRIC
    assert rubric_of(own, settings) == (Criterion(text="says why", points=2),)
    for wrong in ([{"text": "", "points": 2}], [{"text": "x", "points": -1}], "x", [{"points": 1}]):
        with pytest.raises(DataError, match=r"problem sky of s: data\.rubric"):
            rubric_of(own.model_copy(update={"data": {"rubric": wrong}}), settings)


def test_a_judge_with_nothing_to_go_by_is_refused_before_anything_is_drawn() -> None:
    bare = SKY.model_copy(update={"reference": ""})
    require_basis([SKY, SUM], JudgeSettings(model="m"))
    require_basis([bare], JudgeSettings(model="m", rubric=RUBRIC))
    with pytest.raises(DataError, match="needs a reference or a rubric"):
        require_basis([SKY, bare], JudgeSettings(model="m"))


class Judge:
    """A scripted judge in the engine's place, wherever one is opened."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = folder / "model"
        self.tokenizer = byte_tokenizer()
        tiny_model("llama").save_pretrained(self.model)
        self.tokenizer.save_pretrained(self.model)
        self.context = Context(7, Machine(block=2), folder)
        self.says = lambda prompt: reply("correct")
        self.prompts: list[str] = []
        for module in (blocks, judge_rewards):
            monkeypatch.setattr(module, "open_sampler", self._open)

    def _open(self, *arguments, **settings) -> ScriptedSampler:
        return ScriptedSampler(self._reply, self.tokenizer)

    def _reply(self, request: Request) -> str:
        prompt = self.tokenizer.decode(request.prompt_ids)
        self.prompts.append(prompt)
        return self.says(prompt)


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.setattr(ScriptedSampler, "close", lambda self: None, raising=False)
    return Judge(tmp_path, monkeypatch)


def sample(problem: Problem, number: int, text: str) -> EvalSample:
    response = parse(text)
    trace = Trace(
        problem_id=problem.id, sample=number, question=problem.prompt, prompt=problem.prompt,
        completion=text, reasoning=response.reasoning, answer=response.answer,
        finish_reason="stop", completion_tokens=5, seed=0, sampling=SamplingConfig(),
        style="chat", model="m", verdict=grade(problem, text),
    )  # fmt: skip
    lenient = grade_lenient(problem, text)
    return EvalSample(benchmark="b", mode="sampled", trace=trace, lenient=lenient)


def own_run(*problems: Problem) -> OwnRun:
    return OwnRun(
        benchmark="b", mode="sampled", version="1", samples=2, problems=problems,
        sampling=SamplingConfig(),
    )  # fmt: skip


def test_an_evaluation_takes_the_judges_verdict_where_no_rule_can_tell(judge: Judge) -> None:
    judge.says = lambda prompt: reply("incorrect" if "mirrors" in prompt else "correct")
    run = own_run(SKY, SUM)
    samples = [
        sample(SKY, 0, completion_text("so", "light scatters")),
        sample(SKY, 1, completion_text("so", "it mirrors the sea")),
        sample(SKY, 2, completion_text("so", "light scatters")),
        sample(SKY, 3, "no tags, light scatters"),
        sample(SUM, 0, completion_text("so", "2")),
        sample(SUM, 1, completion_text("so", "3")),
    ]
    judging = Judging(JudgeSettings(model="m", agreement=2), judge.model, judge.context)
    decided = judging.decide([run], {run.name: samples})[run.name]
    assert [s.trace.verdict.outcome for s in decided] == [
        "correct", "wrong", "correct", "no_answer", "correct", "wrong",
    ]  # fmt: skip
    assert all(s.lenient.is_correct for s in decided if s.trace.verdict.is_correct)
    assert decided[3].lenient.is_correct  # the judge reads what lenient grading takes
    assert decided[4:] == samples[4:]
    # Equal answers are one question; the two of the sum are asked about for the agreement alone.
    assert len(judge.prompts) == 5
    assert judging.metrics == {
        "judged": 3.0, "rule_correct.judge_correct": 1.0, "rule_wrong.judge_correct": 1.0,
    }  # fmt: skip
    assert len(judging.votes) == 5


def test_an_evaluation_stops_where_its_judge_decides_too_little(judge: Judge) -> None:
    judge.says = lambda prompt: "I would rather not say"
    run = own_run(SKY)
    samples = {run.name: [sample(SKY, 0, completion_text("so", "light scatters"))]}
    with pytest.raises(EngineError, match="1 of 1 answers are ungradable"):
        Judging(JudgeSettings(model="m"), judge.model, judge.context).decide([run], samples)
    lax = Judging(JudgeSettings(model="m", max_ungradable=1.0), judge.model, judge.context)
    assert lax.decide([run], samples)[run.name][0].trace.verdict.outcome == "ungradable"


def test_open_problems_without_a_judge_are_refused_before_anything_is_drawn() -> None:
    with pytest.raises(DataError, match="benchmark b: 1 of 2 problems are of kind open"):
        check_open([own_run(SKY, SUM)], 0.01, has_judge=False)
    check_open([own_run(SKY, SUM)], 0.01, has_judge=True)
    check_open([own_run(SUM)], 0.01, has_judge=False)


def graded(problem: Problem, text: str) -> Graded:
    verdict, response = grade(problem, text), parse(text)
    completion = GradedCompletion.of(problem, verdict, response, text, tokens=5, limit=9)
    return Graded(verdict, response, rule_components(completion))


ROLLOUT = [
    (SKY, completion_text("so", "light scatters")),
    (SKY, completion_text("so", "it mirrors the sea")),
    (SKY, "no tags"),
    (SUM, completion_text("so", "2")),
]


def rewarded(judge: Judge, step: int = 1, texts=ROLLOUT, **settings):
    rewards = JudgeRewards(JudgeSettings(model="m", **settings), judge.model, judge.context)
    requests = [Request((1,), seed) for seed in range(len(texts))]
    rows = [graded(problem, text) for problem, text in texts]
    return rewards.added(rows, [problem for problem, _ in texts], requests, step=step)


def test_a_rollout_earns_what_the_judge_gives_open_answers_and_nothing_else(judge: Judge) -> None:
    judge.says = lambda prompt: reply("incorrect" if "mirrors" in prompt else "correct")
    rows, counts = rewarded(judge, agreement=5)
    assert [row.components.get("judge") for row in rows] == [1.0, 0.0, 0.0, None]
    assert [row.components.get("accuracy") for row in rows] == [None, None, None, 1.0]
    assert rows[0].verdict.explanation == "judge, 1 of 1: a"
    assert counts == {"judge/rule_correct.judge_correct": 1.0}


def test_a_rubric_gives_parts_of_a_reward(judge: Judge) -> None:
    judge.says = lambda prompt: points(1, 0) if "scatters" in prompt else points(0, -2)
    rows, _ = rewarded(judge, rubric=RUBRIC)
    assert [row.components.get("judge") for row in rows[:2]] == [pytest.approx(1 / 3), 0.0]


def test_an_undecided_judge_gives_nothing_and_ends_the_run_above_its_bound(judge: Judge) -> None:
    judge.says = lambda prompt: reply("correct") if "mirrors" in prompt else "?"
    with pytest.raises(EngineError, match="1 of 2 answers are ungradable"):
        rewarded(judge)
    rows, _ = rewarded(judge, max_ungradable=0.5)
    assert [row.components.get("judge") for row in rows[:2]] == [None, 1.0]


def test_a_resumed_rollout_takes_the_replies_of_the_same_texts_alone(judge: Judge) -> None:
    first, _ = rewarded(judge)
    requested = len(judge.prompts)
    judge.says = lambda prompt: reply("incorrect")
    again, _ = rewarded(judge)
    assert (len(judge.prompts), again) == (requested, first)
    other = [(SKY, completion_text("so", "dust")), *ROLLOUT[1:]]
    fresh, _ = rewarded(judge, texts=other)
    assert fresh[0].components["judge"] == 0.0 and len(judge.prompts) > requested


def grpo(*rewards: dict[str, object], **fields: object) -> GrpoConfig:
    document = {"kind": "grpo", "model": "m", "problems": "p", "steps": 1, "rewards": rewards}
    return GrpoConfig.model_validate({**document, **fields}, strict=False)


def test_settings_of_a_judge_that_cannot_work_are_refused() -> None:
    judge = {"name": "judge", "judge": {"model": "j"}}
    accuracy: dict[str, object] = {"name": "accuracy"}
    settings = grpo(accuracy, judge, general={"problems": "g"}).judge
    assert settings is not None and settings.model == "j"
    with pytest.raises(ValidationError, match="a judge rewards answers to general prompts"):
        grpo(accuracy, judge)
    with pytest.raises(ValidationError, match="judge needs judge"):
        RewardConfig(name="judge")
    with pytest.raises(ValidationError, match="accuracy takes no judge"):
        RewardConfig(name="accuracy", judge=JudgeSettings(model="j"))
    with pytest.raises(ValidationError, match="no criterion earns points"):
        JudgeSettings(model="j", rubric=RUBRIC[1:])
    with pytest.raises(ValidationError, match="0 says nothing"):
        Criterion(text="x", points=0)
    document = {
        "kind": "evaluate", "model": "m", "benchmarks": ({"name": "b", "problems": "p"},),
        "judge": JudgeSettings(model="j"), "stop_at": {"half_width": 0.1, "least": 2},
    }  # fmt: skip
    with pytest.raises(ValidationError, match="a judge decides when all are"):
        EvaluateConfig.model_validate(document)


def test_agreement_is_spread_evenly_and_shown_by_what_rules_say() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 9) == [0, 1, 2] and spread([], 5) == []
    table = agreement_table(
        "eval",
        {"rule_correct.judge_correct": 3.0, "rule_correct.judge_wrong": 1.0,
         "rule_wrong.judge_ungradable": 1.0},
    )  # fmt: skip
    assert table is not None
    assert [row[1:] for row in table.rows] == [
        ("correct by the rules", "4", "3", "1", "0", "75.0 %"),
        ("wrong by the rules", "1", "0", "0", "1", "0.0 %"),
    ]
    assert agreement_table("eval", {"steps": 3.0}) is None
