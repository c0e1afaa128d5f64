"""The grpo stage end to end on tiny models: what it leaves, resume to the bytes, parity, learning.

The reward is the language component asked for Russian: 1 for a text without words, 0 for Latin
words. A random model over bytes writes both, so groups carry a signal from the first step.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import CLOSE
from transformers import AutoModelForCausalLM, AutoTokenizer
from warm import run_script

from factory.core.artifacts import Artifact, Inputs, open_artifact, seal
from factory.core.context import Context
from factory.core.errors import EngineError, RecipeError
from factory.core.jsonl import write_records
from factory.core.machine import Machine
from factory.core.records import ArtifactKind, Problem, Trace, Verdict
from factory.grading import GradeItem, GradingPool
from factory.models.tiny import save_tiny_model
from factory.sampling.transformers import TransformersSampler
from factory.stages.grpo import STAGE, pass_choice
from factory.stages.grpo import train as grpo_run
from factory.stages.grpo.arguments import prompts_per_rank
from factory.stages.grpo.config import GrpoConfig
from factory.stages.grpo.groups import GradedRow
from factory.stages.grpo.kept import KeptRollouts
from factory.stages.grpo.rollouts import Rollouts
from factory.trainers.questions import question_order

MACHINE = Machine(device="cpu", engine="transformers", threads=1, checkpoint_steps=2)
PROBLEMS = [
    Problem(id=f"p{i}", prompt=f"{i} + 1 =", reference=str(i + 1), kind="exact", source="sums")
    for i in range(5)
]
HELD_OUT = [
    Problem(id=f"h{i}", prompt=f"{i} + 2 =", reference=str(i + 2), kind="exact", source=source)
    for source in ("long", "sums")
    for i in range(3)
]


def config(**settings: Any) -> GrpoConfig:
    fields = {
        "kind": "grpo", "model": "base", "problems": "sums", "steps": 6, "prompts": 3,
        "group": 4, "updates_per_rollout": 2, "max_new_tokens": 8, "learning_rate": 1e-3,
        "kl": 0.05, "reference_refresh_steps": 2, "language": "ru",
        "rewards": ({"name": "language"}, {"name": "format"}),
        "prompt": {"style": "chat", "prefill": "<think> "},
        **settings,
    }  # fmt: skip
    # Not strict: a child is given its settings as JSON, which has no tuples.
    return GrpoConfig.model_validate(fields, strict=False)


def artifact(
    folder: Path, name: str, kind: ArtifactKind, fill: Callable[[Path], object]
) -> Artifact:
    partial = folder / f"{name}.partial"
    partial.mkdir(parents=True)
    fill(partial)
    fields = {
        "kind": kind, "name": name, "stage": kind, "stage_version": 1, "config": {},
        "fingerprint": hashlib.sha256(name.encode()).hexdigest(), "inputs": {}, "seed": 0,
        "metrics": {}, "versions": {}, "machine": {}, "commit": "", "dirty": False,
        "seconds": 0.0, "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip
    return seal(partial, folder / name, fields)


def make_inputs(folder: Path, *, hidden: int = 32) -> Inputs:
    def problems(path: Path) -> None:
        write_records(path / "train.jsonl", PROBLEMS)
        write_records(path / "held_out.jsonl", HELD_OUT)

    artifact(folder, "base", "model", lambda path: save_tiny_model(path, "llama", hidden=hidden))
    artifact(folder, "sums", "problems", problems)
    return opened_inputs(folder)


def opened_inputs(folder: Path) -> Inputs:
    sums = open_artifact(folder / "sums")
    return Inputs(
        {"model": open_artifact(folder / "base"), "problems": sums, "watch.problems": sums}
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("artifacts"))


class Events:
    """The stream beside an artifact; may end this process at a step, as a power cut would."""

    def __init__(self, killed_after: int | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.killed_after = killed_after

    def write(self, line: str) -> None:
        row = json.loads(line)
        self.rows.append(row)
        if row["event"] == "progress" and row["done"] == self.killed_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def flush(self) -> None:
        pass


def run_stage(
    settings: GrpoConfig,
    inputs: Inputs,
    folder: Path,
    *,
    machine: Machine = MACHINE,
    killed_after: int | None = None,
) -> tuple[Path, dict[str, float], list[dict[str, Any]]]:
    """Runs in `folder`, going on from what an earlier run left there."""
    scratch, out = folder / "scratch", folder / "out"
    scratch.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    events = Events(killed_after)
    metrics = STAGE.run(settings, inputs, out, Context(7, machine, scratch, events))
    return out, metrics, events.rows


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(
    inputs: Inputs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float], list[dict[str, Any]]]:
    return run_stage(config(), inputs, tmp_path_factory.mktemp("undisturbed"))


def test_telemetry_has_a_row_a_step_and_rollout_figures_where_one_starts(undisturbed: Any) -> None:
    out, metrics, events = undisturbed
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    always = {"loss", "grad_norm", "learning_rate", "kl", "entropy", "clipped_share", "ratio_max"}
    assert all(always <= row.keys() for row in rows)
    of_rollouts = {
        "reward", "reward_std", "rewards/language", "rewards/format", "signal_share", "accuracy",
        "completion_length", "truncated_share", "language_mix_share", "words/wait",
    }  # fmt: skip
    assert [of_rollouts <= row.keys() for row in rows] == [True, False] * 3
    assert rows[0]["signal_share"] > 0
    assert rows[0]["ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert rows[1]["ratio_max"] > 1.01, "the second update of a rollout is off-policy"
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert rows[1]["kl"] > 1e-5
    assert rows[2]["kl"] < rows[1]["kl"], "the reference was refreshed after step 2"
    assert metrics["steps"] == 6
    timings = [row["values"] for row in events if row["event"] == "metrics"]
    assert {"seconds/generate", "seconds/grade", "seconds/reference", "seconds/train"} <= timings[
        0
    ].keys()
    assert "seconds/sync" in timings[2]
    # The second update of a rollout draws nothing.
    assert {"generated_per_second", "roofline/generate"} <= timings[0].keys() - timings[1].keys()
    assert all(row["trained_per_second"] > 0 for row in timings)
    # A share of peaks measured a moment before: where others compute too it may pass 1.
    assert all(row["roofline/train"] > 0 for row in timings)
    # Float32 is what the parity check is about: engine and trainer as they run.
    assert timings[0]["parity/max"] < 1e-4
    assert timings[2]["parity/max"] < 1e-4


def test_rollouts_of_first_middle_and_last_phase_are_kept(undisturbed: Any) -> None:
    out, _, _ = undisturbed
    lines = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1] * 4 + [3] * 4 + [5] * 4
    traces = [Trace.model_validate_json(json.dumps(line["trace"])) for line in lines]
    assert {trace.sample for trace in traces} == {0, 1}
    assert all(trace.prompt.endswith("<think> ") for trace in traces)
    assert lines[0]["rewards"].keys() == {
        "accuracy", "format", "language", "overlong", "repetition", "total",
    }  # fmt: skip


def test_the_model_is_a_folder_without_traces_of_this_machine(
    undisturbed: Any, inputs: Inputs
) -> None:
    out, _, _ = undisturbed
    model = AutoModelForCausalLM.from_pretrained(out)
    before = AutoModelForCausalLM.from_pretrained(inputs["model"].path)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    for path in out.glob("*.json"):
        assert str(inputs["model"].path.parent) not in path.read_text(), path.name
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= digests(out).keys()


def killed_child(inputs: Inputs, folder: Path, *, step: int, settings: dict[str, Any]) -> None:
    """Run the stage in a process of its own until it kills itself after `step`."""
    child = run_script(
        Path(__file__), str(inputs["model"].path.parent), str(folder), str(step),
        json.dumps(settings), settings={"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]


def test_a_killed_run_goes_on_to_the_same_bytes(
    undisturbed: Any, inputs: Inputs, tmp_path: Path
) -> None:
    """Killed after step 3, half-way through a rollout; the last checkpoint is that of step 2."""
    killed_child(inputs, tmp_path, step=3, settings={})
    checkpoints = tmp_path / "scratch" / "trainer"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-2"]
    out, _, events = run_stage(config(), inputs, tmp_path)
    assert digests(out) == digests(undisturbed[0])
    steps = [row["step"] for row in events if row["event"] == "metrics"]
    assert steps == [3, 4, 5, 6]


def test_adapters_reach_the_engine_and_are_merged_after_a_warm_up(
    inputs: Inputs, tmp_path: Path
) -> None:
    settings = config(
        lora={"rank": 2}, reference_refresh_steps=0, steps=4, updates_per_rollout=1, warmup_steps=3
    )
    out, _, events = run_stage(settings, inputs, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "llama"
    assert not (out / "adapter_model.safetensors").exists()
    values = [row["values"] for row in events if row["event"] == "metrics"]
    assert ["parity/max" in row for row in values] == [True, True, False, True]
    assert all(row["parity/max"] < 1e-4 for row in values if "parity/max" in row)
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])


def test_the_plain_pass_gives_the_same_figures_and_says_why_it_is_taken(
    float64_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(tmp_path / "artifacts")
    full, _, _ = run_stage(config(steps=2), inputs, tmp_path / "packed")
    monkeypatch.setattr(grpo_run, "plain_pass_reason", lambda model, arguments: "a test says so")
    machine = MACHINE.model_copy(update={"micro_groups": 3})
    out, _, events = run_stage(config(steps=2), inputs, tmp_path / "plain", machine=machine)
    notes = [row["text"] for row in events if row["event"] == "note"]
    assert any("a test says so" in note for note in notes)
    plain = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    packed = (full / "telemetry.jsonl").read_text().splitlines()
    for row, line in zip(plain, packed, strict=True):
        assert row == pytest.approx(json.loads(line), rel=CLOSE, abs=CLOSE)


MEASURED = MACHINE.model_copy(update={"training_pass": "measure"})


def clocked(monkeypatch: pytest.MonkeyPatch, packed: float, plain: float) -> list[int]:
    """Both passes run once and take these seconds; the list grows by one a measurement."""
    measured: list[int] = []

    def least_seconds(runs: Sequence[Callable[[], None]]) -> list[float]:
        for run in runs:
            run()
        measured.append(len(runs))
        return [packed, plain]

    monkeypatch.setattr(pass_choice, "least_seconds", least_seconds)
    return measured


def test_measuring_changes_no_byte_of_what_is_trained(
    undisturbed: Any, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = clocked(monkeypatch, packed=1.0, plain=2.0)
    out, _, events = run_stage(config(), inputs, tmp_path, machine=MEASURED)
    assert measured == [2]
    assert digests(out) == digests(undisturbed[0])
    notes = [row["text"] for row in events if row["event"] == "note"]
    assert sum("the packed training pass, as measured: 1 s" in note for note in notes) == 1
    timings = [row["values"] for row in events if row["event"] == "metrics"]
    assert timings[0]["pass/packed_seconds"] == 1.0 and timings[0]["pass/plain_seconds"] == 2.0
    assert ["pass/plain_seconds" in row for row in timings] == [True] + [False] * 5


def test_in_bfloat16_the_clock_decides_unless_the_machine_file_does(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_choice, "SECONDS", 0.1)
    machine = MACHINE.model_copy(update={"dtype": "bfloat16"})
    for wanted, text in (
        ("auto", "training pass, as measured"),
        ("trl", "TRL's own training pass, since the machine file says so"),
        ("packed", None),
    ):
        message = machine.model_copy(update={"training_pass": wanted})
        settings = config(steps=1, updates_per_rollout=1, kl=0.0)
        _, _, events = run_stage(settings, inputs, tmp_path / wanted, machine=message)
        notes = [row["text"] for row in events if row["event"] == "note"]
        passes = [note for note in notes if "training pass" in note]
        assert len(passes) == (text is not None) and all(text in note for note in passes)
        first = next(row["values"] for row in events if row["event"] == "metrics")
        assert ("pass/packed_seconds" in first) == (wanted == "auto")


def test_trls_pass_is_kept_over_an_interruption_where_it_was_faster(
    undisturbed: Any, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked(monkeypatch, packed=2.0, plain=1.0)
    full, _, _ = run_stage(config(), inputs, tmp_path / "whole", machine=MEASURED)
    assert digests(full) != digests(undisturbed[0]), "the passes differ in rounding"

    class PowerCut(Exception):
        pass

    def cut(pid: int, number: int) -> None:
        raise PowerCut

    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(os, "kill", cut)
        run_stage(config(), inputs, tmp_path / "cut", machine=MEASURED, killed_after=3)
    measured = clocked(monkeypatch, packed=1.0, plain=2.0)
    out, _, events = run_stage(config(), inputs, tmp_path / "cut", machine=MEASURED)
    assert measured == [] and digests(out) == digests(full)
    notes = [row["text"] for row in events if row["event"] == "note"]
    assert any("TRL's own training pass, as measured when this run began" in note for note in notes)


class StaleSampler(TransformersSampler):
    """An engine that ignores new weights, as stock vLLM on a CPU does."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        pass


