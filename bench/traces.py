"""Trace tokens a second: plain vLLM and plain transformers against the factory's `generate`.

    python bench/traces.py [--model MODEL_FOLDER|tiny] [--problems 64 --samples 4 --tokens 64]
                           [--lengths long-tail --rows 64] [--eager] [--one-process]

Every side runs in a process of its own, one after the other, in float32 with the same number of
threads, prompts and sampling settings, and draws `samples` completions a problem:

    vLLM               LLM.generate of all prompts at once, n = samples, as it comes, but for the
                       processors: on a CPU it would keep one back for its service thread. It
                       compiles the model before the clock starts; --eager leaves that out, and
                       --one-process its engine's process, which never sleeps
    engine             ours, all prompts at once in one call: neither graded nor on disk
    ours, vLLM         the factory's `generate` with that engine: fixed blocks, a seed a sample,
                       every block graded and on disk before the next
    ours, vLLM, full   the same with `drawing: full`: no blocks, graded and on disk one by one
    transformers       model.generate, `block` completions at once, padded on the left
    ours, transformers the factory's `generate` with its own decode loop
    ours, transformers, full

With `--lengths long-tail` every completion has a stated length, the same for all sides, and no
token ends it: log-normal with a median of 0.183 of `tokens` and a sigma of 0.9, cut at `tokens`, as
R1's (6,000 of 32,768). `rows` decode at once on each side; plain vLLM gets all prompts at once. The
share of rows that are busy is counted, and simulated for the same lengths in the questions' order;
in another order a short run may end in a longer tail.

The clock runs from prompts as text to the last completion as text, for ours to the finished
traces.jsonl. Models are loaded and have answered once before. Tokens are those that the side itself
drew, the end-of-text token among them; the sides draw by different random numbers, so they do not
draw the same ones. On a machine with neighbours compare processor seconds, with one thread.
Without --model the embedded SmolLM2-135M is converted into a temporary folder.
"""

import argparse
import itertools
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from grpo_step import save_model
from sides import passed_on, run_alone

from factory.core.machine import Machine, environment
from factory.core.records import Problem, SamplingConfig
from factory.core.seeds import derive
from factory.cost.filling import fill

SIDES = {
    "vllm": "vLLM",
    "engine": "ours, the engine alone",
    "ours-vllm": "ours, vLLM",
    "ours-vllm-full": "ours, vLLM, full",
    "transformers": "transformers",
    "ours-transformers": "ours, transformers",
    "ours-transformers-full": "ours, transformers, full",
}
Measured = dict[str, float]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="", help="a folder, or `tiny`")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="new ones, at most")
    parser.add_argument("--lengths", choices=["own", "long-tail"], default="own")
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--rows", type=int, default=0, help="decode at once; 0: the block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eager", action="store_true", help="plain vLLM without compiling")
    parser.add_argument("--one-process", action="store_true", help="plain vLLM's engine in it")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def problems_of(count: int) -> list[Problem]:
    """Sums of two numbers, all different."""
    return [
        Problem(
            id=f"sums/{n}", prompt=f"What is {17 + 3 * n} + {401 + 7 * n}?",
            reference=str(418 + 10 * n), kind="exact", source="sums",
        )
        for n in range(count)
    ]  # fmt: skip


def sampling_of(options: argparse.Namespace) -> SamplingConfig:
    return SamplingConfig(temperature=0.6, top_p=0.95, max_new_tokens=options.tokens)


def prompts_of(tokenizer: Any, problems: list[Problem]) -> list[str]:
    from factory.text.chat import PromptConfig, render

    return [render(problem.prompt, PromptConfig(), tokenizer) for problem in problems]


def timed(work: Callable[[], int]) -> Measured:
    """Tokens that some work drew, its seconds, and those of processors, of its children too."""
    began, before = time.monotonic(), processor_seconds()
    tokens = work()
    seconds, processor = time.monotonic() - began, processor_seconds() - before
    return {"tokens": tokens, "seconds": seconds, "processor": processor}


