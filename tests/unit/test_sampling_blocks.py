"""Sampling in blocks: what a cut run has is replayed, whole blocks only, in the same batches."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from factory.core.records import SamplingConfig
from factory.models.tiny import byte_tokenizer
from factory.sampling.blocks import sample_blocks
from factory.sampling.sampler import Completion, Request
from factory.sampling.scripted import ScriptedSampler

SAMPLING = SamplingConfig(max_new_tokens=20)
KEYED = [(f"p{number}/0", Request((1, number), number)) for number in range(7)]


def scripted() -> ScriptedSampler:
    return ScriptedSampler(lambda request: f"reply {request.seed}", byte_tokenizer())


def sampled(
    sampler: ScriptedSampler, segment: Path, keyed: Sequence[tuple[str, Request]] = KEYED
) -> list[Completion]:
    return sample_blocks(sampler, keyed, SAMPLING, segment=segment, block=3)


def test_requests_are_sampled_in_fixed_blocks_and_in_order(tmp_path: Path) -> None:
    sampler, heard = scripted(), []
    completions = sample_blocks(
        sampler,
        KEYED,
        SAMPLING,
        segment=tmp_path / "s.jsonl",
        block=3,
        on_block=lambda indices, block: heard.append(([*indices], [c.text for c in block])),
    )
    assert [len(call) for call in sampler.calls] == [3, 3, 1]
    assert [c.text for c in completions] == [f"reply {n}" for n in range(7)]
    assert heard == [
        ([0, 1, 2], ["reply 0", "reply 1", "reply 2"]),
        ([3, 4, 5], ["reply 3", "reply 4", "reply 5"]),
        ([6], ["reply 6"]),
    ]


def test_a_finished_run_is_replayed_without_sampling(tmp_path: Path) -> None:
    first = sampled(scripted(), tmp_path / "s.jsonl")
    again = scripted()
    assert sampled(again, tmp_path / "s.jsonl") == first
    assert again.calls == []


def test_a_run_cut_at_any_byte_goes_on_in_the_same_batches(tmp_path: Path) -> None:
    first = sampled(scripted(), tmp_path / "whole.jsonl")
    raw = (tmp_path / "whole.jsonl").read_bytes()
    batches = {tuple(r.seed for _, r in KEYED[start : start + 3]) for start in (0, 3, 6)}
    for cut in range(0, len(raw), 37):
        segment = tmp_path / f"cut{cut}.jsonl"
        segment.write_bytes(raw[:cut])
        sampler = scripted()
        assert sampled(sampler, segment) == first
        assert {tuple(r.seed for r in call) for call in sampler.calls} <= batches
        assert sampled(scripted(), segment) == first


def test_equal_keys_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unique"):
        sampled(scripted(), tmp_path / "s.jsonl", [KEYED[0], KEYED[0]])


def test_a_changed_byte_of_a_segment_is_named_and_its_block_drawn_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segment = tmp_path / "s.jsonl"
    first = sampled(scripted(), segment)
    raw = segment.read_bytes()
    chance = random.Random(3)
    for at in [0, len(raw) - 1, *(chance.randrange(len(raw)) for _ in range(60))]:
        changed = bytearray(raw)
        changed[at] ^= 1 << chance.randrange(8)
        segment.write_bytes(changed)
        caplog.clear()
        sampler = scripted()
        assert sampled(sampler, segment) == first
        assert sampler.calls
        notes = [record.getMessage() for record in caplog.records]
        # A line break that is another byte joins the last line to nothing: torn, as by a kill.
        assert at == len(raw) - 1 or (len(notes) == 1 and f"{segment}:" in notes[0]), at
        sampler = scripted()
        assert sampled(sampler, segment) == first and not sampler.calls
