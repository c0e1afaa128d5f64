"""Trace runs killed with SIGKILL again and again: the same bytes as an undisturbed run.

The runs are the stage's own `run` in forks of this process, which has the imports done. The
scripted engine's replies depend on what shares their batch, as rounding does with a real one: a run
that went on in other blocks would end with other bytes.

REAL_SAMPLES=20000 and REAL_ENGINE=vllm in the environment take the test with a real engine to that
number of samples, and ten kills, and to that engine.
"""

import hashlib
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from trace_runs import BLOCK, FORK, Run, Script, inputs_of, sealed

from factory.core.errors import DataError
from factory.core.guarded import unguarded
from factory.models.tiny import save_tiny_model
from factory.sampling import Completion
from factory.stages.generate import run as generate

SAMPLES, KILLS = 8, 10
REAL_SAMPLES = int(os.environ.get("REAL_SAMPLES", "96"))
REAL_ENGINE = os.environ.get("REAL_ENGINE", "transformers")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "open_sampler", lambda *_, **__: Script())


def test_20000_samples_survive_ten_kills(scripted: None, tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=20_000 // SAMPLES)
    undisturbed = Run(tmp_path / "whole", inputs, samples=SAMPLES)
    metrics = undisturbed.here()
    disturbed = Run(tmp_path / "disturbed", inputs, samples=SAMPLES)
    disturbed.killed(KILLS, expected_bytes=undisturbed.written())
    assert (
        hashlib.sha256(disturbed.bytes()).digest() == hashlib.sha256(undisturbed.bytes()).digest()
    )
    assert metrics["traces"] == 20_000
    keys = [(n, sample) for n in range(2500) for sample in range(SAMPLES)]
    lines = undisturbed.bytes().splitlines()
    assert len(lines) == len(keys)
    for (number, sample), line in zip(keys, lines, strict=True):
        assert line.startswith(f'{{"problem_id":"sums/{number}","sample":{sample},'.encode())


EVERYTHING = {
    "samples": 16,
    "enough": 2,
    "length_stops": {"retry": 90},
    "sampling": {"max_new_tokens": 60, "loop": {}},
}


def test_retiring_retries_and_loops_survive_kills_too(scripted: None, tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=200)
    undisturbed = Run(tmp_path / "whole", inputs, block=32, **EVERYTHING)
    metrics = undisturbed.here()
    disturbed = Run(tmp_path / "disturbed", inputs, block=32, **EVERYTHING)
    disturbed.killed(KILLS // 2, expected_bytes=undisturbed.written())
    assert disturbed.bytes() == undisturbed.bytes()
    traces = undisturbed.traces()
    assert [(t.problem_id, t.sample) for t in traces] == sorted(
        {(t.problem_id, t.sample) for t in traces},
        key=lambda key: (int(key[0].removeprefix("sums/")), key[1]),
    )
    for number in range(200):
        own = [t for t in traces if t.problem_id == f"sums/{number}"]
        assert [t.sample for t in own] == list(range(len(own)))
        assert len(own) == 16 or sum(t.verdict.is_correct for t in own) >= 2
    # Easy problems need few of their 16 samples.
    assert 500 < len(traces) < 2250
    long = [t for t in traces if t.sampling.max_new_tokens == 90]
    assert len(long) == metrics["retried"] > 50
    assert not any(t.finish_reason == "length" for t in traces if t not in long)
    assert metrics["problems_solved"] > 100
    looped = [t for t in traces if t.finish_reason == "loop"]
    assert {t.verdict.outcome for t in looped} == {"truncated"}
    assert metrics["looped_share"] == len(looped) / len(traces) > 0


def test_real_samples_survive_kills(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "llama", hidden=32, seed=3)
    inputs = inputs_of(tmp_path / "inputs", problems=REAL_SAMPLES // 4, model=model)
    block, kills = (BLOCK, KILLS) if REAL_SAMPLES > 1000 else (8, 3)
    settings = {
        "samples": 4, "enough": 1, "length_stops": {"retry": 24},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 16},
    }  # fmt: skip
    undisturbed = Run(tmp_path / "whole", inputs, block=block, engine=REAL_ENGINE, **settings)
    # In a process of its own like the killed ones: torch on the same number of threads.
    process = undisturbed.start()
    process.join()
    assert process.exitcode == 0
    disturbed = Run(tmp_path / "disturbed", inputs, block=block, engine=REAL_ENGINE, **settings)
    disturbed.killed(kills, expected_bytes=undisturbed.written())
    assert disturbed.bytes() == undisturbed.bytes()
    assert len(undisturbed.traces()) == REAL_SAMPLES


def test_memory_does_not_grow_with_the_number_of_samples(scripted: None, tmp_path: Path) -> None:
    # 10,000 traces as objects take more than 40 MiB.
    inputs = inputs_of(tmp_path / "inputs", problems=1250)
    small = Run(tmp_path / "small", inputs, samples=SAMPLES, limit=100)
    large = Run(tmp_path / "large", inputs, samples=SAMPLES)
    queue = FORK.SimpleQueue()

    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def measure() -> None:
        small.here()
        peaks = [peak_mib()]
        for _ in range(2):  # drawn, and then replayed
            large.here()
            peaks.append(peak_mib())
        queue.put(peaks)

    process = FORK.Process(target=measure, daemon=True)
    process.start()
    after_small, *after_large = queue.get()
    process.join()
    assert len(large.traces()) == 10_000
    assert max(after_large) - after_small < 8


def test_a_finished_run_starts_no_engine(scripted: None, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", inputs_of(tmp_path / "inputs", problems=20), samples=2)
    first = (run.here(), run.bytes())

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an engine was started")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "open_sampler", refuse)
        assert (run.here(), run.bytes()) == first


@pytest.mark.parametrize("settings", [{"samples": 4}, EVERYTHING], ids=["plain", "everything"])
def test_a_run_cut_at_any_byte_ends_the_same(
    scripted: None, tmp_path: Path, settings: dict[str, Any]
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=12)
    undisturbed = Run(tmp_path / "whole", inputs, block=5, **settings)
    undisturbed.here()
    segment = (undisturbed.scratch / "traces.jsonl").read_bytes()
    step = len(segment) // 11
    for cut in (0, 1, *range(step, len(segment), step), len(segment) - 1):
        torn = Run(tmp_path / f"cut{cut}", inputs, block=5, **settings)
        (torn.scratch / "traces.jsonl").write_bytes(segment[:cut])
        torn.here()
        assert torn.bytes() == undisturbed.bytes()
        assert (torn.scratch / "traces.jsonl").read_bytes() == segment


def test_another_block_size_keeps_what_is_there_and_loses_nothing(
    scripted: None, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=12)
    first = Run(tmp_path / "run", inputs, block=8, samples=4)
    first.here()
    segment = first.scratch / "traces.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:20]))
    first.machine = first.machine.model_copy(update={"block": 6})
    first.here()
    # Eighteen traces are three whole blocks of six.
    kept = [(unguarded(line) or b"") + b"\n" for line in lines[:18]]
    assert first.bytes().splitlines(keepends=True)[:18] == kept
    assert [(t.problem_id, t.sample) for t in first.traces()] == [
        (f"sums/{n}", sample) for n in range(12) for sample in range(4)
    ]


def test_a_changed_byte_of_the_segment_is_named_and_drawn_again(
    scripted: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=4)
    undisturbed = Run(tmp_path / "whole", inputs, block=3, samples=2)
    undisturbed.here()
    segment = (undisturbed.scratch / "traces.jsonl").read_bytes()
    for at in range(7, len(segment), len(segment) // 9):
        run = Run(tmp_path / f"at{at}", inputs, block=3, samples=2)
        changed = bytearray(segment)
        changed[at] ^= 2
        (run.scratch / "traces.jsonl").write_bytes(changed)
        caplog.clear()
        run.here()
        assert run.bytes() == undisturbed.bytes()
        assert (run.scratch / "traces.jsonl").read_bytes() == segment
        (message,) = [record.getMessage() for record in caplog.records]
        number = segment[:at].count(b"\n") + 1
        assert f"traces.jsonl:{number}: not what was written" in message


def test_two_problems_of_one_id_and_a_run_without_traces_are_refused(
    scripted: None, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=3)
    tiny = {"max_new_tokens": 1}
    run = Run(tmp_path / "run", inputs, samples=1, limit=1, length_stops="drop", sampling=tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Script, "_complete", lambda *_: Completion("", (5,), (0.0,), "length"))
        with pytest.raises(DataError, match="all 1 completions were cut at their limit"):
            run.here()
    path = inputs["problems"].path / "train.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    inputs["problems"] = sealed(path.parent, "problems", [path.name])
    with pytest.raises(DataError, match="two problems have the id 'sums/0'"):
        Run(tmp_path / "twice", inputs, samples=1).here()