def test_an_engine_that_keeps_old_weights_stops_the_run(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        grpo_run,
        "open_sampler",
        lambda model, machine, max_length, **_: StaleSampler(model, machine, max_length=max_length),
    )
    with pytest.raises(EngineError, match=r"step 3: log-probs of transformers and of the trainer"):
        run_stage(config(), inputs, tmp_path)


def test_a_run_that_diverges_stops_with_the_step(inputs: Inputs, tmp_path: Path) -> None:
    settings = config(updates_per_rollout=1).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(EngineError, match=r"step [23]: (loss|grad_norm|log-probs)"):
        run_stage(settings, inputs, tmp_path)


def test_a_completion_limit_beyond_the_model_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"max_new_tokens: 2000 .* model's 1024"):
        run_stage(config(max_new_tokens=2000), inputs, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scale_reward", "did you mean scale_rewards"),
        ("learning_rate", "the stage's own key learning_rate"),
        ("output_dir", "not allowed"),
    ],
)
def test_arguments_passed_to_trl_are_checked_before_anything_runs(name: str, message: str) -> None:
    assert message in STAGE.check(config(trl={name: 1}))[0]


def test_an_unknown_language_is_refused_before_anything_runs() -> None:
    assert "language: 'xx' is not one of ar, bg" in STAGE.check(config(language="xx"))[0]