def processor_seconds() -> float:
    own = psutil.Process()
    times = [each.cpu_times() for each in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def length_of(options: argparse.Namespace, problem: int, sample: int) -> int:
    """Tokens of a completion under `--lengths long-tail`."""
    chance = random.Random(derive(0, "length", problem, sample))
    return min(options.tokens, round(0.183 * options.tokens * chance.lognormvariate(0, 0.9)) + 1)


def plain_vllm(options: argparse.Namespace, folder: Path) -> Measured:
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    prompts = prompts_of(AutoTokenizer.from_pretrained(folder), problems_of(options.problems))
    engine = LLM(
        str(folder), dtype="float32", max_model_len=512 + options.tokens,
        enforce_eager=options.eager, **({"max_num_seqs": options.rows} if options.rows else {}),
    )  # fmt: skip
    wanted = sampling_of(options)
    settings: Any = SamplingParams(
        n=options.samples, temperature=wanted.temperature, top_p=wanted.top_p,
        max_tokens=wanted.max_new_tokens,
    )  # fmt: skip
    if options.lengths == "long-tail":
        pairs = [(n, m) for n in range(options.problems) for m in range(options.samples)]
        prompts = [prompts[number] for number, _ in pairs]
        settings = [
            SamplingParams(
                temperature=wanted.temperature, top_p=wanted.top_p, ignore_eos=True,
                max_tokens=length_of(options, *pair),
            )
            for pair in pairs
        ]  # fmt: skip

    def work(prompts: list[str] = prompts) -> int:
        outputs = engine.generate(prompts, first(settings, len(prompts)), use_tqdm=False)
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

    work(prompts[:1])
    count_steps = counted(engine.llm_engine, "step")
    figures = timed(work)
    if options.rows:
        figures["busy"] = figures["tokens"] / (count_steps() * options.rows)
    return figures


def first(settings: Any, count: int) -> Any:
    return settings[:count] if isinstance(settings, list) else settings


def plain_transformers(options: argparse.Namespace, folder: Path) -> Measured:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    wanted = sampling_of(options)
    prompts = prompts_of(tokenizer, problems_of(options.problems))
    rows = max(1, options.block // options.samples)

    def work(prompts: list[str] = prompts) -> int:
        tokens = 0
        for first in range(0, len(prompts), rows):
            batch = tokenizer(
                prompts[first : first + rows], return_tensors="pt", padding=True,
                add_special_tokens=False,
            )  # fmt: skip
            out = model.generate(
                **batch, do_sample=True, temperature=wanted.temperature, top_p=wanted.top_p,
                top_k=0, max_new_tokens=options.tokens, num_return_sequences=options.samples,
            )[:, batch["input_ids"].shape[1] :]  # fmt: skip
            tokenizer.batch_decode(out, skip_special_tokens=True)
            for row in out.tolist():
                end = tokenizer.eos_token_id
                tokens += row.index(end) + 1 if end in row else len(row)
        return tokens

    work(prompts[:1])
    return timed(work)


def ours(options: argparse.Namespace, folder: Path) -> Measured:
    import torch
    from transformers import AutoTokenizer

    from factory.core.context import Context
    from factory.grading import GradingPool
    from factory.sampling import Request, open_sampler
    from factory.stages.generate.blocks import write_traces
    from factory.stages.generate.config import GenerateConfig
    from factory.stages.generate.drawing import Draw
    from factory.stages.generate.streaming import stream_traces
    from factory.stages.generate.writer import Writer

    class Scripted(Writer):
        """Asks for completions of stated lengths."""

        def requests(self, draws: Any) -> list[Request]:
            requests = super().requests(draws)
            if options.lengths == "own":
                return requests
            return [
                replace(request, limit=length_of(options, draw.index, draw.sample))
                for request, draw in zip(requests, draws, strict=True)
            ]

    torch.set_num_threads(options.threads)
    machine = Machine(
        device="cpu", threads=options.threads, block=options.block, rows=options.rows,
        engine="transformers" if "transformers" in options.side else "vllm",
        engine_memory_gib=4.0 if options.lengths == "long-tail" else 1.0,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder)
    problems = problems_of(options.problems)
    config = GenerateConfig(
        kind="generate", model="model", problems="problems", samples=options.samples,
        sampling=sampling_of(options),
    )  # fmt: skip
    sampler = open_sampler(folder, machine, max_length=512 + options.tokens)
    first = tuple(tokenizer(prompts_of(tokenizer, problems[:1])[0])["input_ids"])
    sampler.sample([Request(first, n) for n in range(options.samples)], config.sampling)
    if options.lengths == "long-tail":
        sampler._ends = type(sampler._ends)()  # pyright: ignore - no token ends a completion
    with tempfile.TemporaryDirectory() as folder_name, GradingPool() as pool:
        writer = Scripted(config, "", tokenizer, lambda: sampler, pool, seed=0)
        scratch, out = Path(folder_name, "scratch"), Path(folder_name, "out")
        scratch.mkdir()
        out.mkdir()
        context = Context(0, machine, scratch)

        is_vllm, samples = sampler.name == "vllm", range(options.samples)
        engine: Any = sampler._llm.llm_engine if is_vllm else sampler  # pyright: ignore
        count_steps = counted(engine, "step" if is_vllm else "_ended")

        def work() -> int:
            if options.side == "engine":
                draws = [Draw(n, p, m, 1) for n, p in enumerate(problems) for m in samples]
                requests = writer.requests(draws)
                return sum(c.tokens for c in sampler.sample(requests, config.sampling))
            if options.side.endswith("-full"):
                metrics = stream_traces(
                    writer, lambda: iter(problems), count=len(problems), out=out, context=context
                )
            else:
                metrics = write_traces(
                    writer, iter(problems), count=len(problems), out=out, context=context
                )
            return int(metrics["completion_tokens"])

        figures = timed(work)
        rows = options.rows or options.block
        return {**figures, "busy": figures["tokens"] / (count_steps() * rows)}


def counted(owner: Any, name: str) -> Callable[[], int]:
    """How often an engine has called its method `name` since, once for each step."""
    steps, step = itertools.count(), getattr(owner, name)

    def counting(*given: Any) -> Any:
        next(steps)
        return step(*given)

    setattr(owner, name, counting)
    return lambda: next(steps)


def measure(options: argparse.Namespace, folder: Path) -> Measured:
    side = {"vllm": plain_vllm, "transformers": plain_transformers}.get(options.side, ours)
    figures = side(options, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**figures, "peak GiB": peak}


def run_side(options: argparse.Namespace, side: str, folder: Path) -> Measured:
    """The figures of one side, measured in a process of its own."""
    arguments = ["--side", side, "--model", str(folder)]
    arguments += passed_on(
        options, ("problems", "samples", "tokens", "block", "threads", "rows", "lengths")
    )
    arguments += ["--eager"] if options.eager else []
    if options.one_process:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    machine = Machine(device="cpu", threads=options.threads, matmul="float32")
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    threads = {
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    settings = threads if side in ("vllm", "transformers") else environment(machine)
    return run_alone(__file__, arguments, settings, title=SIDES[side])


def table(results: dict[str, Measured]) -> Iterator[str]:
    """Lines of a Markdown table: a row a side; the last column is ours over the plain engine."""
    yield "| side | tokens | seconds | tokens/s | a processor second | rows busy | ours / plain |"
    yield "|---|---|---|---|---|---|---|"
    rates = {side: of["tokens"] / of["seconds"] for side, of in results.items()}
    for side, of in results.items():
        plain = rates.get(side.removeprefix("ours-").removesuffix("-full"))
        ratio = f"{rates[side] / plain:.2f}" if side.startswith("ours") and plain else ""
        busy = f"{of['busy']:.1%}" if "busy" in of else ""
        yield (
            f"| {SIDES[side]} | {of['tokens']:.0f} | {of['seconds']:.1f} | {rates[side]:.0f} | "
            f"{of['tokens'] / of['processor']:.0f} | {busy} | {ratio} |"
        )


def main() -> None:
    options = parse_arguments()
    if options.side:
        print(json.dumps(measure(options, Path(options.model))))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(options.model, Path(folder) / "model")
        results: dict[str, Measured] = {}
        for side in options.sides:
            results[side] = run_side(options, side, model)
            print(f"{SIDES[side]}: {results[side]}", file=sys.stderr, flush=True)
    print(
        f"{options.problems} questions x {options.samples} samples, at most {options.tokens} new "
        f"tokens, threads {options.threads}, float32, {platform.machine()}, one run each"
    )
    print("\n".join(table(results)))
    if options.lengths == "long-tail":
        lengths = [
            length_of(options, n, m)
            for n in range(options.problems) for m in range(options.samples)
        ]  # fmt: skip
        rows = options.rows or options.block
        blocks = fill(lengths, rows=rows, block=options.block)
        stream = fill(lengths, rows=rows)
        print(
            f"rows busy, simulated: blocks {blocks.busy:.1%} in {blocks.steps:.0f} steps, full "
            f"{stream.busy:.1%} in {stream.steps:.0f} steps"
        )


if __name__ == "__main__":
    main()
