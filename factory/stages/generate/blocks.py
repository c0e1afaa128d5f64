"""Drawing traces in blocks: the same bytes after any resume."""

from array import array
from collections.abc import Iterator
from pathlib import Path

from factory.core.context import Context, Metrics
from factory.core.files import naming
from factory.core.records import Problem
from factory.sampling.segment import Segment
from factory.stages.generate.drawing import Line
from factory.stages.generate.writer import Counts, Tally, Writer, metrics


def write_traces(
    writer: Writer, problems: Iterator[Problem], *, count: int, out: Path, context: Context
) -> Metrics:
    """Draw what an earlier attempt has not, and write all of it in order; the stage's metrics."""
    config = writer.config
    line = Line(
        problems, samples=config.samples, max_new_tokens=config.sampling.max_new_tokens,
        enough=config.enough, hopeless_after=config.hopeless_after,
        length_stops=config.length_stops,
    )  # fmt: skip
    tally = Tally(limit=config.max_ungradable)
    total = count * config.samples
    # Where the trace of each (problem, sample) begins in the segment; 0 stands for none.
    begins = array("Q", bytes(8 * total))
    context.progress(0, total, unit="samples")
    segment = Segment(context.scratch / "traces.jsonl")
    try:
        while draws := line.next(context.machine.requests_at_once):
            keys = [(draw.problem.id, draw.sample, draw.max_new_tokens) for draw in draws]
            block = segment.replay(keys)
            if block is None:
                traces = writer.draw(draws, context.drawing())
                block = list(zip(segment.append(traces), traces, strict=True))
            for draw, (begin, trace) in zip(draws, block, strict=True):
                if line.add(draw, trace):
                    begins[draw.index * config.samples + draw.sample] = begin + 1
                    tally.add(draw.problem, trace)
            # Of all samples: what is certain to be too many at the end stops the run at once.
            tally.check_ungradable(total)
            context.progress(
                line.settled, total, unit="samples", verified=tally.correct, tokens=tally.tokens,
                correct_share=tally.correct / max(1, tally.traces),
            )  # fmt: skip
        tally.check_ungradable(tally.judged)
        if segment.cut_off:
            context.note(
                f"{segment.cut_off} bytes of traces from other blocks were drawn anew: the machine "
                "file's `block` had changed"
            )
        path = out / "traces.jsonl"
        with naming(path), path.open("wb") as file:
            file.writelines(segment.lines(begin - 1 for begin in begins if begin))
    finally:
        segment.close()
    counts = Counts(line.answered, line.solved, line.hopeless, line.dropped, line.retried)
    return metrics(config, tally, counts)
