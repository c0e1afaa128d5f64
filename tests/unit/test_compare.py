"""Two evaluations against each other: families of tests, the gate, and what the command says."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from report_example import Build, evaluation, jsonl, trace
from typer.testing import CliRunner

from factory.cli import app
from factory.core.artifacts import Artifact
from factory.core.records import EvalSample, Verdict
from factory.evaluation.budgets import Spent
from factory.evaluation.compare import compare


def answers(benchmarks: dict[str, str], *, k: int = 1) -> dict[str, str]:
    """Samples by benchmark: a letter a sample, `c` correct, `w` wrong, `l` right leniently only."""
    return {
        "samples.jsonl": jsonl(
            [
                EvalSample(
                    benchmark=name,
                    mode="sampled",
                    trace=trace(i // k, i % k, "correct" if letter == "c" else "wrong"),
                    lenient=Verdict(
                        outcome="wrong" if letter == "w" else "correct", answer=None, explanation=""
                    ),
                )
                for name, letters in benchmarks.items()
                for i, letter in enumerate(letters)
            ]
        )
    }


def scores(root: Path, name: str, files: dict[str, str], number: int = 0) -> Artifact:
    made = Build(root)
    made.steps = [None] * number  # type: ignore[list-item]  artifacts of one store need numbers
    artifact = made.step(name, "evaluate", files=files)
    assert artifact is not None
    return artifact


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """`old`, `new` (a little other), and `broken`, which lost twelve of 40 sums but no product."""
    before = {"sums": "c" * 30 + "w" * 10, "products": "cw" * 20}
    now = {"sums": "c" * 30 + "w" * 10, "products": "wc" + "cw" * 19}
    lost = {"sums": "c" * 18 + "l" * 12 + "w" * 10, "products": "cw" * 20}
    for number, (name, letters) in enumerate({"old": before, "new": now, "broken": lost}.items()):
        scores(tmp_path, name, answers(letters), number)
    return tmp_path


def factory(*arguments: str | Path) -> Result:
    runner = CliRunner(env={"COLUMNS": "250"})
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_strict_comparisons_are_corrected_for_their_own_number(tmp_path: Path) -> None:
    old = scores(tmp_path, "old", answers({"a": "w" * 12, "b": "w" * 12, "c": "w" * 12}))
    new = scores(tmp_path, "new", answers({"a": "c" * 12, "b": "l" * 12, "c": "w" * 12}), 1)
    rows = {(row.benchmark, row.metric): row for row in compare(new, old)}
    assert [*rows] == [(b, m) for b in "abc" for m in ("pass@1", "pass@1_lenient")]
    single = 2 / 2**12
    assert rows["a", "pass@1"].p_corrected == pytest.approx(3 * single, abs=1e-12)
    assert rows["b", "pass@1"].p_value == 1.0
    # Of the lenient ones two are small: three times the first, never less for the second.
    assert rows["a", "pass@1_lenient"].p_corrected == pytest.approx(3 * single, abs=1e-12)
    assert rows["b", "pass@1_lenient"].p_corrected == pytest.approx(3 * single, abs=1e-12)
    assert rows["a", "pass@1"].is_difference and not rows["c", "pass@1"].is_difference
    assert (rows["a", "pass@1"].value_a, rows["a", "pass@1"].value_b) == (1.0, 0.0)


def test_unequal_samples_are_compared_on_those_that_both_have(tmp_path: Path) -> None:
    """One side may have ended early; what it is compared on must not depend on when."""
    scores(tmp_path, "early", answers({"a": "cw" * 12}, k=2))
    scores(tmp_path, "whole", answers({"a": "wcccccc" + "w" + "cw" * 44}, k=8), 1)
    done = factory("compare", "whole", "early", "--store", tmp_path)
    assert done.exit_code == 0, done.output
    # The first two of eight: one of two right everywhere, as on the other side.
    assert "+0.0" in done.output and "\t12 x 2\t" in done.output
    assert (
        "a pass@1: whole has 8 samples a problem, early 2: the first 2 of both are compared"
        in done.output
    )


def test_questions_of_one_passage_do_not_make_a_difference_sure(tmp_path: Path) -> None:
    def renamed(letters: str) -> dict[str, str]:
        text = answers({"reading": letters})["samples.jsonl"]
        for problem in range(12):
            text = text.replace(f'"sums-{problem:04d}"', f'"passage-{problem // 6}#{problem}"')
        return {"samples.jsonl": text}

    old = scores(tmp_path, "old", renamed("w" * 12))
    new = scores(tmp_path, "new", renamed("c" * 6 + "w" * 6), 1)
    strict = compare(new, old)[0]
    # Six of twelve rose, but all six ask about one passage of two.
    assert (strict.test, strict.p_value, strict.is_difference) == ("permutation", 1.0, False)
    assert strict.difference.low < 0


def test_the_gate_passes_what_did_not_fall_and_says_what_it_could_see(store: Path) -> None:
    done = factory("compare", "new", "old", "--fail-below", "-1.0", "--store", store)
    assert done.exit_code == 0, done.output
    assert "sums pass@1: a change below -1 points? no evidence of it: +0.0 points" in done.output
    assert "corrected for 2 tests, n = 40" in done.output
    assert "sees differences of" in done.output and "no difference shown" in done.output


def test_scores_are_not_compared_with_themselves(store: Path) -> None:
    done = factory("compare", "old", "old", "--store", store)
    assert done.exit_code == 2 and "nothing to compare" in done.output


def test_the_gate_fails_with_its_evidence(store: Path) -> None:
    done = factory("compare", "broken", "old", "--fail-below", "-1.0", "--store", store)
    assert done.exit_code == 3, done.output
    assert "sums pass@1: a change below -1 points? FELL: -30.0 points [" in done.output
    assert "products pass@1: a change below -1 points? no evidence of it" in done.output
    assert "worse" in done.output
    # The other way round it is a gain; and a fall of 30 points is not one of more than 40.
    assert factory("compare", "old", "broken", "--fail-below=0", "--store", store).exit_code == 0
    wide = factory("compare", "broken", "old", "--fail-below", "-40", "--store", store)
    assert wide.exit_code == 0, wide.output


def test_without_a_gate_a_fall_is_shown_and_is_no_failure(store: Path) -> None:
    done = factory("compare", "broken", "old", "--store", store)
    assert done.exit_code == 0 and "worse" in done.output and "FELL" not in done.output
    # All twelve were right by the lenient reading: there nothing changed.
    lenient = [line for line in done.output.splitlines() if "pass@1_lenient" in line]
    assert all("no difference shown" in line for line in lenient)


def test_what_cannot_be_compared_is_told_in_a_line(store: Path, tmp_path: Path) -> None:
    scores(store, "other", answers({"maths": "cw"}), 7)
    scores(store, "fewer", answers({"sums": "cw"}), 8)
    made = Build(store)
    made.steps = [None] * 9  # type: ignore[list-item]
    made.step("model", "model")
    cases = {
        ("other", "old"): "other and old: no benchmark in common",
        ("fewer", "old"): "asked different problems (2 and 40, 2 in common)",
        ("model", "old"): "model: no such scores artifact",
        ("new", "old", "--fail-below", "2"): "--fail-below 2: points from -100 to 0",
    }
    for arguments, message in cases.items():
        done = factory("compare", *arguments, "--store", store)
        assert done.exit_code == 2 and message in done.stderr, done.output


def test_two_evaluations_of_one_model_are_not_told_apart(tmp_path: Path) -> None:
    skills = {f"b{number}": (30, 0.5, 0.0) for number in range(4)}
    first = scores(tmp_path, "first", evaluation(skills, seed=1))
    second = scores(tmp_path, "second", evaluation(skills, seed=2), 1)
    rows = compare(first, second, allowed_fall=0.0)
    assert len(rows) == 16
    assert not any(row.is_difference or row.has_fallen for row in rows)


def test_programs_get_one_document_with_every_comparison_and_what_fell(store: Path) -> None:
    result = factory("compare", "broken", "old", "--store", store, "--json", "--fail-below", "-1")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    assert document["fallen"] == ["sums pass@1"]
    rows = {(row["benchmark"], row["metric"]): row for row in document["rows"]}
    assert len(rows) == 4
    lost = rows["sums", "pass@1"]["difference"]
    assert (round(lost["value"], 6), rows["sums", "pass@1"]["is_difference"]) == (-0.3, True)


def test_two_builds_of_one_stage_have_their_own_points_of_thinking_tokens(tmp_path: Path) -> None:
    def with_budgets(letters: str, tokens: int) -> dict[str, str]:
        rows = [
            Spent(
                benchmark="a", mode="sampled", problem_id=f"sums-{at:04d}", sample=0, budget=None,
                thinking_tokens=tokens + at % 2, tokens=2 * tokens, is_correct=letter == "c",
            )
            for at, letter in enumerate(letters)
        ]  # fmt: skip
        return {**answers({"a": letters}), "budgets.jsonl": jsonl(rows)}

    first = scores(tmp_path, "eval", with_budgets("c" * 20 + "w" * 4, 10))
    second = scores(tmp_path, "eval", with_budgets("w" * 20 + "c" * 4, 90), 1)
    names = [made.path.name for made in (first, second)]
    done = factory("compare", *names, "--store", tmp_path, "--json")
    points = {point["model"]: point for point in json.loads(done.stdout)["thinking"]}
    assert [points[name]["standing"] for name in names] == ["front", "behind for certain"]
    assert points[names[0]]["tokens_per_right"] == pytest.approx(24 * 20 / 20)
    shown = factory("compare", *names, "--store", tmp_path).output
    assert "behind for certain" in shown and "tokens a right answer" in shown
