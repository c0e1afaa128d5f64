"""A large trace set through the data path: seconds, rows a second, peak memory of any process.

    python bench/scale.py [--rows 100000 --bytes 1000] [--ratio] [--store FOLDER]

Synthetic rows (question, reasoning, answer in JSON Lines: 1 % repeat an earlier one, 2 % differ
from an earlier one in a word, 0.1 % hold a question of GSM8K-100) are imported, audited, selected,
mixed with near duplicates and held-out questions left out, tokenised for the embedded model, and
packed into batches of one epoch. All but the last two are the factory's own commands with all that
belongs to them: hashing, sealing, verifying. `peak` is the largest resident set of any process,
pages of mapped files included; `private` is without these. `busiest` is the processor time of the
one process that works longest: no number of cores makes a step faster. `--ratio` does it with a
tenth of the rows first.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from factory.core.artifacts import open_artifact
from factory.core.interpreter import program_command

SYLLABLES = [
    "ka",
    "to",
    "mi",
    "ren",
    "sol",
    "va",
    "pe",
    "lu",
    "dor",
    "an",
    "is",
    "the",
    "we",
    "qu",
    "or",
    "bli",
    "sta",
    "gra",
]
SMALL = [
    "the",
    "a",
    "of",
    "so",
    "we",
    "then",
    "number",
    "sum",
    "is",
    "and",
    "to",
    "find",
    "because",
    "wait",
    "check",
]
LOOK_SECONDS = 0.05
RECIPE = """
name: scale
stages:
  base: {{kind: model, source: {{type: embedded}}}}
  held: {{kind: problems, sources: [{{type: bundled, name: gsm8k_100}}]}}
  traces: {{kind: imported, source: {{type: local, path: {rows}}}, licence: apache-2.0}}
  selected: {{kind: select, traces: traces, outcomes: [correct, ungradable]}}
  mixed: {{kind: mix, parts: [{{traces: selected}}], unlike: [held], near_duplicates: 0.8}}
