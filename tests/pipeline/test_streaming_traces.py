"""Traces drawn without blocks: the same ones whoever is fast, and through kills.

The scripted engine ends requests in an order of its own, which differs from run to run; what it
replies depends on the request alone.
"""

import itertools
import os
import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from trace_runs import Run, Script, inputs_of

from factory.core.engines import Cluster
from factory.core.errors import EngineError
from factory.core.machine import Machine
from factory.core.records import Problem, SamplingConfig, Trace, Verdict
from factory.models.tiny import save_tiny_model
from factory.sampling import Completion
from factory.sampling.streams import Supply
from factory.stages.generate import run as generate
from factory.stages.generate.config import GenerateConfig
from factory.stages.generate.streaming import Flow

EVERYTHING = {
    "samples": 16,
    "enough": 2,
    "hopeless_after": 9,
    "length_stops": {"retry": 90},
    "sampling": {"max_new_tokens": 60, "loop": {}},
}
ROWS = 24
KILLS = 10


class Streamer(Script):
    """Decodes as many rows at once; a row ends after as many steps as its completion has tokens."""

    rows = ROWS

    def __init__(self, haste: int = 0) -> None:
        self._haste = random.Random(haste)
        self.requests = self.busy = self.steps = self.given_up = 0

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        rows: dict[int, tuple[float, Completion]] = {}
        numbers = itertools.count()
        while True:
            for request in supply.take(ROWS - len(rows)):
                limited = sampling.model_copy(update={"max_new_tokens": request.limit})
                completion = self._complete(request, "none", limited)
                length = completion.tokens * self._haste.uniform(0.5, 1.5)
                rows[next(numbers)] = (length, completion)
                self.requests += 1
            for number in supply.given_up():
                del rows[number]
                self.given_up += 1
            if not rows:
                return
            first = min(rows, key=lambda number: rows[number][0])
            passed, completion = rows.pop(first)
            self.steps += passed
            self.busy += passed * (len(rows) + 1) / ROWS
            rows = {number: (left - passed, c) for number, (left, c) in rows.items()}
            yield first, completion


def stream_run(folder: Path, inputs: Any, **fields: Any) -> Run:
    block = 8 if "engine" in fields else ROWS
    return Run(folder, inputs, block=block, drawing="full", **fields)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Streamer]:
    opened: list[Streamer] = []

    def opener(*_: Any, **__: Any) -> Streamer:
        opened.append(Streamer(len(opened)))
        return opened[-1]

    monkeypatch.setattr(generate, "open_sampler", opener)
    return opened


@pytest.mark.parametrize("settings", [{"samples": 8}, EVERYTHING], ids=["plain", "everything"])
def test_the_traces_do_not_depend_on_which_completion_ends_first(
    engines: list[Streamer], tmp_path: Path, settings: dict[str, Any]
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=60)
    runs = [stream_run(tmp_path / f"run{n}", inputs, **settings) for n in range(3)]
    metrics = [run.here() for run in runs]
    assert runs[0].bytes() == runs[1].bytes() == runs[2].bytes()
    assert metrics[0] == metrics[1] == metrics[2]
    assert len({engine.steps for engine in engines}) == 3


def test_what_is_kept_of_a_problem_is_what_asking_one_by_one_would_keep(
    engines: list[Streamer], tmp_path: Path
) -> None:
    """`enough` looks at samples in their order: the short ones, which end first, win nothing."""
    inputs = inputs_of(tmp_path / "inputs", problems=80)
    settings = {"samples": 16, "sampling": {"max_new_tokens": 60}}
    every = stream_run(tmp_path / "every", inputs, **settings)
    every.here()
    run = stream_run(tmp_path / "run", inputs, enough=2, **settings)
    run.here()
    expected = []
    for _, own in itertools.groupby(every.traces(), key=lambda trace: trace.problem_id):
        right = 0
        for trace in own:
            expected.append(trace)
            right += trace.verdict.is_correct
            if right == 2:
                break
    assert run.traces() == expected
    assert len(expected) < len(every.traces()) * 3 / 4


@pytest.mark.parametrize("drawing", ["full", "exact"])
@pytest.mark.parametrize("length_stops", ["keep", "drop", {"retry": 90}], ids=str)
def test_hopeless_problems_end_early_and_all_others_keep_the_samples_that_they_had(
    engines: list[Streamer], tmp_path: Path, length_stops: Any, drawing: Any
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=60)
    settings = {
        "samples": 12, "length_stops": length_stops, "sampling": {"max_new_tokens": 60}
    }  # fmt: skip
    by_problem: list[dict[str, list[Trace]]] = []
    for after in (None, 3):
        run = Run(
            tmp_path / f"after{after}", inputs, block=ROWS, drawing=drawing, hopeless_after=after,
            **settings,
        )  # fmt: skip
        metrics = run.here()
        by_problem.append({
            name: [*own]
            for name, own in itertools.groupby(run.traces(), key=lambda trace: trace.problem_id)
        })  # fmt: skip
    without, with_it = by_problem
    hopeless = {
        name for name, own in without.items()
        if not any(trace.verdict.is_correct for trace in own if trace.sample < 3)
    }  # fmt: skip
    for name, own in without.items():
        expected = [trace for trace in own if trace.sample < 3] if name in hopeless else own
        # In blocks a text tells who shared its batch.
        assert [
            (t.sample, t.seed, t.verdict, t.completion_tokens) for t in with_it.get(name, [])
        ] == [(t.sample, t.seed, t.verdict, t.completion_tokens) for t in expected]
    assert 0 < len(hopeless) < 60
    if length_stops != "drop":
        assert metrics["hopeless"] == len(hopeless)


