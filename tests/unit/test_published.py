"""Published scores: the shipped table, the noise band by hand, and the three verdicts."""

from pathlib import Path

import numpy as np
import pytest
from report_example import Build, jsonl, trace
from typer.testing import CliRunner

from factory.building.recipe import load_recipe
from factory.cli import app
from factory.core.artifacts import InputEntry
from factory.core.errors import DataError
from factory.core.records import EvalSample, SamplingConfig, Verdict
from factory.evaluation.published import (
    Protocol,
    Published,
    PublishedBenchmark,
    PublishedModel,
    hub_id,
    load_published,
    noise_band,
    reproductions,
)
from factory.evaluation.statistics import Errors, Interval
from factory.evaluation.summary import Summary
from factory.report.build import build
from factory.report.render import render_html, render_markdown
from factory.report.sections.published import published_scores

ROOT = Path(__file__).resolve().parents[2]
QWEN_7B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
R1 = SamplingConfig(temperature=0.6, top_p=0.95, max_new_tokens=32768)


def summary(
    value: float, *, sampling: float | None = 0.005, n: int = 500, k: int = 16,
    settings: SamplingConfig = R1,
) -> Summary:  # fmt: skip
    return Summary(
        benchmark="math_500", mode="sampled", n=n, k=k, sampling=settings,
        strict=Interval(value=value, low=0.0, high=1.0, n=n),
        lenient=Interval(value=value, low=0.0, high=1.0, n=n),
        errors=Errors(sampling=sampling, question=0.01, clusters=n),
        curve=(), trap="",
    )  # fmt: skip


def test_the_shipped_table_is_the_papers() -> None:
    published = load_published()
    assert len(published.models) == 11
    rows = {(row.model, row.source): row.scores for row in published.models}
    assert rows["deepseek-ai/DeepSeek-R1", "R1v2, README"]["aime24"] == {
        "pass@1": 79.8, "cons@64": 86.7,
    }  # fmt: skip
    # Both versions of the paper are there, with their different numbers.
    zero = "deepseek-ai/DeepSeek-R1-Zero"
    assert [rows[zero, v]["aime24"]["pass@1"] for v in ("R1v2", "R1v1")] == [77.9, 71.0]
    assert rows[QWEN_7B, "R1v2, README"]["math_500"] == {"pass@1": 92.8}
    assert {name: expected.k for name, expected in published.benchmarks.items()} == {
        "aime24": 64, "math_500": 16, "gpqa_diamond": 64, "livecodebench": 8, "codeforces": 16,
    }  # fmt: skip
    shares = [v for s in rows.values() for m in s.values() for n, v in m.items() if n != "rating"]
    assert all(0 < value < 100 for value in shares)


def test_the_noise_band_by_hand() -> None:
    # 100 problems, 4 samples, sampling error 2 points: s^2 = 4 * 0.0004 + 1 / 40000 = 0.001625;
    # 1.96 sqrt(s^2 / 4 + s^2 / 16) + 0.0005 = 0.044667.
    row = summary(0.5, sampling=0.02, n=100, k=4)
    assert noise_band(row, 16) == pytest.approx(0.044667, abs=1e-6)
    assert noise_band(summary(0.5, sampling=None, k=1), 16) is None
    # A model that always answers alike is not held to be without noise.
    assert 0.0005 < (noise_band(summary(1.0, sampling=0.0), 16) or 0) < 0.003


@pytest.mark.parametrize(
    ("row", "verdict", "reason"),
    [
        (summary(0.930), "reproduced", "+0.2 points, noise band ± 1.4"),
        (summary(0.945), "not reproduced", "+1.7 points, noise band ± 1.4"),
        (summary(0.880), "not reproduced", "-4.8 points"),
        (summary(0.930, sampling=0.031, k=4), "cannot tell", "wider than 3: no k would do"),
        (summary(0.930, sampling=0.02, k=4), "cannot tell", "wider than 3: k = 13 would do"),
        (summary(0.930, sampling=None, k=1), "cannot tell", "one sample a problem"),
        (summary(0.928, n=100), "cannot tell", "asked 100 problems of 500"),
        (
            summary(0.928, settings=SamplingConfig(temperature=1.0, max_new_tokens=512)),
            "reproduced",
            "asked with temperature 1 (published 0.6), max_new_tokens 512 (published 32768)",
        ),
    ],
)
def test_the_verdicts(row: Summary, verdict: str, reason: str) -> None:
    (result,) = reproductions([row], model=QWEN_7B, published=load_published())
    assert (result.published, result.verdict) == (0.928, verdict)
    assert reason in result.reason


def test_the_advised_number_of_samples_makes_the_band_narrow_enough() -> None:
    # Error 2 points at k = 4: at k = 13 it is 2 sqrt(4 / 13) points.
    wide = summary(0.93, sampling=0.02, k=4)
    assert (noise_band(wide, 16) or 0) > 0.03
    for k, is_enough in ((12, False), (13, True)):
        band = noise_band(summary(0.93, sampling=0.02 * (4 / k) ** 0.5, k=k), 16) or 0
        assert (band <= 0.03) is is_enough


