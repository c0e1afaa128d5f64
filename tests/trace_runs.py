"""Trace runs in a folder, to be disturbed and compared, and an engine that knows its batch."""

import hashlib
import io
import itertools
import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from factory.core.artifacts import Artifact, FileEntry, Inputs, Manifest, sha256_file
from factory.core.context import Context, Metrics
from factory.core.jsonl import read_records, write_records
from factory.core.machine import Machine
from factory.core.records import Problem, SamplingConfig, Trace
from factory.models.tiny import byte_tokenizer
from factory.sampling import Completion, Request
from factory.sampling.sampler import OnEnd, nobody
from factory.sampling.streams import Supply
from factory.stages.generate import run as generate
from factory.stages.generate.config import GenerateConfig

BLOCK = 128
FORK = multiprocessing.get_context("fork")


class Script:
    """An engine whose replies are a function of the batch: right, wrong, cut and looping ones."""

    name = "script"

    def sample(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_end: OnEnd = nobody
    ) -> list[Completion]:
        batch = hashlib.sha256(repr([r.seed for r in requests]).encode()).hexdigest()[:8]
        return [self._complete(request, batch, sampling) for request in requests]

    def _complete(self, request: Request, batch: str, sampling: SamplingConfig) -> Completion:
        chance = random.Random(request.seed)
        # The problem's number stands in its prompt, and even ones are easy.
        is_easy = sum(request.prompt_ids) % 2 == 0
        answer = 7 if chance.random() < (0.8 if is_easy else 0.1) else 8
        text = f"<think> {batch} {chance.random()} </think>\n<answer> {answer} </answer>"
        length = chance.randrange(sampling.max_new_tokens * 3 // 2) + 1
        reason = "stop" if length <= sampling.max_new_tokens else "length"
        length = min(length, sampling.max_new_tokens)
        if sampling.loop is not None and chance.random() < 0.05:
            reason = "loop"
        return Completion(text, (5,) * length, (0.0,) * length, reason)

    def load_weights(self, weights: Any) -> None:
        raise AssertionError("a trace run loads no weights into its engine")

    def close(self) -> None:
        pass


class Stepper(Script):
    """Streams: so many rows take a step together, each ends after as many as it has tokens."""

    def __init__(self, rows: int, *, seconds: float = 0.0) -> None:
        self.rows = rows
        self._seconds = seconds
        self.steps = 0

    def stream(self, supply: Supply, sampling: SamplingConfig) -> Iterator[tuple[int, Completion]]:
        going: dict[int, Completion] = {}
        ends: dict[int, int] = {}
        numbers = itertools.count()
        while True:
            for request in supply.take(self.rows - len(going)):
                number, limit = next(numbers), request.new_tokens(sampling)
                limited = sampling.model_copy(update={"max_new_tokens": limit})
                going[number] = self._complete(request, "none", limited)
                ends[number] = self.steps + going[number].tokens
            for number in supply.given_up():
                del going[number]
            if not going:
                return
            time.sleep(self._seconds)
            self.steps += 1
            for number in [number for number in going if ends[number] == self.steps]:
                yield number, going.pop(number)


def entry(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=sha256_file(path))


def sealed(folder: Path, kind: Any, names: Sequence[str]) -> Artifact:
    manifest = Manifest(
        kind=kind, name="given", stage="given", stage_version=1, fingerprint="f" * 64, content="",
        config={}, inputs={}, seed=0, metrics={}, versions={}, machine={}, commit="", dirty=False,
        seconds=0.0, peak_memory_gib=0.0, created="",
        files={name: entry(folder / name) for name in names},
    )  # fmt: skip
    return Artifact(folder, manifest)


def inputs_of(folder: Path, *, problems: int, model: Path | None = None) -> Inputs:
    folder.mkdir()
    requested = (
        Problem(id=f"sums/{n}", prompt=f"{n}?", reference="7", kind="exact", source="sums")
        for n in range(problems)
    )
    write_records(folder / "train.jsonl", requested)
    if model is None:
        byte_tokenizer().save_pretrained(folder)
    return Inputs(
        problems=sealed(folder, "problems", ["train.jsonl"]),
        model=sealed(model or folder, "model", []),
    )


class Run:
    """One trace run in a folder, which may be started again and again."""

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        *,
        block: int = BLOCK,
        engine: Any = "transformers",
        drawing: Literal["auto", "exact", "full"] = "auto",
        **fields: Any,
    ) -> None:
        document = {"kind": "generate", "model": "m", "problems": "p", **fields}
        self.config = GenerateConfig.model_validate(document)
        self.inputs, self.out, self.scratch = inputs, folder / "out", folder / "scratch"
        self.machine = Machine(device="cpu", threads=1, engine=engine, block=block, drawing=drawing)
        self.events = io.StringIO()
        self.figures: Metrics = {}
        self.scratch.mkdir(parents=True)

    def here(self) -> dict[str, float]:
        """The whole run in this process; its metrics."""
        self.out.mkdir(exist_ok=True)
        context = Context(5, self.machine, self.scratch, self.events, figures=self.figures)
        return generate.run(self.config, self.inputs, self.out, context)

    def start(self) -> Any:
        process = FORK.Process(target=self.here, daemon=True)
        process.start()
        return process

    def written(self) -> int:
        path = self.scratch / "traces.jsonl"
        return path.stat().st_size if path.exists() else 0

    def killed(self, kills: int, *, expected_bytes: int, seed: int = 3) -> None:
        """Kill it so many times at random places, and then let it end.

        On a busy machine it may end before one of the last blows: half of them must strike.
        """
        chance, struck = random.Random(seed), 0
        places = sorted(chance.random() for _ in range(kills))
        for position in places:
            process = self.start()
            while process.is_alive() and self.written() < position * expected_bytes:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.02)
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -9
            struck += 1
        assert 2 * struck >= kills, f"{struck} of {kills} blows struck"
        process = self.start()
        process.join()
        assert process.exitcode == 0

    def bytes(self) -> bytes:
        return (self.out / "traces.jsonl").read_bytes()

    def traces(self) -> list[Trace]:
        return list(read_records(self.out / "traces.jsonl", Trace))