def test_questions_come_in_whole_passes_of_different_orders() -> None:
    order = question_order(5, 12, seed=1)
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:10]
    assert order[:7] == question_order(5, 7, seed=1)
    assert order != question_order(5, 12, seed=2)


def test_a_one_token_bandit_is_learned(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reward 1 for a token below 64, which a random model draws a quarter of the time."""

    def low(self: Rollouts, completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(ids[0] < 64) for ids in completion_ids]

    monkeypatch.setattr(Rollouts, "reward", low)
    settings = config(
        rewards=({"name": "format"},), max_new_tokens=1, updates_per_rollout=1, steps=14,
        prompts=4, group=8, kl=0.0, learning_rate=3e-2,
    )  # fmt: skip
    context = Context(0, MACHINE, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    grpo_run.train(settings, PROBLEMS, model=inputs["model"], out=out, context=context)
    rows = [json.loads(line) for line in (tmp_path / "telemetry.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows]
    assert sum(rewards[:2]) / 2 < 0.5
    assert sum(rewards[-3:]) / 3 > 0.9


# A short text rarely has a letter: half of the groups have no signal.
DYNAMIC = {
    "dynamic_sampling": {"max_rounds": 2, "rest_steps": 2}, "updates_per_rollout": 1,
    "prompts": 2, "kl": 0.0, "steps": 6, "max_new_tokens": 2,
}  # fmt: skip


def test_dynamic_sampling_fills_batches_and_is_resumed_to_the_same_bytes(
    inputs: Inputs, tmp_path: Path
) -> None:
    out, _, _ = run_stage(config(**DYNAMIC), inputs, tmp_path / "undisturbed")
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    samples = [row["drawn_groups_per_used"] for row in rows]
    assert max(samples) > 1, "no group was replaced"
    # A round draws for what is missing: two rounds make at most three groups of one.
    assert max(samples) <= 3
    for row in rows:
        assert row["signal_share"] == 1.0 or row["drawn_groups_per_used"] > 1.0
    requests = [json.loads(line) for line in (out / "asked.jsonl").read_text().splitlines()]
    assert [len(row["asked"]) / 2 for row in requests] == samples

    killed_child(inputs, tmp_path / "killed", step=3, settings=DYNAMIC)
    resumed, _, _ = run_stage(config(**DYNAMIC), inputs, tmp_path / "killed")
    assert digests(resumed) == digests(out)


def test_replaced_questions_are_graded_as_what_they_are(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, kept, graded = list[list[int]](), list[GradedRow](), list[tuple[str, str]]()
    sample, keep, grade = Rollouts.sample, KeptRollouts.add, GradingPool.grade

    def watch_keep(self: KeptRollouts, rows: list[GradedRow], *rest: Any) -> None:
        kept.extend(rows)
        keep(self, rows, *rest)

    def watch_sample(*args: Any) -> dict[str, list[Any]]:
        trained.extend((rows := sample(*args))["prompt_ids"])
        return rows

    def watch_grade(self: GradingPool, items: list[GradeItem]) -> list[Verdict]:
        graded.extend((item.problem.id, item.text) for item in items)
        return grade(self, items)

    monkeypatch.setattr(Rollouts, "sample", watch_sample)
    monkeypatch.setattr(KeptRollouts, "add", watch_keep)
    monkeypatch.setattr(GradingPool, "grade", watch_grade)
    out, _, _ = run_stage(config(**{**DYNAMIC, "steps": 3}), inputs, tmp_path)
    assert trained == [list(row.request.prompt_ids) for row in kept]
    assert {(PROBLEMS[row.problem].id, row.completion.text) for row in kept} <= {*graded}
    text = AutoTokenizer.from_pretrained(inputs["model"].path).decode
    assert all(f"{row.problem} + 1 =" in text(row.request.prompt_ids) for row in kept)
    for line in (out / "rollouts.jsonl").read_text().splitlines():
        trace = Trace.model_validate(json.loads(line)["trace"], strict=False)
        assert trace.question in trace.prompt


def test_dynamic_sampling_with_several_ranks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="dynamic_sampling: draws for one process, found 2"):
        prompts_per_rank(config(**DYNAMIC))


if __name__ == "__main__":
    torch.set_num_threads(1)
    root, folder, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = config(**json.loads(sys.argv[4]))
    run_stage(settings, opened_inputs(root), folder, killed_after=step)


def test_a_scheduled_reward_counts_at_exactly_its_steps(float64_here: None, tmp_path: Path) -> None:
    """Language is 1 or near it for these bytes; it is worth 10 in updates 3 and 4 only."""
    settings = config(
        steps=5,
        updates_per_rollout=1,
        rewards=(
            {"name": "format", "weight": 1.0},
            {"name": "language", "weight": 10.0, "start_step": 3, "end_step": 4},
        ),
    )
    out, _, _ = run_stage(settings, make_inputs(tmp_path / "artifacts"), tmp_path / "run")
    rows = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    weights = [0.0, 0.0, 10.0, 10.0, 0.0]
    for row, weight in zip(rows, weights, strict=True):
        expected = row["rewards/format"] + weight * row["rewards/language"]
        assert row["reward"] == pytest.approx(expected, abs=CLOSE), row["step"]
        assert row["rewards/language"] > 0.1, "else the test could not tell"