def test_an_honest_rerun_is_reproduced_in_most_cases_and_a_worse_model_is_not() -> None:
    random = np.random.default_rng(0)
    rates = random.beta(2, 0.3, 300)
    published = Published(
        protocol=Protocol(temperature=0.6, top_p=0.95, max_new_tokens=32768),
        benchmarks={"math_500": PublishedBenchmark(title="", n=300, k=16)},
        models=(PublishedModel(model="m", source="s", scores={"math_500": {"pass@1": 0.0}}),),
    )

    def verdict(shift: float) -> str:
        theirs = random.binomial(16, rates).mean() / 16
        ours = random.binomial(16, np.clip(rates - shift, 0, 1)) / 16
        error = float(np.sqrt((ours * (1 - ours) / 15).sum())) / 300
        row = summary(float(ours.mean()), sampling=error, n=300)
        model = published.models[0].model_copy(
            update={"scores": {"math_500": {"pass@1": round(100 * theirs, 1)}}}
        )
        table = published.model_copy(update={"models": (model,)})
        return reproductions([row], model="m", published=table)[0].verdict

    honest = [verdict(0.0) for _ in range(400)]
    # Standard error of the share 0.011.
    assert 0.92 <= honest.count("reproduced") / 400 <= 0.98
    worse = [verdict(0.03) for _ in range(100)]
    assert worse.count("not reproduced") >= 95


def test_only_an_unchanged_hub_model_has_published_scores() -> None:
    source = {"type": "hub", "id": QWEN_7B, "revision": "0" * 40}
    assert hub_id({"kind": "model", "source": source}) == QWEN_7B
    assert hub_id({"kind": "model", "source": source, "turns": "chatml"}) is None
    assert hub_id({"kind": "model", "source": {"type": "embedded"}}) is None
    assert hub_id({}) is None


def test_a_broken_table_is_told(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    path.write_text("protocol: {temperature: 0.6}\nmodels: []\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"published\.yaml: not a file of published scores"):
        load_published(path)


def scores_of_a_hub_model(
    root: Path, *, model_id: str = QWEN_7B, benchmark: str = "aime24", n: int = 30, k: int = 4
) -> Build:
    """An evaluation in which each sample is right or wrong by turns."""
    made = Build(root)
    source = {"type": "hub", "id": model_id, "revision": "0" * 40}
    model = made.step("seven", "model", config={"source": source})
    samples = [
        EvalSample(
            benchmark=benchmark,
            mode="sampled",
            trace=trace(p, i, "correct" if (p + i) % 2 else "wrong"),
            lenient=Verdict(outcome="wrong", answer=None, explanation=""),
        )
        for p in range(n)
        for i in range(k)
    ]
    files = {"scores.jsonl": "", "samples.jsonl": jsonl(samples)}
    made.step("eval", "evaluate", {"model": "seven"}, files=files)
    # The example's manifests name their inputs without a fingerprint.
    artifact = made.steps[-1].artifact
    assert artifact is not None and model is not None
    entry = InputEntry(name="seven", fingerprint=model.fingerprint)
    manifest = artifact.manifest.model_copy(update={"inputs": {"model": entry}})
    path = artifact.path / "manifest.json"
    path.chmod(0o644)
    path.write_text(manifest.model_dump_json(), encoding="utf-8")
    return made


def test_the_command_line_and_the_report_give_the_verdict(tmp_path: Path) -> None:
    made = scores_of_a_hub_model(tmp_path)
    run = CliRunner(env={"COLUMNS": "250"}).invoke
    done = run(app, ["compare", "eval", "--published", "--store", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert QWEN_7B in done.output and "cannot tell: -5.5 points" in done.output
    other = run(app, ["compare", "eval", "--published", "--as", "a/b", "--store", str(tmp_path)])
    assert other.exit_code == 2 and "a/b: nothing published" in other.stderr
    neither = run(app, ["compare", "eval", "--store", str(tmp_path)])
    assert neither.exit_code == 2 and "either a BASELINE or --published" in neither.stderr
    report = build("r", "", made.steps)
    (row,) = published_scores(report)
    assert (row.verdict, row.published, row.n, row.k) == ("cannot tell", 0.555, 30, 4)
    for text in (render_markdown(report), render_html(report)):
        assert "Against published scores" in text and "cannot tell" in text


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("math_500", "math_500"), ("math500", "math_500"), ("MATH-500", "math_500"),
        ("aime24", "aime24"), ("aime_2024", "aime24"), ("AIME 2024", "aime24"),
        ("GPQA-Diamond", "gpqa_diamond"), ("LiveCodeBench", "livecodebench"),
        # Other problems than the published ones.
        ("aime25", None), ("aime25_25", None), ("math", None), ("gpqa_25", None),
    ],
)  # fmt: skip
def test_another_spelling_is_the_same_benchmark(name: str, key: str | None) -> None:
    assert load_published().benchmark_key(name) == key
    row = summary(0.930).model_copy(update={"benchmark": name})
    result = reproductions([row], model=QWEN_7B, published=load_published())
    assert [item.benchmark for item in result] == ([name] if key else [])


def test_the_teachers_math_500_is_held_against_94_3_in_the_report_of_its_recipe(
    tmp_path: Path,
) -> None:
    recipe = load_recipe(ROOT / "recipes" / "distill" / "qwen2.5-math-1.5b.yaml")
    requested = recipe.stages["eval_teacher"].model_dump()
    benchmark = next(item for item in requested["benchmarks"] if item["source"] == "MATH-500")
    teacher = recipe.stages[requested["model"]].model_dump()["source"]["id"]
    made = scores_of_a_hub_model(
        tmp_path, model_id=teacher, benchmark=benchmark["name"], n=500, k=2
    )
    (row,) = published_scores(build("r", "", made.steps))
    # Half of all samples are right, 44.3 points below what was published.
    assert (row.published, row.ours, row.n) == (0.943, 0.5, 500)
    assert row.verdict == "not reproduced" and "-44.3 points" in row.reason
