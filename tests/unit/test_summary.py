"""A scores artifact read again: error bars, curves, and zeros that measure the protocol."""

from dataclasses import replace
from pathlib import Path

import pytest
from report_example import Build, jsonl, trace
from resealing import resealed
from test_report import two_checkpoints
from typer.testing import CliRunner

from factory.cli import app
from factory.core.artifacts import Artifact
from factory.core.records import EvalSample, FinishReason, Outcome, Verdict
from factory.evaluation.summary import summaries, trap
from factory.report.build import build
from factory.report.records import Step
from factory.report.sections.result import headline


def sample(
    problem: int, number: int, outcome: Outcome, *, lenient: bool = False, text: str = "",
    prompt: str = "", explanation: str = "no tags",
) -> EvalSample:  # fmt: skip
    made = trace(problem, number, outcome)
    verdict = made.verdict
    if outcome == "no_answer":
        verdict = Verdict(outcome=outcome, answer=None, explanation=explanation)
    made = made.model_copy(
        update={
            "completion": text or made.completion,
            "prompt": prompt or made.prompt,
            "verdict": verdict,
        }
    )
    loose = Verdict(outcome="correct" if lenient else "wrong", answer=None, explanation="")
    return EvalSample(benchmark="sums", mode="sampled", trace=made, lenient=loose)


def scores(root: Path, samples: list[EvalSample]) -> Artifact:
    artifact = Build(root).step("eval", "evaluate", files={"samples.jsonl": jsonl(samples)})
    assert artifact is not None
    return artifact


def test_a_summary_by_hand(tmp_path: Path) -> None:
    # Problem 0 right in 2 of 4, problem 1 in 4 of 4: mean 3/4; sampling^2 = (1/4 / 3) / 4;
    # question = s / sqrt(2) = sqrt(1/8) / sqrt(2) = 1/4.
    marks = ["correct", "correct", "wrong", "wrong"], ["correct"] * 4
    samples = [sample(p, i, m) for p, row in enumerate(marks) for i, m in enumerate(row)]
    (result,) = summaries(scores(tmp_path, samples))
    assert (result.n, result.k, result.strict.value, result.lenient.value) == (2, 4, 0.75, 0.0)
    assert result.errors.sampling == pytest.approx((0.25 / 3 / 4) ** 0.5, abs=1e-12)
    assert result.errors.question == pytest.approx(0.25, abs=1e-12)
    # pass@2 = (1 - C(2, 2) / C(4, 2) + 1) / 2 = 11/12; two right of four tie: 1/2 each at k = 4.
    assert [point.k for point in result.curve] == [1, 2, 4]
    assert result.curve[1].pass_at == pytest.approx(11 / 12, abs=1e-12)
    assert result.curve[2].cons_at == 0.75
    assert result.trap == ""


@pytest.mark.parametrize(
    ("text", "prompt", "cause"),
    [
        ("It is 7", "", "No answer holds any tag"),
        ("I add. </think> \\boxed{7}", "User <think>\n", "marks <think> and </think>, and prompt."),
        (
            "<think> I add. </think> \\boxed{7}",
            "",
            "prompt.form to the marks <think> and </think>.",
        ),
        ("I add. </think> <answer> 7 </answer>", "User <think>\n", "set prompt.prefill to <think>"),
        ("<think> a </think> <answer> 7 </answer>", "User <think>\n", "answers open it again"),
    ],
)
def test_a_zero_of_the_protocol_is_explained(text: str, prompt: str, cause: str) -> None:
    samples = [
        sample(i, 0, "no_answer", lenient=i % 2 == 0, text=text, prompt=prompt) for i in range(8)
    ]
    message = trap(samples)
    assert "of 8 is right by strict grading, 4 are by lenient" in message
    assert "(8 times) strict grading says: no tags." in message
    assert cause in message


def test_a_zero_of_the_model_and_any_other_score_are_none() -> None:
    assert trap([sample(i, 0, "wrong") for i in range(8)]) == ""
    assert trap([sample(i, 0, "wrong", lenient=i == 0) for i in range(8)]) == ""
    mixed = [sample(i, 0, "no_answer", lenient=True) for i in range(8)]
    assert trap(mixed) != "" and trap([*mixed, sample(9, 0, "correct")]) == ""
    assert trap([]) == ""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "<think> a </think> <answer> 7 </answer> User: and 8?",
            "most of them after </answer>: the model does not stop at any token that its folder",
        ),
        ("<think> a </think> <answer> 7 </answer> \n\n", "eos_token_id in generation_config.json"),
        ("<think> so, 7, and then", "raise max_new_tokens, or train it to stop"),
    ],
)
def test_a_zero_of_answers_that_were_cut_is_no_zero_of_the_protocol(text: str, cause: str) -> None:
    def cut(number: int, reason: FinishReason) -> EvalSample:
        full = sample(number, 0, "no_answer", lenient=True, text=text)
        trace = full.trace.model_copy(update={"finish_reason": reason})
        return full.model_copy(update={"trace": trace})

    message = trap([cut(number, "length" if number < 5 else "stop") for number in range(8)])
    assert "measures the length limit, not the model" in message
    assert "5 of 8 answers ran into the limit of" in message and cause in message
    half = trap([cut(number, "length" if number < 4 else "stop") for number in range(8)])
    assert "measures the protocol" in half


def test_no_cause_is_named_where_the_form_was_right() -> None:
    message = trap([sample(i, 0, "wrong", lenient=True, text="</think> 7") for i in range(8)])
    assert "8 are by lenient grading" in message and "set prompt" not in message


def with_trap(root: Path) -> list[Step]:
    steps = two_checkpoints(root, "cw", "cc")
    path = root / steps[-1].artifact.path.name / "samples.jsonl"  # type: ignore[union-attr]
    samples = [sample(i, 0, "no_answer", lenient=True) for i in range(2)]
    path.chmod(0o644)
    path.write_text(jsonl(samples), encoding="utf-8")
    return [*steps[:-1], replace(steps[-1], artifact=resealed(steps[-1].artifact))]  # type: ignore[arg-type]


def test_the_report_and_the_command_line_say_so(tmp_path: Path) -> None:
    report = build("r", "", with_trap(tmp_path))
    (remark,) = [r for r in headline(report).remarks if "measures the protocol" in r]
    assert remark.startswith("tuned on sums, sampled: no answer of 2 is right by strict grading")
    runner = CliRunner(env={"COLUMNS": "200"})
    done = runner.invoke(app, ["show", "eval_tuned", "--store", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "measures the protocol" in done.output and "not known" in done.output
    assert (
        "measures the protocol"
        not in runner.invoke(app, ["show", "eval_base", "--store", str(tmp_path)]).output
    )
