"""Estimates of a plan: what is counted, what is assumed, what is missing, and what is kept."""

import io
import json
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from report_example import Build

from factory.building import pricing as estimates
from factory.building.launch import peaks
from factory.building.launch.peaks import processor_peaks
from factory.building.plan import Step, make_plan
from factory.building.pricing import Estimate, Row, bill, record, recorded, wall_seconds
from factory.building.recipe import load_machine, load_recipe, recipe_from
from factory.core.artifacts import find, folder_name
from factory.core.engines import Cluster
from factory.core.machine import DevicePeaks, Machine
from factory.cost.flows import Answers, Questions, kept_rows, prompt_tokens
from factory.cost.roofline import size_of
from factory.cost.shapes import (
    SMOLLM2,
    Unpriced,
    shape_of_config,
    shape_of_folder,
)
from factory.report.build import build
from factory.report.render import render_html, render_markdown
from factory.report.sections.cost import estimate_rows
from factory.stages.mix import MixConfig, expected_quotas
from factory.stages.model import Tiny, tiny_shape
from factory.stages.problems import ProblemsConfig, questions
from factory.text.chat import PromptConfig
from factory.ui.console import Console
from factory.ui.cost import show_cost
from factory.ui.display import PlainDisplay, rates
from lab.pretrain import run as pretrain
from lab.pretrain.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(
    path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "machines"
)
CPU = Machine(
    device="cpu",
    threads=2,
    matmul="float32",
    engine="vllm",
    peaks=DevicePeaks(gflops=300, gigabytes_per_second=20, memory_gib=24),
)
HUB_MODEL = {"kind": "model", "source": {"type": "hub", "id": "nobody/knows", "revision": "a" * 40}}
SUMS = {"kind": "problems", "sources": [{"type": "world", "family": "add", "train": 40}]}
SMOLLM = {"kind": "model", "source": {"type": "embedded"}}
TRACES = {
    "kind": "generate", "model": "base", "problems": "sums", "samples": 2,
    "sampling": {"max_new_tokens": 100},
}  # fmt: skip


def plan(**stages: dict[str, Any]) -> tuple[Step, ...]:
    return make_plan(recipe_from({"name": "test", "stages": stages}, "test"))


def shown(steps: tuple[Step, ...], store: Path, machine: Machine = CPU) -> str:
    screen = io.StringIO()
    show_cost(steps, store, machine, Console(width=100, file=screen))
    return screen.getvalue()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_price(path: Path, tmp_path: Path) -> None:
    machine = load_machine(ROOT / "recipes" / "machines" / "node8.yaml")
    machine = machine.model_copy(update={"price_per_hour": 20.0})
    result = bill(make_plan(load_recipe(path)), tmp_path, machine)
    assert result.missing == []
    assert result.price == pytest.approx(20 * result.seconds / 3600)
    assert result.seconds > 1


def test_an_unknown_model_says_what_is_missing_and_who_waits_for_it(tmp_path: Path) -> None:
    result = bill(plan(base=HUB_MODEL, sums=SUMS, traces=TRACES), tmp_path, CPU)
    messages = dict(line.split(": ", 1) for line in result.missing)
    assert "config.json of huggingface.co/nobody/knows is not on this machine" in messages["base"]
    assert messages["traces"] == "needs base"
    assert "sums" not in messages
    text = shown(plan(base=HUB_MODEL), tmp_path)
    assert "unknown: base: config.json of huggingface.co/nobody/knows" in text


def test_a_data_set_of_unknown_size_is_missing_unless_the_recipe_states_a_number() -> None:
    source = {"type": "hub", "id": "nobody/counts", "question": "q", "reference": "a"}

    def of(**numbers: Any) -> Questions:
        fields = {"kind": "problems", "sources": [{**source, **numbers}]}
        return questions(ProblemsConfig.model_validate_json(json.dumps(fields)), seed=0)

    with pytest.raises(Unpriced, match="nobody/counts"):
        of()
    assert of(train=7, held_out=3).count_and_length("train") == (7, 440.0)
    assert of(train=7, held_out=3).count_and_length("held_out", limit=2)[0] == 2


