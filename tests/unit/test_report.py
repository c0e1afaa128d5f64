"""The report says what the artifacts say, the same each time, finished build or not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from report_example import Build, evaluation, jsonl, r1_build, trace

from factory.core.artifacts import open_artifact
from factory.core.errors import DataError
from factory.core.records import OUTCOMES, EvalSample, SamplingConfig, Score, Verdict
from factory.report import scorecard
from factory.report.build import Build as Report
from factory.report.build import build
from factory.report.curves import training_runs
from factory.report.records import Report as Facts
from factory.report.records import Step
from factory.report.render import render_html, render_json, render_markdown, report_of, write
from factory.report.scorecard import find_score
from factory.report.sections.result import headline
from factory.report.sections.samples import stories
from factory.stages.fates import fates


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> list[Step]:
    return r1_build(tmp_path_factory.mktemp("build"), problems=40)


@pytest.fixture(scope="module")
def report(steps) -> Report:
    return build("quickstart", "R1 in small.", steps)


def texts(report: Report) -> list[str]:
    return [render_html(report), render_markdown(report), render_json(report)]


def tiny_scores(outcomes: str, *, version: str = "1", k: int = 1) -> dict[str, str]:
    """Score files of one benchmark: a letter a sample, `c` correct or `w` wrong, k a problem."""
    samples = [
        EvalSample(
            benchmark="sums",
            mode="sampled",
            trace=trace(i // k, i % k, {"c": "correct", "w": "wrong"}[letter]),
            lenient=Verdict(outcome="wrong", answer=None, explanation=""),
        )
        for i, letter in enumerate(outcomes)
    ]
    share = outcomes.count("c") / len(outcomes)
    score = Score(
        benchmark="sums", version=version, metric="pass@1", value=share, low=0.0, high=1.0,
        n=len(outcomes) // k, k=k, outcomes=dict.fromkeys(OUTCOMES, 0),
        sampling=SamplingConfig(), prompt_style="chat",
    )  # fmt: skip
    return {"scores.jsonl": jsonl([score]), "samples.jsonl": jsonl(samples)}


def two_checkpoints(root: Path, before: str, after: str, **settings) -> list[Step]:
    """A base and an sft of it, with these answers."""
    made = Build(root)
    made.step("base", "model")
    made.step("tuned", "sft", {"model": "base"})
    made.step("eval_base", "evaluate", {"model": "base"}, files=tiny_scores(before, **settings))
    made.step("eval_tuned", "evaluate", {"model": "tuned"}, files=tiny_scores(after, **settings))
    return made.steps


def without(steps: list[Step], *names: str) -> list[Step]:
    return [replace(step, artifact=None) if step.name in names else step for step in steps]


def test_a_report_rebuilt_from_moved_artifacts_is_identical_to_the_byte(steps, tmp_path):
    root = steps[0].artifact.path.parent
    shutil.copytree(root, tmp_path / "moved")
    moved = [
        replace(step, artifact=open_artifact(tmp_path / "moved" / step.artifact.path.name))
        for step in steps
    ]
    first, second = (build("quickstart", "R1 in small.", plan) for plan in (steps, moved))
    assert texts(first) == texts(second)
    assert not any(str(tmp_path) in text or str(root) in text for text in texts(second))


def test_the_json_reads_back_as_the_same_facts(report):
    assert Facts.model_validate_json(render_json(report)) == report_of(report)


def test_write_makes_the_three_files_and_returns_the_page(report, tmp_path):
    page = write(report, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == ["report.html", "report.json", "report.md"]


def test_checkpoints_stand_in_stage_order_with_roles_from_lineage(report):
    results = [(row.label, row.role) for row in report.evaluations]
    assert results == [
        ("base (chat)", "first model"),
        ("base (zero, 2 examples)", None),
        ("zero", None),
        ("cold_start", None),
        ("reasoning_rl", None),
        ("teacher", "teacher"),
        ("student", "student"),
    ]


def test_the_headline_gives_first_model_teacher_and_student_with_intervals(report):
    assert headline(report).benchmark == "chain_sum"
    for row in (report.evaluations[0], *report.evaluations[-2:]):
        score = find_score(row, "chain_sum", "pass@1")
        figures = f"{100 * score.value:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"
        assert figures in headline(report).sentence


def test_every_model_that_learned_from_the_teachers_traces_is_a_student(monkeypatch) -> None:
    learned = {"teacher": ["rl"], "student": ["aligned"], "small": ["aligned"]}
    monkeypatch.setattr(scorecard, "teachers", lambda name, _: learned.get(name, []))
    models = ("base", "rl", "teacher", "aligned", "student", "small")
    roles = ["first model", None, None, "teacher", "student", "student"]
    assert scorecard._roles(models, {}) == roles
    assert scorecard._roles(models[:3], {}) == ["first model", "teacher", "student"]


def test_the_headline_compares_the_student_with_every_form_of_its_own_base(report):
    second = headline(report).sentence.split(". ")[-1]
    assert second.startswith("On the same problems student differs by ")
    assert "from base (chat) and " in second
    assert second.endswith("from base (zero, 2 examples).")


def test_a_change_that_is_no_clear_change_is_said_in_a_sentence(tmp_path):
    # Differences 0, 0, 1, -1: mean 0, so every interval around it holds zero.
    report = build("r", "", two_checkpoints(tmp_path, "cwwc", "cwcw"))
    assert report.comparisons[0].direction == "unclear"
    assert any(
        remark.startswith("tuned shows no clear change on sums: 0.0 points")
        for remark in headline(report).remarks
    )


def test_a_stage_that_did_harm_is_called_worse(tmp_path):
    report = build("r", "", two_checkpoints(tmp_path, "c" * 12, "w" * 12))
    assert any("tuned is worse than where it started" in r for r in headline(report).remarks)


def test_one_of_many_comparisons_is_not_marked_for_being_the_luckiest(tmp_path):
    # Seven of 20 problems rose, none fell: p = 2 / 2**7 = 0.0156, and the interval leaves out zero.
    before, after = "w" * 20, "c" * 7 + "w" * 13
    alone = build("r", "", two_checkpoints(tmp_path / "alone", before, after)).comparisons
    assert [(row.p_value, row.p_corrected, row.direction) for row in alone] == [
        (2 / 2**7, 2 / 2**7, "better")
    ]
    steps = two_checkpoints(tmp_path / "many", before, after)
    made = Build(tmp_path / "more")
    for number in range(4):
        made.step(f"other_{number}", "sft", {"model": "base"})
        made.step(
            f"eval_{number}", "evaluate", {"model": f"other_{number}"}, files=tiny_scores(before)
        )
    report = build("r", "", [*steps, *made.steps])
    (row,) = [r for r in report.comparisons if (r.before, r.after) == ("base", "tuned")]
    assert row.low > 0 and row.p_value == 2 / 2**7
    assert row.p_corrected == pytest.approx(len(report.comparisons) * 2 / 2**7, abs=1e-12)
    assert row.direction == "unclear"
    assert f"corrected for {len(report.comparisons)} comparisons" in render_markdown(report)


def test_a_gain_that_is_partly_format_is_called_so(report):
    assert any(r.startswith("Part of any gain over base (chat)") for r in headline(report).remarks)


def test_a_comparison_is_the_mean_of_per_problem_differences_after_minus_before(tmp_path):
    # Two samples a problem. Shares before: 0, 1/2, 1, 0. After: 1, 1/2, 1/2, 1.
    # Differences: 1, 0, -1/2, 1; their mean is 3/8. Two problems rose, one fell.
    report = build("r", "", two_checkpoints(tmp_path, "wwcwccww", "cccwcwcc", k=2))
    (row,) = report.comparisons
    assert (row.before, row.after, row.relation, row.n) == ("base", "tuned", "start", 4)
    assert row.difference == pytest.approx(0.375, abs=1e-12)
    assert (row.improved, row.declined) == (2, 1)
    assert row.low < row.difference < row.high


def test_only_problems_that_both_answered_are_compared(tmp_path):
    report = build("r", "", two_checkpoints(tmp_path, "wwww", "ccc"))
    assert (report.comparisons[0].n, report.comparisons[0].difference) == (3, 1.0)


def test_different_versions_of_a_benchmark_are_not_compared(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    made.step("tuned", "sft", {"model": "base"})
    made.step("eval_base", "evaluate", {"model": "base"}, files=tiny_scores("cw", version="1"))
    made.step("eval_tuned", "evaluate", {"model": "tuned"}, files=tiny_scores("cc", version="2"))
    assert build("r", "", made.steps).comparisons == ()


def test_the_student_is_compared_with_its_base_and_its_teacher_and_nothing_twice(report):
    results = [
        (row.before, row.relation)
        for row in report.comparisons
        if (row.after, row.benchmark, row.mode) == ("student", "chain_sum", "sampled")
    ]
    assert results == [
        ("base (chat)", "start"),
        ("base (zero, 2 examples)", "start"),
        ("teacher", "teacher"),
    ]


def test_an_unfinished_build_lists_what_is_not_made_and_shows_the_rest(steps):
    plan = without(steps, "student", "eval_student", "teacher_samples")
    report = build("quickstart", "", plan)
    assert report.missing == ("teacher_samples", "student", "eval_student")
    assert headline(report).remarks[0] == (
        "This build is unfinished: 3 of 22 stages are not made yet "
        "(teacher_samples, student and eval_student)."
    )
    assert [row.label for row in report.evaluations][-1] == "teacher"
    html, markdown, _ = texts(report)
    assert "sft, not made" in html and html.count(">not made<") == 6
    assert "not made" in markdown


def test_artifacts_made_without_the_sandbox_are_named_in_the_headline(steps):
    made = [step for step in steps if step.artifact is not None]
    assert not any("unsandboxed" in text for text in headline(build("r", "d", made)).remarks)
    chosen = made[0]
    manifest = chosen.artifact.manifest
    stamped = manifest.model_copy(update={"machine": {**manifest.machine, "unsandboxed": True}})
    artifact = replace(chosen.artifact, manifest=stamped)
    report = build("r", "d", [replace(chosen, artifact=artifact), *made[1:]])
    messages = [text for text in headline(report).remarks if "unsandboxed" in text]
    assert messages == [
        f"unsandboxed: made while models' programs ran without isolation: {chosen.name}"
    ]


def test_a_build_of_which_nothing_is_made_still_has_a_report(steps):
    report = build("quickstart", "", without(steps, *(step.name for step in steps)))
    assert len(report.missing) == len(steps)
    assert "nothing can be said" in headline(report).sentence
    assert all("generate" in text for text in texts(report))


def test_a_build_without_rl_and_scores_has_a_report(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    made.step("sums", "problems")
    made.step("samples", "generate", {"model": "base", "problems": "sums"})
    report = build("r", "", made.steps)
    assert not training_runs(report) and not report.evaluations and not stories(report)
    assert "Scorecard" not in "".join(texts(report)[:2])


def test_a_benchmark_with_metrics_of_its_own_only_is_drawn_with_its_first(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    files = tiny_scores("cw")
    files["scores.jsonl"] = files["scores.jsonl"].replace("pass@1", "exact_match_strict")
    made.step("eval_base", "evaluate", {"model": "base"}, files=files)
    report = build("r", "", made.steps)
    assert headline(report).benchmark is None
    assert "base · first model · exact_match_strict" in render_html(report)


def test_answers_that_were_cut_off_are_pointed_out(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    files = tiny_scores("cw")
    files["scores.jsonl"] = files["scores.jsonl"].replace('"truncated":0', '"truncated":3')
    files["scores.jsonl"] = files["scores.jsonl"].replace('"wrong":0', '"wrong":7')
    made.step("eval_base", "evaluate", {"model": "base"}, files=files)
    remarks = headline(build("r", "", made.steps)).remarks
    assert remarks == ("30 % of base's answers on sums were cut at 2048 tokens "
                       "and count as not correct.",)  # fmt: skip


def test_tokens_that_were_drawn_are_told_from_tokens_that_were_learned(report):
    made = {row.name: row.made for row in report.stages}
    assert (made["rl_samples"].sampled_tokens, made["rl_samples"].learned_tokens) == (31_200, None)
    assert (made["student"].sampled_tokens, made["student"].learned_tokens) == (None, 14_848)


def test_selection_counts_are_sorted_and_each_reason_has_its_first_trace(report):
    text, table, fold = fates(report.by_name["cold_traces"].artifact)
    assert text.text == "96 of 494 traces kept (19.4 %)."
    assert [row[:2] for row in table.rows] == [
        ("kept", "96"), ("dropped: wrong", "214"), ("dropped: too_many", "96"),
        ("dropped: format", "71"), ("dropped: repetition", "12"), ("dropped: language", "5"),
    ]  # fmt: skip
    samples = {sample.label: sample.outcome for sample in fold.blocks[0].samples}
    assert samples["format"] == "no_answer"


def test_stories_are_picked_by_rule(tmp_path):
    # Problem 0 stays right, 1 is lost, 2 and 4 are learned, 3 stays wrong.
    report = build("r", "", two_checkpoints(tmp_path, "ccwww", "cwcwc"))
    assert [(story.title, story.problem_id) for story in stories(report)] == [
        ("Learned", "sums-0002"),
        ("Still wrong", "sums-0003"),
        ("Lost", "sums-0001"),
    ]
    assert [sample.label for sample in stories(report)[0].samples] == ["base", "tuned"]


def test_a_long_text_is_cut_and_says_how_much_is_missing(tmp_path):
    made = Build(tmp_path)
    made.step("base", "model")
    files = evaluation({"sums": (3, 0.5, 0.0)}, seed=1, say="x" * 9000)
    made.step("eval_base", "evaluate", {"model": "base"}, files=files)
    sample = stories(build("r", "", made.steps))[0].samples[0]
    assert len(sample.completion) == 4000
    assert sample.cut > 5000


def rl_run(root: Path, *, telemetry: str, events: str | None = None) -> list[Step]:
    made = Build(root)
    made.step("base", "model")
    artifact = made.step("rl", "grpo", {"model": "base"}, files={"telemetry.jsonl": telemetry})
    if events is not None:
        artifact.run_path.mkdir()
        (artifact.run_path / "metrics.jsonl").write_text(events, encoding="utf-8")
    return made.steps


def test_a_repeated_step_counts_once_and_a_torn_last_line_is_left_out(tmp_path):
    def event(step, seconds):
        values = {"seconds/train": seconds}
        return json.dumps({"event": "metrics", "at": 1.0, "step": step, "values": values}) + "\n"

    events = event(1, 9.0) + event(2, 9.0) + event(2, 7.0) + '{"event": "met'
    steps = rl_run(tmp_path, telemetry='{"step": 1, "reward": 0.5}\n', events=events)
    (series,) = training_runs(build("r", "", steps))[0].seconds
    assert (series.steps, series.values) == ((1, 2), (9.0, 7.0))


def test_telemetry_that_is_not_finite_is_a_gap_and_not_an_error(tmp_path):
    rows = '{"step": 1, "kl": 0.1}\n{"step": 2, "kl": null}\n{"step": 3, "kl": NaN}\n'
    report = build("r", "", rl_run(tmp_path, telemetry=rows))
    assert training_runs(report)[0].series[0].values == (0.1, None, None)
    assert "nan" not in render_html(report).lower().split("<body>")[1]


@pytest.mark.parametrize(
    ("telemetry", "message"),
    [
        ('{"step": 1}\nbroken\n', "telemetry.jsonl:2: broken line"),
        ('{"reward": 1.0}\n', "telemetry.jsonl:1: step: found None"),
        ("[1]\n", "telemetry.jsonl:1: found list"),
    ],
)
def test_broken_telemetry_is_named_by_file_and_line(tmp_path, telemetry, message):
    with pytest.raises(DataError, match=message):
        render_markdown(build("r", "", rl_run(tmp_path, telemetry=telemetry)))


def test_a_run_folder_that_was_not_copied_leaves_the_curves_without_seconds(tmp_path):
    report = build("r", "", rl_run(tmp_path, telemetry='{"step": 1, "reward": 0.5}\n'))
    run = training_runs(report)[0]
    assert run.seconds == ()
    assert [series.name for series in run.series] == ["reward"]


def test_the_markdown_has_every_section_and_every_checkpoint(report):
    markdown = render_markdown(report)
    for title in ("Flow", "Scorecard", "Training", "Cost", "Lineage and versions"):
        assert f"\n## {title}\n" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| student, sft, student |")]
    assert [row[-17:] for row in rows] == [" 40 x 4, 40 x 1 |", " 33 x 4, 33 x 1 |"]
