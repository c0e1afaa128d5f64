"""Drawing traces without blocks: each is graded and on disk as soon as its completion has ended.

Which samples are kept depends on the completions alone, not on the order in which they end: where
`enough` or `hopeless_after` ends a problem, those up to the sample that does, in the order of the
samples. So short completions, which end first, are no more frequent among traces than the model
writes them.
"""

import math
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from factory.core.context import Context, Metrics
from factory.core.files import naming
from factory.core.jsonl import parse_record
from factory.core.records import Problem, Trace
from factory.sampling.sampler import Completion, Request
from factory.sampling.segment import Segment
from factory.sampling.streams import Beside, stream
from factory.stages.generate.config import GenerateConfig
from factory.stages.generate.drawing import Draw, Retry
from factory.stages.generate.writer import Counts, Tally, Writer, metrics

MISSING, CUT, WRONG, RIGHT = range(4)
"""What is there of a sample: nothing; a completion that is to be drawn once more; a trace."""
AHEAD = 4
"""Samples for each row of the engine that are there to choose the longest from."""


@dataclass
class _Open:
    """A problem that may still need samples."""

    index: int
    problem: Problem
    left: list[int]
    """Samples that nobody has asked for, the next one last."""
    again: list[int]
    """Samples that are to be drawn under the higher limit."""
    going: set[int]


