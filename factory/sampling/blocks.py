"""Sampling of many requests, each completion kept on disk as soon as it is there.

Matrix products round differently at other batch sizes, so what shares a batch must not depend on
where a run was cut: a block is always sampled whole, by one engine call, or replayed whole. A
machine that draws `full` gives that up, and waits for no slowest of a block.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from factory.core.context import Context
from factory.core.guarded import append_guarded
from factory.core.machine import Machine
from factory.core.records import SamplingConfig
from factory.sampling import open_sampler
from factory.sampling.sampler import Completion, OnEnd, Request, Sampler, nobody
from factory.sampling.streams import OnBlock, kept_completions, sample_stream


def ask_model(
    model: Path,
    keyed: Sequence[tuple[str, Request]],
    sampling: SamplingConfig,
    *,
    segment: str,
    on_block: OnBlock,
    context: Context,
) -> list[Completion]:
    """`sample_blocks` with the model of a folder, by an engine that lives for this call.

    `segment` is a file's name in the stage's scratch folder.
    """
    lengths = [len(request.prompt_ids) for _, request in keyed]
    sampler = open_sampler(
        model,
        context.machine,
        max_length=max(lengths) + sampling.max_new_tokens,
        mean_length=sum(lengths) // len(lengths) + sampling.max_new_tokens,
        on_cluster=True,
        notify=context.note,
        scratch=context.scratch,
        figures=context.figures,
    )
    try:
        return sample_all(
            sampler,
            keyed,
            sampling,
            segment=context.scratch / segment,
            machine=context.machine,
            on_block=on_block,
            drawing=context.drawing,
        )
    finally:
        sampler.close()


def telling(context: Context, total: int, *, unit: str, before: int = 0) -> OnBlock:
    """Tells the progress of so many requests."""
    done = before
    context.progress(done, total, unit=unit)

    def tell(indices: Sequence[int], completions: Sequence[Completion]) -> None:
        nonlocal done
        done += len(indices)
        context.progress(done, total, unit=unit)

    return tell


def sample_all(
    sampler: Sampler,
    keyed: Sequence[tuple[str, Request]],
    sampling: SamplingConfig,
    *,
    segment: Path,
    machine: Machine,
    on_block: OnBlock = lambda indices, completions: None,
    drawing: Callable[[], OnEnd] = lambda: nobody,
) -> list[Completion]:
    """`sample_blocks`, or `sample_stream` on a machine that draws so."""
    block = machine.requests_at_once
    sample = sample_stream if machine.draws_full else partial(sample_blocks, drawing=drawing)
    return sample(sampler, keyed, sampling, segment=segment, block=block, on_block=on_block)


def sample_blocks(
    sampler: Sampler,
    keyed: Sequence[tuple[str, Request]],
    sampling: SamplingConfig,
    *,
    segment: Path,
    block: int,
    on_block: OnBlock = lambda indices, completions: None,
    drawing: Callable[[], OnEnd] = lambda: nobody,
) -> list[Completion]:
    """One completion a keyed request, in order; finished blocks come from `segment`.

    `on_block` gets every block as soon as it is there, replayed ones too; what `drawing` gives
    hears of each completion of a block that is drawn.
    """
    kept = kept_completions(keyed, segment)
    completions: list[Completion] = []
    for start in range(0, len(keyed), block):
        part = keyed[start : start + block]
        if all(key in kept for key, _ in part):
            fresh = [kept[key] for key, _ in part]
        else:
            fresh = sampler.sample([request for _, request in part], sampling, drawing())
            rows = ({"key": key, **c.row()} for (key, _), c in zip(part, fresh, strict=True))
            append_guarded(segment, rows)
        completions += fresh
        on_block(range(start, start + len(part)), fresh)
    return completions