def test_shapes_count_what_models_built_in_code_have() -> None:
    from factory.models.tiny import tiny_model
    from lab.pretrain.trainer import new_model

    for architecture in ("llama", "qwen2"):
        source = Tiny(type="tiny", architecture=architecture, hidden=96, layers=3)
        model = tiny_model(architecture, hidden=96, layers=3)
        shape = tiny_shape(source)
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        # Beside the products that one counts the norms, which hardly cost anything.
        full = size_of(model)
        assert shape.size(4) == replace(full, parameters=shape.products)
        assert shape.products == pytest.approx(full.parameters, rel=0.005)
        assert shape_of_config(model.config.to_dict(), "config").parameters == shape.parameters
    config = PretrainConfig(kind="pretrain", hidden=64, layers=2)
    model = new_model(config, seed=0)
    assert pretrain.shape(config).parameters == sum(p.numel() for p in model.parameters())


def test_what_the_formulas_do_not_cover_is_refused() -> None:
    expected = {
        "vocab_size": 10,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    with pytest.raises(Unpriced, match="states no intermediate_size"):
        shape_of_config(expected, "x")
    with pytest.raises(Unpriced, match="mixture of experts"):
        shape_of_config({**expected, "intermediate_size": 8, "num_experts": 4}, "x")


@pytest.mark.parametrize("text", ["not json", "[1]", '"text"'])
def test_a_broken_file_is_missing_and_stops_no_build(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    rows = {"kind": "pairs", "source": {"type": "local", "path": str(path)}}
    (gap,) = bill(plan(rows=rows), tmp_path, CPU).missing
    assert gap.startswith(f"rows: {path}: ")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(Unpriced, match=r"config\.json"):
        shape_of_folder(folder)


def test_amounts_by_hand() -> None:
    # 100 problems of 4 answers: 0.6 of the problems with one kept, 0.6 of all answers with four.
    answers = Answers(rows=400, problems=100, question=70, completion=30)
    assert kept_rows(answers, 1) == pytest.approx(60)
    assert kept_rows(answers, 9) == pytest.approx(240)
    # 72 characters at 3.6 and ten tokens of a chat frame.
    assert prompt_tokens(PromptConfig(), 72, SMOLLM2).tokens == pytest.approx(30)
    assert prompt_tokens(PromptConfig(style="zero"), 72, SMOLLM2).own == pytest.approx(20)


def mixed(available: list[float], **fields: Any) -> list[float]:
    config = MixConfig.model_validate_json(json.dumps({"kind": "mix", **fields}))
    return expected_quotas(config, available)


def test_mixtures_take_what_their_quotas_allow() -> None:
    two = [{"traces": "a"}, {"traces": "b"}]
    assert mixed([10, 20], parts=two) == [10, 20]
    assert mixed([10, 20], parts=[{"traces": "a", "count": 4}, two[1]]) == [4, 20]
    # A share of 0.8 of which 10 are there: 12.5 in all.
    shares = [{"traces": "a", "share": 0.8}, {"traces": "b", "share": 0.2}]
    assert mixed([10, 20], parts=shares) == pytest.approx([10, 2.5])
    # Table 5: 395,285 of mathematics for 177,812 general ones.
    parts = [{"traces": "a", "domain": "math"}, {"traces": "b", "domain": "general"}]
    kept = mixed([395.285, 1000], parts=parts, quotas="r1")
    assert kept == pytest.approx([395.285, 177.812])


def test_generation_is_the_product_of_problems_samples_and_length(tmp_path: Path) -> None:
    steps = plan(base=SMOLLM, sums=SUMS, traces=TRACES)
    last = bill(steps, tmp_path, CPU).rows[-1].estimate
    assert last is not None
    # 40 problems * 2 samples * 0.55 of 100 tokens.
    assert (last.tokens, last.is_drawn, last.is_assumed) == (4400, True, True)
    fast = CPU.model_copy(
        update={"peaks": DevicePeaks(gflops=600, gigabytes_per_second=40, memory_gib=24)}
    )
    faster = bill(steps, tmp_path, fast).rows[-1].estimate
    assert faster is not None
    assert 8 < faster.seconds < last.seconds  # the engine's start does not get shorter
    # Engines share what is drawn, and start side by side: s + d, s + d / 2 and s + d / 4.
    shared = []
    for engines in (1, 2, 4):
        cluster = Cluster(address="local", engines=engines)
        machine = CPU.model_copy(update={"cluster": cluster, "drawing": "exact"})
        estimate = bill(steps, tmp_path, machine).rows[-1].estimate
        assert estimate is not None
        shared.append(estimate.seconds)
    assert shared[0] == last.seconds
    # All are rounded to tenths: at most 0.05 + 3 * 0.05 + 2 * 0.05 of error together.
    assert abs(shared[0] - shared[1] - 2 * (shared[1] - shared[2])) < 0.31
    assert shared[0] - shared[1] > 3


def test_problems_retire_once_enough_of_their_answers_are_right(tmp_path: Path) -> None:
    retiring = {**TRACES, "samples": 10, "enough": 3}
    estimate = bill(plan(base=SMOLLM, sums=SUMS, traces=retiring), tmp_path, CPU).rows[-1].estimate
    assert estimate is not None
    # Three right ones at 0.6 take five samples: 40 * 5 * 55 tokens.
    assert estimate.tokens == 11000


def test_on_policy_distillation_is_priced_with_its_teacher(tmp_path: Path) -> None:
    taught = {
        "kind": "distill", "model": "base", "teacher": "base", "problems": "sums", "steps": 10,
        "prompts": 8, "max_new_tokens": 100,
    }  # fmt: skip
    large = {"kind": "model", "source": {"type": "hub", "id": "Qwen/Qwen2.5-7B"}}
    steps = plan(base=SMOLLM, large=large, sums=SUMS, taught=taught)
    estimates = [
        bill(several, tmp_path, CPU).rows[-1].estimate
        for several in (
            steps,
            plan(base=SMOLLM, large=large, sums=SUMS, taught={**taught, "teacher": "large"}),
        )
    ]
    assert all(estimates)
    own, other = estimates
    # 10 updates of 8 texts of 0.75 of 100 tokens.
    assert (own.tokens, own.is_drawn, own.is_assumed) == (6000, True, True)
    # 7.6e9 weights in float32 instead of 0.13e9, and fifty times the passes of the teacher.
    assert other.memory_gib - own.memory_gib == pytest.approx(4 * 7.48e9 / 2**30, rel=0.01)
    assert other.seconds > 3 * own.seconds
    earlier = Build(tmp_path)
    config = steps[-1].config.model_dump(mode="json")
    metrics = {"completions": 10.0, "completion_tokens": 200.0}
    earlier.step("taught", "distill", config=config, metrics=metrics)
    expected = bill(steps, tmp_path, CPU).rows[-1].estimate
    assert expected is not None and (expected.tokens, expected.is_assumed) == (80 * 20, False)


def test_an_earlier_run_of_the_store_gives_the_length(tmp_path: Path) -> None:
    steps = plan(base=SMOLLM, sums=SUMS, traces=TRACES)
    earlier = Build(tmp_path)
    metrics = {"traces": 10.0, "completion_tokens": 200.0}
    sampling = {"max_new_tokens": 100}
    earlier.step("traces", "generate", config={"sampling": sampling}, metrics=metrics)
    estimate = bill(steps, tmp_path, CPU).rows[-1].estimate
    assert estimate is not None
    assert (estimate.tokens, estimate.is_assumed) == (80 * 20, False)
    assert "*1,600" in shown(steps, tmp_path)


def test_an_earlier_selection_by_the_same_settings_gives_its_share(tmp_path: Path) -> None:
    kept = {"kind": "select", "traces": "traces", "max_per_problem": 1}
    tuned = {"kind": "sft", "model": "base", "traces": "kept", "batch": 10, "epochs": 1}
    steps = plan(base=SMOLLM, sums=SUMS, traces=TRACES, kept=kept, tuned=tuned)

    def trained() -> int:
        estimate = bill(steps, tmp_path, CPU).rows[-1].estimate
        assert estimate is not None
        return estimate.tokens

    # 0.6 of 40 problems are 24 rows, three steps of ten.
    assumed = trained()
    earlier = Build(tmp_path)
    config = steps[3].config.model_dump(mode="json")
    metrics = {"kept": 6.0, "rejected.wrong": 44.0}
    earlier.step("kept", "select", config={**config, "max_per_problem": 2}, metrics=metrics)
    assert trained() == assumed
    # 6 of 50, so 9.6 of 80 rows: one step.
    earlier.step("kept", "select", config=config, metrics=metrics)
    assert abs(3 * trained() - assumed) <= 2  # both are rounded


def test_another_limit_makes_an_earlier_run_say_nothing(tmp_path: Path) -> None:
    earlier = Build(tmp_path)
    metrics = {"traces": 10.0, "completion_tokens": 200.0}
    config = {"sampling": {"max_new_tokens": 99}}
    earlier.step("traces", "generate", config=config, metrics=metrics)
    steps = plan(base=SMOLLM, sums=SUMS, traces=TRACES)
    estimate = bill(steps, tmp_path, CPU).rows[-1].estimate
    assert estimate is not None
    assert estimate.is_assumed


def test_money_is_said_to_be_missing_or_is_the_hours_times_the_price(tmp_path: Path) -> None:
    steps = plan(base=SMOLLM)
    assert "no price" in shown(steps, tmp_path)
    priced = CPU.model_copy(update={"price_per_hour": 3600.0})
    # The embedded model takes 22 s.
    assert "22.00" in shown(steps, tmp_path, priced)


def test_what_does_not_fit_is_marked(tmp_path: Path) -> None:
    traces = {"kind": "written", "path": "recipes/data/worked_sums.jsonl", "unlike": "sums"}
    tuned = {"kind": "sft", "model": "base", "traces": "worked"}
    large = {"kind": "model", "source": {"type": "hub", "id": "Qwen/Qwen2.5-7B"}}
    text = shown(plan(base=large, sums=SUMS, worked=traces, tuned=tuned), tmp_path)
    # 16 bytes for each of 7.6e9 parameters alone are 113 GiB.
    assert "!11" in text
    assert "! does not fit: a device has 24.0 GiB" in text
    assert "stages.tuned: does not fit: 11" in text


def test_a_gpu_without_stated_peaks_is_not_guessed(tmp_path: Path) -> None:
    from factory.core.errors import EngineError

    with pytest.raises(EngineError, match="state peaks"):
        bill(plan(base=SMOLLM), tmp_path, Machine(device="cuda"))
    with pytest.raises(EngineError, match="state peaks"):
        record(plan(base=SMOLLM, sums=SUMS, traces=TRACES), tmp_path, Machine(device="cuda"))
    assert list(tmp_path.iterdir()) == []


def seconds_row(name: str, seconds: float, *inputs: str) -> Row:
    step = plan(sums=SUMS)[0]
    step = Step(name, step.config, step.stage, {i: i for i in inputs}, 0, name)
    return Row(step, None, Estimate(seconds=seconds, **NOTHING))


NOTHING: dict[str, Any] = {
    "tokens": 0, "memory_gib": 0.0, "disk_gib": 0.0, "scratch_gib": 0.0, "is_drawn": False,
    "is_assumed": False,
}  # fmt: skip


def test_stages_side_by_side_wait_for_their_inputs() -> None:
    # a and b at once, c needs a, d needs b: with two places a 3, b 5, c 3..7, d 5..6.
    rows = [
        seconds_row("a", 3),
        seconds_row("b", 5),
        seconds_row("c", 4, "a"),
        seconds_row("d", 1, "b"),
    ]
    assert wall_seconds(rows, 2) == 7
    assert wall_seconds(rows, 1) == 13


def test_the_estimate_kept_is_the_one_from_before_the_first_attempt(tmp_path: Path) -> None:
    steps = plan(base=SMOLLM, sums=SUMS, traces=TRACES)
    record(steps, tmp_path, CPU)
    paths = [tmp_path / f"{folder_name(s.name, s.fingerprint)}.run/estimate.json" for s in steps]
    before = [path.read_text(encoding="utf-8") for path in paths]
    paths[0].unlink()
    slower = DevicePeaks(gflops=30, gigabytes_per_second=2, memory_gib=24)
    record(steps, tmp_path, CPU.model_copy(update={"peaks": slower}))
    assert [path.read_text(encoding="utf-8") for path in paths] == before
    assert json.loads(before[2])["tokens"] == 4400


def test_plans_that_load_no_model_or_cannot_be_built_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(estimates, "processor_peaks", refuse)
    record(plan(sums=SUMS), tmp_path, Machine(device="cpu"))
    open_revision = {"kind": "model", "source": {"type": "hub", "id": "Qwen/Qwen2.5-7B"}}
    steps = plan(base=open_revision, sums=SUMS, traces=TRACES)
    record(steps, tmp_path, Machine(device="cpu"))
    assert list(tmp_path.iterdir()) == []


def test_a_processor_is_measured_once_and_again_when_it_was_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = iter([1.5, 0.1])
    calls = []

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        calls.append(command[-2:])
        results = {
            "flops_per_second": 1e9 * len(calls),
            "bytes_per_second": 1e9,
            "load": next(loads),
        }
        return CompletedProcess(command, 0, json.dumps(results), "")

    monkeypatch.setattr("factory.building.launch.measure.subprocess.run", run)
    monkeypatch.setattr(peaks, "load", lambda: 2.0)
    machine = Machine(threads=2, matmul="float32", device="cpu")
    assert processor_peaks(machine, tmp_path).is_busy
    # No quieter than then: it stays.
    assert processor_peaks(machine, tmp_path).flops_per_second == 1e9
    monkeypatch.setattr(peaks, "load", lambda: 0.1)
    for _ in range(2):
        results = processor_peaks(machine, tmp_path)
        assert (results.flops_per_second, results.is_busy) == (2e9, False)
    assert calls == [["2", "float32"]] * 2


def test_the_report_holds_estimates_against_the_truth(tmp_path: Path) -> None:
    made = Build(tmp_path)
    artifact = made.step("base", "model")
    assert artifact is not None
    assert recorded(artifact) is None
    artifact.run_path.mkdir(exist_ok=True)
    half = artifact.manifest.seconds / 2
    assert half >= 1
    kept = Estimate(seconds=half, **{**NOTHING, "memory_gib": 1.25})
    (artifact.run_path / "estimate.json").write_text(kept.model_dump_json(), encoding="utf-8")
    made.step("other", "model")
    report = build("test", "", made.steps)
    first, *_, last = estimate_rows(report)
    assert first[:2] == ("base", "model")
    assert first[4:6] == ("2.00", "1.25 GiB")
    # The other model had no estimate and is not in the sum.
    assert (last[0], last[4]) == ("all of these", "2.00")
    for text in (render_markdown(report), render_html(report)):
        assert "all of these" in text[text.index("Expected before") :]
    # A torn file is no estimate.
    (artifact.run_path / "estimate.json").write_text('{"seconds": 1', encoding="utf-8")
    assert "Expected before" not in render_markdown(build("test", "", made.steps))


def test_the_display_tells_rates_and_what_was_spent() -> None:
    event = {"done": 200, "at": 100.0, "figures": {"verified": 50, "tokens": 5000}}
    # 5,000 tokens in 100 s; 50 verified in 100 s.
    assert rates(event, None, 1.5) == ["50 tokens/s", "1,800 verified/h", "cost 1.50"]
    assert rates({**event, "figures": {}}, 12.0, None) == ["12 tokens/s"]


def test_a_reused_stage_costs_nothing(tmp_path: Path) -> None:
    from factory.building.pipeline import build as make
    from factory.building.pricing import _sealed

    steps = plan(sums=SUMS, more={**SUMS, "seed": 5})
    make(steps[:1], tmp_path, CPU, PlainDisplay(1, Console(file=io.StringIO())))
    artifact = find(tmp_path, steps[0].fingerprint)
    assert artifact is not None
    rows = bill(steps, tmp_path, CPU).rows
    assert rows[0].estimate is None
    assert rows[1].estimate is not None
    assert "reused" in shown(steps, tmp_path)
    counted = _sealed(artifact)
    assert isinstance(counted, Questions)
    assert counted.train == {"world/add": 40}
