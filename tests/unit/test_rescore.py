"""Stored answers graded again: nothing changes under equal graders, and every change is shown."""

import json
from pathlib import Path

import pytest
from report_example import Build, jsonl, trace
from typer.testing import CliRunner

from factory.cli import app
from factory.core.artifacts import InputEntry
from factory.core.records import EvalSample, Problem, Verdict
from factory.grading import grade, grade_lenient

SUMS = [
    Problem(
        id=f"sums-{i:04d}", prompt=f"Compute {i} + 7 - 2", reference=str(i + 5),
        kind="math", source="sums",
    )
    for i in range(4)
]  # fmt: skip


def graded(problem: int, outcome: str) -> EvalSample:
    """A sample with the verdicts that today's graders give it."""
    made = trace(problem, 0, outcome)
    strict = grade(SUMS[problem], made.completion)
    lenient = grade_lenient(SUMS[problem], made.completion)
    made = made.model_copy(update={"verdict": strict})
    return EvalSample(benchmark="sums", mode="sampled", trace=made, lenient=lenient)


@pytest.fixture
def samples() -> list[EvalSample]:
    return [graded(0, "correct"), graded(1, "wrong"), graded(2, "no_answer"), graded(3, "correct")]


def store_of(root: Path, samples: list[EvalSample], *, has_problems: bool = True) -> Path:
    made = Build(root)
    problems = made.step("questions", "problems", files={"held_out.jsonl": jsonl(SUMS)})
    benchmarks = [{"name": "sums", "problems": "questions"}, {"name": "arc", "task": "arc_easy"}]
    theirs = samples[0].model_copy(update={"benchmark": "arc"})
    scores = made.step(
        "eval", "evaluate", {"model": "m", "benchmarks.0.problems": "questions"},
        config={"model": "m", "benchmarks": benchmarks},
        files={"samples.jsonl": jsonl([*samples, theirs])},
    )  # fmt: skip
    assert problems is not None and scores is not None
    fingerprint = problems.fingerprint if has_problems else "f" * 64
    inputs = {"benchmarks.0.problems": InputEntry(name="questions", fingerprint=fingerprint)}
    config = {k: v for k, v in scores.manifest.config.items() if "." not in k}
    manifest = scores.manifest.model_copy(update={"inputs": inputs, "config": config})
    path = scores.path / "manifest.json"
    path.chmod(0o644)
    path.write_text(manifest.model_dump_json(), encoding="utf-8")
    return root


def rescore(store: Path) -> tuple[int, str, str]:
    runner = CliRunner(env={"COLUMNS": "200"})
    done = runner.invoke(app, ["rescore", "eval", "--store", str(store)])
    return done.exit_code, done.stdout, done.stderr


def test_equal_graders_change_nothing(tmp_path: Path, samples: list[EvalSample]) -> None:
    status, output, _ = rescore(store_of(tmp_path, samples))
    assert status == 0 and "0 verdicts changed" in output
    assert "arc: graded by lm-eval, not again here" in output
    strict = next(line.split() for line in output.splitlines() if "strict" in line)
    assert strict == ["sums", "sampled", "strict", "4", "2", "2", "0"]


def test_every_verdict_that_changed_is_shown(tmp_path: Path, samples: list[EvalSample]) -> None:
    # As if an older grader had missed a right answer and let a wrong one pass.
    missed = Verdict(outcome="wrong", answer="5", explanation="not equal")
    passed = Verdict(outcome="correct", answer="10", explanation="equal")
    for number, verdict in ((0, missed), (1, passed)):
        old = samples[number]
        samples[number] = old.model_copy(
            update={"trace": old.trace.model_copy(update={"verdict": verdict})}
        )
    status, output, _ = rescore(store_of(tmp_path, samples))
    assert status == 0 and "2 verdicts changed" in output
    strict = next(line.split() for line in output.splitlines() if "\tstrict\t" in line)
    # Two changes that cancel in the sum are not hidden by it.
    assert strict == ["sums", "sampled", "strict", "4", "2", "2", "2"]
    assert "sums, sums-0000/0, strict: wrong '5' -> correct '5'" in output
    assert "sums, sums-0001/0, strict: correct '10' -> wrong '10'" in output


def test_rescore_and_plugins_are_one_document_for_programs(
    tmp_path: Path, samples: list[EvalSample]
) -> None:
    store = str(store_of(tmp_path, samples))
    done = CliRunner().invoke(app, ["rescore", "eval", "--store", store, "--json"])
    document = json.loads(done.stdout)
    assert (document["schema"], document["changes"], document["not_graded_here"]) == (
        1,
        [],
        ["arc"],
    )
    strict = next(row for row in document["rows"] if row["reading"] == "strict")
    assert (strict["answers"], strict["right_after"], strict["changed"]) == (4, 2, 0)
    doors = json.loads(CliRunner().invoke(app, ["plugins", "--json"]).stdout)["doors"]
    assert {"name": "math", "version": 1, "origin": "the factory"} in doors["graders"]


def test_problems_that_are_gone_are_told(tmp_path: Path, samples: list[EvalSample]) -> None:
    status, _, message = rescore(store_of(tmp_path, samples, has_problems=False))
    assert status == 2
    assert "benchmark sums: its problems (questions, fingerprint ffffffffffff)" in message