"""
STEPS = {"traces": "import", "selected": "select", "mixed": "mix"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=1000, help="of a row")
    parser.add_argument("--ratio", action="store_true", help="a tenth of the rows before")
    parser.add_argument("--store", type=Path, help="kept afterwards; else a temporary folder")
    parser.add_argument("--tokenise", nargs=3, type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def rows(count: int, size: int) -> Iterator[dict[str, str]]:
    """The synthetic rows."""
    from factory.problems.benchmark import benchmark_problems

    stream = random.Random(1)
    leaks = [problem.prompt for problem in benchmark_problems("gsm8k_100")]
    words = ["".join(stream.choices(SYLLABLES, k=stream.choice((1, 2, 2, 3)))) for _ in range(8000)]
    words += SMALL * 200

    def text(characters: int) -> str:
        chosen = stream.choices(words, k=characters // 5)
        for end in range(9, len(chosen), 11):
            chosen[end] += "."
        return " ".join(chosen)

    earlier: list[dict[str, str]] = []
    for number in range(count):
        chance = stream.random()
        if earlier and chance < 0.01:
            yield stream.choice(earlier)
            continue
        row = {"question": f"{text(120)} {number}?", "reasoning": text(size - 200), "answer": "7"}
        if earlier and chance < 0.03:
            row = dict(stream.choice(earlier))
            row["reasoning"] = row["reasoning"].replace(" the ", f" {number} ", 1)
        elif chance < 0.031:
            row["question"] = stream.choice(leaks)
        elif len(earlier) < 2000:
            earlier.append(row)
        yield row


class Peaks:
    """The largest memory of any process below this one, MiB; and each one's processor seconds, as
    they were when it was last looked at."""

    def __init__(self) -> None:
        self.resident = self.private = 0.0
        self.processor: dict[int, float] = {}

    def watch(self, process: subprocess.Popen[bytes]) -> int:
        """Look again and again until the process ends; its status."""
        while process.poll() is None:
            for child in _tree(process.pid):
                self._look(child)
            time.sleep(LOOK_SECONDS)
        return process.returncode

    def _look(self, process: int) -> None:
        try:
            lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
            times = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        except OSError:  # it has ended
            return
        ticks = sum(map(int, times.split()[11:13]))  # utime and stime: fields 14 and 15 of proc(5)
        self.processor[process] = ticks / os.sysconf("SC_CLK_TCK")
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        self.resident = max(self.resident, _mebibytes(fields.get("VmHWM", "0")))
        self.private = max(self.private, _mebibytes(fields.get("RssAnon", "0")))


def _mebibytes(text: str) -> float:
    return int(text.split()[0]) / 2**10


def _tree(process: int) -> list[int]:
    processes = [process]
    for parent in processes:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                processes += map(int, task.read_text().split())
            except OSError:  # it has ended
                continue
    return processes


@dataclass
class Figures:
    """Of a step, or of all."""

    seconds: float
    processor: float
    """Seconds, of all processes together."""
    busiest: float
    resident: float
    """MiB, as `private`."""
    private: float

    def print(self, name: str, count: int) -> None:
        print(
            f"| {name} | {self.seconds:.1f} | {self.processor:.1f} | {self.busiest:.1f} | "
            f"{count / self.seconds:,.0f} | {self.resident:.0f} | {self.private:.0f} |",
            flush=True,
        )


def run(name: str, command: list[str], count: int) -> Figures:
    """Run a command, print its line of the table."""
    started, peaks = time.monotonic(), Peaks()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        status = peaks.watch(process)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if status:
        sys.exit(f"{name}: {text[-2000:]}")
    seconds, times = time.monotonic() - started, peaks.processor.values()
    step = Figures(seconds, sum(times), max(times), peaks.resident, peaks.private)
    step.print(name, count)
    return step


def tokenise(traces: Path, model: Path, scratch: Path) -> None:
    """Tokenise a set, then go through one epoch of packed batches, as `sft` does before a pass."""
    from transformers import AutoTokenizer

    from factory.text.chat import PromptConfig
    from factory.trainers.rows import plan_order, token_rows
    from factory.trainers.stored_rows import stored_rows

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    prompt = PromptConfig() if tokenizer.chat_template else PromptConfig(style="zero")
    made = token_rows(open_artifact(traces).traces(), prompt, tokenizer)
    stored = stored_rows(scratch / "rows.arrow", made, is_first=True)
    order = plan_order(
        stored.tokens.tolist(), epochs=1, batch=64, micro_batch=8, level=True, seed=1
    )
    dataset, tokens = stored.in_order(order), 0
    for start in range(0, len(order), 64):
        batch = dataset[start : start + 64]
        tokens += sum(map(len, batch["input_ids"]))
    print(json.dumps({"rows": len(stored), "tokens": tokens}))


def main() -> None:
    options = parse_arguments()
    if options.tokenise:
        tokenise(*options.tokenise)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder)
        sizes = [options.rows // 10, options.rows] if options.ratio else [options.rows]
        made = [measure(size, options.bytes, store / str(size)) for size in sizes]
    if options.ratio:
        few, many = made
        print(f"\nA tenth of the rows against {options.rows:,}, times as much:")
        print(f"{many.seconds / few.seconds:.1f} in seconds")
        print(f"{many.processor / few.processor:.1f} in processor seconds")


def measure(count: int, size: int, store: Path) -> Figures:
    """A table of all steps over so many rows of so many bytes."""
    store.mkdir(parents=True, exist_ok=True)
    source, recipe = store / "rows.jsonl", store / "scale.yaml"
    with source.open("w", encoding="utf-8") as file:
        for row in rows(count, size):
            file.write(json.dumps(row) + "\n")
    recipe.write_text(RECIPE.format(rows=source), encoding="utf-8")
    made = ["--store", str(store / "artifacts"), "--plain"]
    for stage in ("base", "held"):
        quiet = [*program_command("build", str(recipe), "--until", stage), *made]
        subprocess.run(quiet, check=True, capture_output=True)
    written = source.stat().st_size / 2**20
    print(f"\n{count:,} rows, {written:,.0f} MiB, {len(os.sched_getaffinity(0))} cores\n")
    print("| step | seconds | processor s | busiest | rows/s | peak MiB | private MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    steps = []
    for stage, name in STEPS.items():
        build = [*program_command("build", str(recipe), "--until", stage), *made]
        steps.append(run(name, build, count))
        if stage == "traces":
            audit = program_command("audit", "traces", "--store", str(store / "artifacts"))
            steps.append(run("audit", audit, count))
    mixed, base = (newest(store / "artifacts", name) for name in ("mixed", "base"))
    command = [sys.executable, __file__, "--tokenise", str(mixed), str(base), str(store)]
    (store / "rows.arrow").unlink(missing_ok=True)
    steps.append(run("tokenise, pack", command, count))
    together = Figures(
        seconds=sum(step.seconds for step in steps),
        processor=sum(step.processor for step in steps),
        busiest=sum(step.busiest for step in steps),
        resident=max(step.resident for step in steps),
        private=max(step.private for step in steps),
    )
    together.print("all", count)
    return together


def newest(store: Path, name: str) -> Path:
    """The artifact of a stage."""
    return max(store.glob(f"{name}-*/manifest.json"), key=lambda path: path.stat().st_mtime).parent


if __name__ == "__main__":
    main()