def test_a_problem_whose_first_sample_got_lost_is_asked_for_it_before_it_is_hopeless() -> None:
    problem = Problem(id="p", prompt="?", reference="7", kind="exact", source="s")
    document = {"kind": "generate", "model": "m", "problems": "p", "samples": 5}
    config = GenerateConfig.model_validate({**document, "hopeless_after": 2})
    flow = Flow(iter([problem]), config, count=1)
    wrong = Verdict(outcome="wrong", answer="8", explanation="")
    for sample in (0, 2, 3):
        flow.put(0, right_trace(sample).model_copy(update={"verdict": wrong}), begin=sample)
    (draw,) = flow.take(4)
    assert draw.sample == 1
    flow.settle(draw, right_trace(1).model_copy(update={"verdict": wrong}), begin=9)
    assert flow.is_done and [*flow.kept(0)] == [0, 9]


def test_a_problem_gives_its_rows_back_as_soon_as_its_samples_in_order_are_enough() -> None:
    problem = Problem(id="p", prompt="?", reference="7", kind="exact", source="s")
    document = {"kind": "generate", "model": "m", "problems": "p", "samples": 5, "enough": 1}
    flow = Flow(iter([problem]), GenerateConfig.model_validate(document), count=1)
    # The sample that it needs, and further ones, since no other problem wants the rows.
    draws = flow.take(4)
    assert [draw.sample for draw in draws] == [0, 1, 2, 3]
    for sample in (1, 0):
        assert not flow.is_done and flow.given_up() == []
        flow.settle(draws[sample], right_trace(sample), begin=100 + sample)
    assert flow.is_done and sorted(flow.given_up()) == [(0, 2), (0, 3)]
    assert [*flow.kept(0)] == [100]


def test_each_problem_is_asked_once_and_then_the_one_with_the_longest_completions_first() -> None:
    problems = [
        Problem(id=f"p{n}", prompt="?", reference="7", kind="exact", source="s") for n in range(4)
    ]
    document = {"kind": "generate", "model": "m", "problems": "p", "samples": 4}
    flow = Flow(iter(problems), GenerateConfig.model_validate(document), count=4)
    pilots = flow.take(4)
    assert [(draw.index, draw.sample) for draw in pilots] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    for draw, tokens in zip(pilots, (5, 50, 20, 7), strict=True):
        flow.settle(draw, right_trace(0).model_copy(update={"completion_tokens": tokens}), begin=0)
    order = [(draw.index, draw.sample) for count in (2, 7, 9) for draw in flow.take(count)]
    assert order == [(index, sample) for index in (1, 2, 3, 0) for sample in (1, 2, 3)]


