"""Seconds of whole evaluations: lm-eval with its `hf` backend against the factory's harness.

    python bench/evaluate.py [--model MODEL_FOLDER|tiny] [--problems 24] [--tokens 96]

Both ask the same model the same two tasks of generation (questions of GSM8K and of GSM-Symbolic as
plain text, greedy answers in float32, lm-eval's own filter and metric), one after the other, each
in a process of its own with the same number of threads and the environment of our workers:

    lm_eval          lm-eval's HFLM with one request a batch, its default
    lm_eval, 16      the same with sixteen
    lm_eval, 64      the same with sixty-four: by default all requests at once
    ours             the evaluate stage as `factory build` starts it, with `raw: true`, the engine
                     that `auto` takes and the kind of product that `matmul: auto` measures to be
                     faster here
    ours plain       the same with products as torch comes, as lm-eval has them
    lm_eval tuned    sixty-four with our kind of product

Its `auto` is left out: it tries 64 rows of the model's whole context first, whose logits alone are
96 GiB for SmolLM2.

"whole" is everything from the first import to the last score, without what either command line
adds (lm-eval reads its registry of tasks, the factory seals what it made); "generate" only what the
engine takes for the completions. Without --model the embedded SmolLM2-135M is converted first.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from grpo_step import save_model
from sides import passed_on, run_alone

from factory.building.launch.measure import resolve_matmul
from factory.core.machine import Machine, Matmul, apply_matmul, environment

SIDES = {
    "hf-1": "lm_eval",
    "hf-16": "lm_eval, 16",
    "hf-64": "lm_eval, 64",
    "hf-64-tuned": "lm_eval tuned",
    "ours": "ours",
    "ours-plain": "ours plain",
}
TASKS = {"gsm8k": "gsm8k_100", "gsm_symbolic": "gsm_symbolic_en"}
YAML = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: answer
generation_kwargs: {{until: ["Question:"], do_sample: false, max_gen_toks: {tokens}}}
filter_list:
  - name: last-number
    filter:
      - {{function: regex, regex_pattern: "(-?\\\\d[\\\\d,.]*)", group_select: -1}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="", help="a folder, or `tiny`")
    parser.add_argument("--problems", type=int, default=24, help="of each of the two tasks")
    parser.add_argument("--tokens", type=int, default=96, help="most new tokens an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", choices=["auto", "vllm", "transformers"], default="auto")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--matmul", choices=["auto", *get_args(Matmul)], default="auto")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_tasks(folder: Path, problems: int, tokens: int) -> None:
    """The two tasks as lm-eval YAML with their data."""
    from factory.problems.bundled import BundledSource, supply

    folder.mkdir()
    for name, bundle in TASKS.items():
        source = BundledSource.model_validate({"type": "bundled", "name": bundle})
        chosen = list(supply(source, 0).problems)[:problems]
        rows = [json.dumps({"question": p.prompt, "answer": p.reference}) for p in chosen]
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(rows) + "\n", encoding="utf-8")
        text = YAML.format(name=name, data=data, tokens=tokens)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


class Clock:
    """Sums the seconds of the calls that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def theirs(folder: Path, clock: Clock, batch: int) -> tuple[dict[str, float], list[str]]:
    """Scores and completions of lm-eval with its own backend."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    backend = HFLM(
        pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=batch
    )
    backend.generate_until = clock.timed(backend.generate_until)
    # Its registry of 14,000 tasks would take ten seconds more.
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    evaluated = simple_evaluate(
        model=backend,
        tasks=list(TASKS),
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    if evaluated is None:
        raise SystemExit("lm-eval gave no results")
    texts = []
    for name in TASKS:
        rows = sorted(evaluated["samples"][name], key=lambda row: row["doc_id"])
        texts += [row["resps"][0][0] for row in rows]
    scores = {name: evaluated["results"][name]["exact_match,last-number"] for name in TASKS}
    return scores, texts


def ours(
    folder: Path, clock: Clock, options: argparse.Namespace
) -> tuple[dict[str, float], list[str]]:
    """Scores and completions of the evaluate stage."""
    from factory.core.artifacts import Artifact, Inputs, Manifest
    from factory.core.context import Context
    from factory.core.jsonl import read_records
    from factory.core.records import EvalSample, Score
    from factory.stages import evaluate

    machine = side_machine(options.side, options).model_copy(
        update={"dtype": "float32", "engine": options.engine}
    )
    open_sampler = evaluate._sampler

    def open_timed(*args: Any) -> Any:
        sampler: Any = open_sampler(*args)
        sampler.sample = clock.timed(sampler.sample)
        return sampler

    evaluate.EVALS, evaluate._sampler = folder / "tasks", open_timed
    benchmarks = tuple(evaluate.BenchmarkConfig(name=name, task=name, raw=True) for name in TASKS)
    config = evaluate.EvaluateConfig(kind="evaluate", model="model", benchmarks=benchmarks)
    model = Artifact(folder / "model", Manifest.model_construct(name="model", fingerprint=""))
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir()
    scratch.mkdir()
    evaluate.run(config, Inputs({"model": model}), out, Context(0, machine, scratch))
    scores = {s.benchmark: s.value for s in read_records(out / "scores.jsonl", Score)}
    samples = read_records(out / "samples.jsonl", EvalSample)
    return scores, [sample.trace.completion.partition("Question:")[0] for sample in samples]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one side, in this process."""
    began, clock = time.perf_counter(), Clock()
    apply_matmul(side_machine(options.side, options))
    if options.side.startswith("ours"):
        scores, texts = ours(options.folder, clock, options)
    else:
        batch = int(options.side.split("-")[1])
        scores, texts = theirs(options.folder, clock, batch)
    seconds = time.perf_counter() - began
    return {"whole": seconds, "generate": clock.seconds, "scores": scores, "texts": texts}


