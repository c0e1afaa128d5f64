"""Mixing trace sets by quota."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.core.artifacts import Inputs, seal
from factory.core.context import Context
from factory.core.errors import DataError
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import SamplingConfig, Trace, Verdict
from factory.stages.mix import DOMAINS, STAGE, MixConfig


def trace(source: str, number: int) -> Trace:
    return Trace(
        problem_id=f"p{number}", sample=0, question="q", prompt="q", completion=f"{source}{number}",
        reasoning=None, answer=None, finish_reason="stop", completion_tokens=5, seed=0,
        sampling=SamplingConfig(), style="chat", model="m",
        verdict=Verdict(outcome="correct", answer=None, explanation=""),
    )  # fmt: skip


def artifact(folder: Path, traces: list[Trace]):
    folder.mkdir(parents=True)
    write_records(folder / "traces.jsonl", traces)
    fields = {
        "kind": "traces", "name": "t", "stage": "generate", "stage_version": 1, "fingerprint": "f",
        "config": {}, "inputs": {}, "seed": 0, "metrics": {}, "versions": {}, "machine": {},
        "commit": "", "dirty": False, "seconds": 0.0, "peak_memory_gib": 0.0, "created": "",
    }  # fmt: skip
    return seal(folder, folder.with_suffix(".sealed"), fields)


def mix(tmp_path: Path, sets: list[list[Trace]], parts: list[dict], seed: int = 1, **settings):
    named = [{"traces": f"set{i}", **part} for i, part in enumerate(parts)]
    config = MixConfig.model_validate_json(json.dumps({"kind": "mix", "parts": named, **settings}))
    inputs = Inputs(
        {f"parts.{i}.traces": artifact(tmp_path / f"set{i}", s) for i, s in enumerate(sets)}
    )
    out = tmp_path / "out"
    out.mkdir()
    metrics = STAGE.run(config, inputs, out, Context(seed, Machine(), tmp_path))
    return metrics, [t.completion for t in read_records(out / "traces.jsonl", Trace)]


A = [trace("a", n) for n in range(10)]
B = [trace("b", n) for n in range(30)]


def test_whole_parts_are_joined_and_shuffled(tmp_path):
    metrics, texts = mix(tmp_path, [A, B], [{}, {}])
    assert sorted(texts) == sorted(t.completion for t in A + B)
    assert texts != [t.completion for t in A + B]
    assert metrics == {
        "kept": 40, "duplicates": 0, "parts.0.available": 10, "parts.0.kept": 10,
        "parts.1.available": 30, "parts.1.kept": 30,
    }  # fmt: skip


def test_counts_are_drawn_from_the_whole_part(tmp_path):
    metrics, texts = mix(tmp_path, [A, B], [{}, {"count": 5}])
    samples = {text for text in texts if text.startswith("b")}
    assert (len(texts), len(samples), metrics["parts.1.kept"]) == (15, 5, 5)
    assert samples != {f"b{n}" for n in range(5)}


def test_shares_give_the_largest_mixture_they_can(tmp_path):
    # a has 10 for 25 %, b has 30 for 75 %: all 40.
    metrics, _ = mix(tmp_path / "x", [A, B], [{"share": 0.25}, {"share": 0.75}])
    assert metrics["kept"] == 40
    # Half and half: a limits to 10 each.
    metrics, _ = mix(tmp_path / "y", [A, B], [{"share": 0.5}, {"share": 0.5}])
    assert (metrics["parts.0.kept"], metrics["parts.1.kept"]) == (10, 10)


def test_a_limit_keeps_the_shares(tmp_path):
    metrics, texts = mix(tmp_path, [A, B], [{"share": 0.3}, {"share": 0.7}], limit=10)
    assert (len(texts), metrics["parts.0.kept"], metrics["parts.1.kept"]) == (10, 3, 7)


def test_the_same_completion_of_a_problem_is_taken_once(tmp_path):
    metrics, texts = mix(tmp_path, [A, A + B, B], [{}, {}, {}])
    assert (len(texts), metrics["duplicates"]) == (40, 40)
    assert metrics["parts.2.available"] == 0


def test_the_order_follows_the_seed(tmp_path):
    texts = [mix(tmp_path / name, [A, B], [{}, {}], seed)[1] for name, seed in
             (("x", 1), ("y", 1), ("z", 2))]  # fmt: skip
    assert texts[0] == texts[1] != texts[2]


def test_asking_a_part_for_more_than_it_has_names_it(tmp_path):
    with pytest.raises(DataError, match=r"part 0 \(set0\): 11 traces asked, 10 different there"):
        mix(tmp_path, [A, B], [{"count": 11}, {}])


def test_an_empty_mixture_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no traces in any of set0"):
        mix(tmp_path, [[]], [{}])


@pytest.mark.parametrize(
    "parts",
    [
        [{"share": 0.5}, {"share": 0.6}],
        [{"share": 0.5}, {}],
        [{"share": 0.5, "count": 3}, {"share": 0.5}],
        [{"share": 0.0}, {"share": 1.0}],
        [],
    ],
)
def test_quotas_that_do_not_agree_are_refused(parts):
    named = [{"traces": "t", **part} for part in parts]
    with pytest.raises(ValidationError):
        MixConfig.model_validate_json(json.dumps({"kind": "mix", "parts": named}))


def test_domains_get_their_shares_of_the_papers_table_5(tmp_path):
    # Table 5: math 395,285 and general 177,812, so 0.68973 and 0.31027 of the two.
    # 30 of math allow 30 / 0.68973 = 43.5 in all, 10 of general 10 / 0.31027 = 32.2: the lesser.
    parts = [{"domain": "general"}, {"domain": "math"}]
    metrics, texts = mix(tmp_path, [A, B], parts, quotas="r1")
    assert (metrics["domains.general.kept"], metrics["domains.math.kept"]) == (10, 22)
    assert len(texts) == 32
    assert metrics["domains.math.share"] == 22 / 32
    # Of all 804,745, not of the two.
    assert metrics["domains.math.r1_share"] == pytest.approx(0.49119, abs=1e-5)
    assert sum(metrics[f"domains.{d}.r1_share"] for d in DOMAINS) == pytest.approx(1.0)
    assert metrics["domains.code.kept"] == 0


def test_parts_of_one_domain_share_its_quota_by_what_they_have(tmp_path):
    # logic 10,395 and math 395,285: 40 math traces allow 41.05, so 40 of math and 1 of logic.
    more = [trace("c", n) for n in range(10)]
    parts = [{"domain": "math"}, {"domain": "logic"}, {"domain": "math"}]
    metrics, _ = mix(tmp_path / "x", [B, A, more], parts, quotas="r1")
    assert [metrics[f"parts.{i}.kept"] for i in range(3)] == [30, 1, 10]
    # 20 in all: floor(20 * 0.97438) = 19 of math, 14.25 and 4.75 by what is there: 14 and 5.
    metrics, _ = mix(tmp_path / "y", [B, A, more], parts, quotas="r1", limit=20)
    assert [metrics[f"parts.{i}.kept"] for i in range(3)] == [14, 0, 5]


def test_domains_without_quotas_are_only_told(tmp_path):
    metrics, texts = mix(tmp_path, [A, B], [{"domain": "math"}, {"domain": "stem"}])
    assert len(texts) == 40 and metrics["domains.stem.share"] == 0.75


@pytest.mark.parametrize(
    "settings",
    [
        {"parts": [{"domain": "math"}, {}]},
        {"parts": [{}, {}], "quotas": "r1"},
        {"parts": [{"domain": "math", "count": 3}], "quotas": "r1"},
        {"parts": [{"domain": "music"}]},
    ],
)
def test_domains_that_do_not_agree_are_refused(settings):
    parts = [{"traces": "t", **part} for part in settings["parts"]]
    with pytest.raises(ValidationError):
        MixConfig.model_validate_json(json.dumps({"kind": "mix", **settings, "parts": parts}))