def right_trace(sample: int) -> Trace:
    return Trace(
        problem_id="p", sample=sample, question="?", prompt="?", completion="7", reasoning=None,
        answer="7", finish_reason="stop", completion_tokens=1, seed=0, sampling=SamplingConfig(),
        style="zero", model="m", verdict=Verdict(outcome="correct", answer="7", explanation=""),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "is_full"),
    [
        ({"device": "cpu"}, False),
        ({"device": "cpu", "drawing": "full"}, True),
        ({"device": "cuda", "drawing": "exact"}, False),
        # The head of a cluster need not have the GPUs that its engines have.
        ({"device": "cuda"}, True),
    ],
)
def test_how_a_machine_draws_is_known_where_no_gpu_is(
    fields: dict[str, Any], is_full: bool, engines: list[Streamer], tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", inputs_of(tmp_path / "inputs", problems=3), samples=2)
    run.machine = run.machine.model_copy(update=fields)
    assert run.machine.draws_full == is_full
    assert run.here()["traces"] == 6


def test_rows_stay_busy_until_nothing_is_left_to_ask(
    engines: list[Streamer], tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=200)
    stream_run(tmp_path / "run", inputs, samples=8).here()
    assert engines[0].busy / engines[0].steps > 0.97


@pytest.mark.parametrize("settings", [{"samples": 8}, EVERYTHING], ids=["plain", "everything"])
def test_no_trace_is_lost_or_doubled_by_kills(
    engines: list[Streamer], tmp_path: Path, settings: dict[str, Any]
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=150)
    undisturbed = stream_run(tmp_path / "undisturbed", inputs, **settings)
    metrics = undisturbed.here()
    disturbed = stream_run(tmp_path / "disturbed", inputs, **settings)
    disturbed.killed(KILLS, expected_bytes=undisturbed.written())
    assert disturbed.bytes() == undisturbed.bytes()
    assert disturbed.here() == metrics


def test_a_run_cut_at_any_byte_keeps_all_before_it_and_ends_the_same(
    engines: list[Streamer], tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=12)
    undisturbed = stream_run(tmp_path / "undisturbed", inputs, **EVERYTHING)
    undisturbed.here()
    segment = (undisturbed.scratch / "traces.jsonl").read_bytes()
    for cut in (0, 1, *range(700, len(segment), len(segment) // 7), len(segment) - 1):
        torn = stream_run(tmp_path / f"cut{cut}", inputs, **EVERYTHING)
        (torn.scratch / "traces.jsonl").write_bytes(segment[:cut])
        torn.here()
        assert torn.bytes() == undisturbed.bytes()
        kept = segment[: segment.rfind(b"\n", 0, cut) + 1]
        assert (torn.scratch / "traces.jsonl").read_bytes().startswith(kept)


def test_an_engine_that_fails_leaves_what_it_has_drawn(
    engines: list[Streamer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs = inputs_of(tmp_path / "inputs", problems=40)
    full = stream_run(tmp_path / "whole", inputs, samples=4)
    full.here()
    run = stream_run(tmp_path / "run", inputs, samples=4)
    stream = Streamer.stream

    def failing(self: Streamer, supply: Supply, sampling: SamplingConfig) -> Iterator[Any]:
        yield from itertools.islice(stream(self, supply, sampling), 60)
        raise EngineError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Streamer, "stream", failing)
        with pytest.raises(EngineError, match="out of memory"):
            run.here()
    lines = (run.scratch / "traces.jsonl").read_bytes().count(b"\n")
    assert 0 < lines <= 60
    run.here()
    assert run.bytes() == full.bytes()
    assert engines[-1].requests == 160 - lines


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_real_engines_stream_the_traces_that_blocks_give(engine: str, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "llama", hidden=32, seed=3)
    inputs = inputs_of(tmp_path / "inputs", problems=12, model=model)
    settings = {
        "samples": 4, "length_stops": {"retry": 24},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 16},
    }  # fmt: skip
    exact = Run(tmp_path / "exact", inputs, block=6, engine=engine, **settings)
    full = stream_run(tmp_path / "full", inputs, engine=engine, **settings)
    for run in (exact, full):
        process = run.start()
        process.join()
        assert process.exitcode == 0
    pairs = list(zip(full.traces(), exact.traces(), strict=True))
    assert len(pairs) == 48
    for streamed, samples in pairs:
        assert streamed.seed == samples.seed and streamed.sampling == samples.sampling
    # Other rows share a product, so rounding may decide a token; on some processor it will.
    assert sum(streamed == samples for streamed, samples in pairs) >= 44


def test_engines_of_a_cluster_are_kept_full_and_trainers_on_cpus_draw_the_same_bytes() -> None:
    cluster = Cluster(address="local", engines=2)
    drawing = {"auto": (True, False), "exact": (False, False), "full": (True, True)}
    for wanted, expected in drawing.items():
        machine = Machine.model_validate({"device": "cpu", "drawing": wanted, "cluster": cluster})
        assert (machine.draws_full, machine.rolls_out_full) == expected


@pytest.mark.skipif(
    not os.environ.get("FACTORY_LONG_TESTS"), reason="eleven engines: FACTORY_LONG_TESTS=1"
)
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_kills_of_a_real_engine_lose_and_double_no_sample(engine: str, tmp_path: Path) -> None:
    """The same samples, and what was on disk at a kill stays to the byte."""
    if engine == "transformers":
        import_module("factory.sampling.transformers")  # once, and not after every kill
    model = save_tiny_model(tmp_path / "model", "llama", hidden=32, seed=3)
    inputs = inputs_of(tmp_path / "inputs", problems=100, model=model)
    settings = {"samples": 8, "sampling": {"temperature": 1.0, "max_new_tokens": 48}}
    undisturbed = stream_run(tmp_path / "undisturbed", inputs, engine=engine, **settings)
    process = undisturbed.start()
    process.join()
    run = stream_run(tmp_path / "run", inputs, engine=engine, **settings)
    run.killed(KILLS, expected_bytes=undisturbed.written())
    lines = (run.scratch / "traces.jsonl").read_bytes().splitlines()
    assert len(lines) == len({*lines}) == 800
    samples = [[(t.problem_id, t.sample, t.seed) for t in r.traces()] for r in (undisturbed, run)]
    assert samples[0] == samples[1] and len(samples[0]) == 800