def run_side(options: argparse.Namespace, side: str, folder: Path) -> dict[str, Any]:
    """The figures of one side, measured in a process of its own."""
    machine = side_machine(side, options)
    arguments = ["--side", side, "--folder", str(folder)]
    arguments += passed_on(options, ("threads", "engine", "matmul"))
    settings = {
        **environment(machine),
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    return run_alone(__file__, arguments, settings, title=SIDES[side])


def side_machine(side: str, options: argparse.Namespace) -> Machine:
    """Threads and kind of product of a side."""
    matmul = options.matmul if side in ("ours", "hf-64-tuned") else "float32"
    return Machine(device="cpu", threads=options.threads, matmul=matmul)


def table(results: dict[str, dict[str, Any]], answers: int) -> Iterator[str]:
    """Lines of a Markdown table, a row a side; how often ours fits into the others' seconds."""
    yield "| side | whole, s | generate, s | answers/s | whole / ours | generate / ours | scores |"
    yield "|---|---|---|---|---|---|---|"
    mine = results.get("ours")
    for side, figures in results.items():
        ratios = [
            f"{figures[figure] / mine[figure]:.2f}" if mine else "-"
            for figure in ("whole", "generate")
        ]
        scores = ", ".join(f"{100 * value:.1f}" for value in figures["scores"].values())
        cells = [SIDES[side], f"{figures['whole']:.2f}", f"{figures['generate']:.2f}"]
        cells += [f"{answers / figures['whole']:.2f}", *ratios, scores]
        yield "| " + " | ".join(cells) + " |"


def against_best(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A line with ours against lm-eval at the batch that suited it best."""
    mine = results.get("ours")
    theirs = {side: figures for side, figures in results.items() if not side.startswith("ours")}
    if mine and theirs:
        best = min(theirs, key=lambda side: theirs[side]["whole"])
        ratio = theirs[best]["whole"] / mine["whole"]
        yield f"Against {SIDES[best]}, its fastest: {ratio:.2f} times as many whole evaluations"


def main() -> None:
    options = parse_arguments()
    if options.side:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        machine = Machine(device="cpu", threads=options.threads, matmul=options.matmul)
        options.matmul = resolve_matmul(machine, folder).matmul
        model = save_model(options.model, folder / "model")
        if model != folder / "model":
            (folder / "model").symlink_to(model.resolve())
        write_tasks(folder / "tasks", options.problems, options.tokens)
        results = {side: run_side(options, side, folder) for side in options.sides}
    first = next(iter(results.values()))["texts"]
    print(
        f"2 tasks x {options.problems} problems, at most {options.tokens} new tokens, threads "
        f"{options.threads}, float32, {platform.machine()}, one run each; "
        f"ours: matmul {options.matmul}"
    )
    print("\n".join([*table(results, 2 * options.problems), *against_best(results)]))
    for side, figures in results.items():
        same = sum(a == b for a, b in zip(first, figures["texts"], strict=True))
        print(f"{SIDES[side]}: {same} of {len(first)} completions are those of the first side")


if __name__ == "__main__":
    main()