class Flow:
    """Samples of problems as rows of an engine become free, in whatever order they come back.

    In memory are the problems that an engine works at and a few times as many that come next, nine
    bytes for each sample, and eight for each problem.
    """

    def __init__(self, problems: Iterator[Problem], config: GenerateConfig, *, count: int) -> None:
        self._new = enumerate(problems)
        self._config = config
        self._states = bytearray(count * config.samples)
        self._begins = array("Q", bytes(8 * count * config.samples))
        self._tokens = array("Q", bytes(8 * count))
        """Of the traces of a problem, all together."""
        self._open: dict[int, _Open] = {}
        self._given_up: list[tuple[int, int]] = []
        self._retired = 0

    @property
    def is_done(self) -> bool:
        """Whether no sample is missing that is needed; asks for the next problem to know it."""
        return not self._open and next(self._opened(), None) is None

    @property
    def settled(self) -> int:
        """Samples that are there or that nobody needs any more."""
        samples = self._config.samples
        waiting = sum(len(e.left) + len(e.again) + len(e.going) for e in self._open.values())
        return (self._retired + len(self._open)) * samples - waiting

    @property
    def first_limit(self) -> int:
        """New tokens of a completion that is not drawn again."""
        return self._config.sampling.max_new_tokens

    def is_dropped(self, trace: Trace) -> bool:
        """Whether the recipe wants a trace to be left out."""
        return trace.finish_reason == "length" and self._config.length_stops == "drop"

    def put(self, index: int, trace: Trace, begin: int) -> None:
        """Take note of a trace, which lies at `begin` in the segment."""
        sample = index * self._config.samples + trace.sample
        self._begins[sample] = begin
        self._tokens[index] += trace.completion_tokens
        is_cut = trace.finish_reason == "length"
        is_first = trace.sampling.max_new_tokens == self.first_limit
        if is_cut and is_first and isinstance(self._config.length_stops, Retry):
            self._states[sample] = CUT
        else:
            is_right = trace.verdict.is_correct and not self.is_dropped(trace)
            self._states[sample] = RIGHT if is_right else WRONG

    def take(self, count: int) -> list[Draw]:
        """The next draws, at most `count`: those that are to be drawn again, what problems need if
        all under way turn out right, and where no problem is left, further samples of the open."""
        draws: list[Draw] = []
        if not count:
            return draws
        for entry in self._open.values():
            while entry.again and len(draws) < count:
                draws.append(self._draw(entry, entry.again))
        is_new = True
        while is_new and len(draws) < count:
            draws += self._taken(self._needed, count - len(draws))
            is_new = len(draws) < count and self._open_lot(count)
        return draws + self._taken(self._allowed, count - len(draws))

    def _taken(self, wanted: Callable[[_Open], int], count: int) -> list[Draw]:
        """One sample of each open problem that nobody has asked yet, then those of the problems
        whose completions have been the longest, so that few long ones are left at the end."""
        draws: list[Draw] = []
        opened = sorted(self._open.values(), key=self._expected, reverse=True) if count else []
        for entry in opened:
            if len(entry.left) == self._config.samples and wanted(entry) and len(draws) < count:
                draws.append(self._draw(entry, entry.left))
        for entry in opened:
            for _ in range(min(wanted(entry), count - len(draws))):
                draws.append(self._draw(entry, entry.left))
        return draws

    def _expected(self, entry: _Open) -> float:
        """Mean tokens of its completions; of none, more than any: they have not ended yet."""
        samples = self._config.samples
        first = entry.index * samples
        ended = samples - self._states.count(MISSING, first, first + samples)
        return self._tokens[entry.index] / ended if ended else math.inf

    def _open_lot(self, count: int) -> bool:
        """Whether there were further problems; they are open now, enough to choose among."""
        rows = count + sum(len(entry.going) for entry in self._open.values())
        size = -(-AHEAD * rows // self._config.samples)
        return len([*islice(self._opened(), size)]) > 0

    def settle(self, draw: Draw, trace: Trace, begin: int) -> None:
        """Take note of the trace of a draw that `take` gave."""
        self.put(draw.index, trace, begin)
        entry = self._open.get(draw.index)
        if entry is None:
            return
        entry.going.discard(draw.sample)
        if self._states[draw.index * self._config.samples + draw.sample] == CUT:
            entry.again.append(draw.sample)
        if self._last(draw.index) is not None:
            del self._open[draw.index]
            self._retired += 1
            self._given_up += [(entry.index, sample) for sample in entry.going]

    def given_up(self) -> list[tuple[int, int]]:
        """(problem, sample) of draws under way that nobody needs any more, since the last call."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def kept(self, index: int) -> Iterator[int]:
        """Where the traces of a problem lie in the segment, up to its last, dropped ones too."""
        last, first = self._last(index), index * self._config.samples
        if last is not None:
            yield from self._begins[first : first + last + 1]

    def _opened(self) -> Iterator[_Open]:
        """Further problems that miss samples, each open from now on."""
        samples = self._config.samples
        for index, problem in self._new:
            if self._last(index) is not None:
                self._retired += 1
                continue
            states = self._states[index * samples : (index + 1) * samples]
            entry = self._open[index] = _Open(
                index,
                problem,
                [sample for sample in reversed(range(samples)) if states[sample] == MISSING],
                [sample for sample in range(samples) if states[sample] == CUT],
                set(),
            )
            yield entry

    def _needed(self, entry: _Open) -> int:
        enough, allowed = self._config.enough, self._allowed(entry)
        if enough is None:
            return allowed
        missing = enough - self._verified(entry) - len(entry.going) - len(entry.again)
        return max(0, min(allowed, missing))

    def _allowed(self, entry: _Open) -> int:
        """How many samples may be asked for: a problem that may be hopeless waits for its first."""
        hopeless_after = self._config.hopeless_after
        if hopeless_after is None or self._verified(entry):
            return len(entry.left)
        return sum(sample < hopeless_after for sample in entry.left)

    def _verified(self, entry: _Open) -> int:
        first = entry.index * self._config.samples
        return self._states.count(RIGHT, first, first + self._config.samples)

    def _draw(self, entry: _Open, samples: list[int]) -> Draw:
        stops, sample = self._config.length_stops, samples.pop()
        again = stops.retry if samples is entry.again and isinstance(stops, Retry) else None
        entry.going.add(sample)
        return Draw(entry.index, entry.problem, sample, again or self.first_limit)

    def _last(self, index: int) -> int | None:
        """The sample that completes a problem; None while one before it is missing."""
        samples, enough, verified = self._config.samples, self._config.enough, 0
        for sample in range(samples):
            state = self._states[index * samples + sample]
            if state in (MISSING, CUT):
                return None
            verified += state == RIGHT
            if verified == enough or (not verified and sample + 1 == self._config.hopeless_after):
                return sample
        return samples - 1


class _Drawing:
    """The supply of an engine: what it asks comes from the flow, what it answers is graded and put
    on disk by a thread of its own while the engine goes on, before the flow knows of it."""

    def __init__(
        self, writer: Writer, flow: Flow, segment: Segment, tally: Tally, context: Context
    ) -> None:
        self._writer, self._flow, self._segment = writer, flow, segment
        self._tally, self._context = tally, context
        self._draws: dict[int, Draw] = {}
        """Under way, by the number of the request."""
        self._numbers: dict[tuple[int, int], int] = {}
        self._taken = 0

    def run(self, total: int) -> None:
        self._total = total
        with ThreadPoolExecutor(1) as thread:
            self._grading = Beside(self._grade, thread)
            while not self._flow.is_done:
                self._taken, self._draws, self._numbers = 0, {}, {}
                sampler, block = self._writer.sampler, self._context.machine.requests_at_once
                for number, completion in stream(sampler, self, self._writer.sampling, block=block):
                    self._grading.add((self._draws.pop(number), completion))
                    self._settle()
                self._settle(is_last=True)

    def take(self, count: int) -> Sequence[Request]:
        self._settle()
        draws = self._flow.take(count)
        for draw in draws:
            self._draws[self._taken] = draw
            self._numbers[draw.index, draw.sample] = self._taken
            self._taken += 1
        return self._writer.requests(draws)

    def given_up(self) -> Collection[int]:
        numbers = [self._numbers.get(key, -1) for key in self._flow.given_up()]
        return [number for number in numbers if self._draws.pop(number, None) is not None]

    def _grade(self, answered: Sequence[tuple[Draw, Completion]]) -> list[tuple[Draw, Trace, int]]:
        """Each draw with its trace, and where that lies in the segment."""
        verdicts = self._writer.pool.grade(self._writer.items(answered))
        traces = self._writer.traces(answered, verdicts)
        begins = self._segment.append(traces)
        return [
            (draw, trace, begin)
            for (draw, _), trace, begin in zip(answered, traces, begins, strict=True)
        ]

    def _settle(self, *, is_last: bool = False) -> None:
        """Tell the flow, and whoever watches, what is on disk since."""
        tally = self._tally
        for graded in self._grading.results(is_last=is_last):
            for draw, trace, begin in graded:
                self._flow.settle(draw, trace, begin)
                tally.add(draw.problem, trace)
            # Of all samples: what is certain to be too many at the end stops the run at once.
            tally.check_ungradable(self._total)
            self._context.progress(
                self._flow.settled,
                self._total,
                unit="samples",
                correct_share=tally.correct / max(1, tally.traces),
                verified=tally.correct,
                tokens=tally.tokens,
            )


def stream_traces(
    writer: Writer, read: Callable[[], Iterator[Problem]], *, count: int, out: Path,
    context: Context,
) -> Metrics:  # fmt: skip
    """As `write_traces`, without blocks; `read` gives the problems, each time from the first."""
    config = writer.config
    flow, tally = Flow(read(), config, count=count), Tally(limit=config.max_ungradable)
    segment = Segment(context.scratch / "traces.jsonl")
    try:
        if segment.size:
            _recover(segment, read(), flow, tally)
        _Drawing(writer, flow, segment, tally, context).run(count * config.samples)
        tally.check_ungradable(tally.judged)
        path, kept, counts = out / "traces.jsonl", Tally(limit=config.max_ungradable), Counts()
        with naming(path), path.open("wb") as file:
            for index, problem in enumerate(read()):
                before, begins = (kept.traces, kept.correct), [*flow.kept(index)]
                for begin in begins:
                    (line,) = segment.lines([begin])
                    trace = parse_record(line, Trace, str(path))
                    counts.retried += trace.sampling.max_new_tokens > flow.first_limit
                    if flow.is_dropped(trace):
                        counts.dropped += 1
                        continue
                    kept.add(problem, trace)
                    file.write(line)
                counts.answered += kept.traces > before[0]
                is_solved = kept.correct > before[1]
                counts.solved += is_solved
                counts.hopeless += not is_solved and len(begins) < config.samples
    finally:
        segment.close()
    return metrics(config, kept, counts)


def _recover(segment: Segment, problems: Iterator[Problem], flow: Flow, tally: Tally) -> None:
    """Give the flow what an earlier attempt has drawn."""
    entries = {problem.id: (index, problem) for index, problem in enumerate(problems)}
    for begin, trace in segment.recover():
        index, problem = entries[trace.problem_id]
        flow.put(index, trace, begin)
        tally.add(problem, trace)
