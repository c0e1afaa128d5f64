"""Tokens a second and memory of supervised fine-tuning: trl.SFTTrainer against the factory's.

    python bench/sft.py [--model MODEL_FOLDER|tiny] [--rows 16 --tokens 256 --steps 2]

Every side runs in a process of its own, one after the other, on the same rows with the same number
of threads, from the same float32 weights:

    TRL defaults   trl.SFTTrainer as it comes: bfloat16 autocast and gradient checkpointing
    TRL float32    the same without the two, which on a CPU cost time: its fastest setting here
    ours           the factory's trainer as `factory build` starts it: the settings of its workers,
                   and the kind of product that `matmul: auto` measures to be faster here
    ours plain     the same with products as torch comes

A row is a prompt of 40 tokens, which carries no loss, and a completion of 24 to --tokens random
tokens, their lengths' logarithms even. All rows are one batch, so every step trains on all of them
and a step's tokens are the rows' own, padding not counted. Micro-batches are TRL's default of 8
rows. The share of the roofline is the least seconds that the processor could take for a step's
tokens in float32 (factory/cost/roofline.py) over those that a side took. The first step is not
counted. Its loss must be the same on the sides that compute in float32: it is printed.
Without --model the embedded SmolLM2-135M is converted into a temporary folder.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from grpo_step import save_model
from sides import passed_on, run_alone

from factory.building.launch.measure import resolve_matmul
from factory.core.machine import Machine, Matmul, apply_matmul, environment

SIDES = {
    "trl": "TRL defaults",
    "trl-float32": "TRL float32",
    "ours": "ours",
    "ours-plain": "ours plain",
}
PROMPT_TOKENS = 40
SHORTEST = 24
MICRO_BATCH = 8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="", help="a folder, or `tiny`")
    parser.add_argument("--rows", type=int, default=16, help="a multiple of 8")
    parser.add_argument("--tokens", type=int, default=256, help="of the longest completion")
    parser.add_argument("--steps", type=int, default=2, help="measured, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--matmul", choices=["auto", *get_args(Matmul)], default="auto")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_rows(options: argparse.Namespace, vocabulary: int) -> list[Any]:
    """The rows that every side trains on, the longest among them."""
    import torch

    from factory.trainers.rows import Row

    stream = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, vocabulary, (count,), generator=stream).tolist())

    places = torch.linspace(0, 1, options.rows).tolist()
    lengths = [round(SHORTEST * (options.tokens / SHORTEST) ** position) for position in places]
    return [Row(tokens(PROMPT_TOKENS), tokens(length)) for length in lengths]


def make_trainer(options: argparse.Namespace, folder: Path, scratch: Path) -> tuple[Any, int]:
    """The side's trainer, and the tokens of a step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = make_rows(options, model.config.vocab_size)
    tokens = sum(row.tokens for row in rows)
    steps = options.steps + 1
    if options.side.startswith("ours"):
        return our_trainer(options, rows, model, tokenizer, scratch), tokens
    columns = {
        "input_ids": [[*row.prompt_ids, *row.completion_ids] for row in rows],
        "labels": [row.labels for row in rows],
    }
    plain = {} if options.side == "trl" else {"bf16": False, "gradient_checkpointing": False}
    # What is set here says which step is measured; all else is as TRL 1.16 comes.
    arguments = SFTConfig(
        output_dir=str(scratch), use_cpu=True, max_steps=steps, report_to="none",
        gradient_accumulation_steps=options.rows // MICRO_BATCH, learning_rate=1e-5,
        logging_steps=1, save_strategy="no", disable_tqdm=True, **plain,
    )  # fmt: skip
    assert arguments.per_device_train_batch_size == MICRO_BATCH
    dataset = Dataset.from_dict(columns)
    return SFTTrainer(model, arguments, train_dataset=dataset, processing_class=tokenizer), tokens


def our_trainer(
    options: argparse.Namespace, rows: list[Any], model: Any, tokenizer: Any, scratch: Path
) -> Any:
    from factory.core.context import Context
    from factory.stages.sft.config import SftConfig
    from factory.stages.sft.trainer import make_trainer
    from factory.trainers.stored_rows import StoredRows

    config = SftConfig(
        kind="sft", model="-", traces="-", batch=options.rows, epochs=options.steps + 1,
        learning_rate=1e-5, warmup_fraction=0.0,
    )  # fmt: skip
    machine = Machine(
        device="cpu", threads=options.threads, micro_batch=MICRO_BATCH, checkpoint_steps=10**6
    )
    return make_trainer(
        config, StoredRows.of(rows), model=model, tokenizer=tokenizer, micro_batch=MICRO_BATCH,
        context=Context(0, machine, scratch),
    )  # fmt: skip


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Tokens a second of the counted steps of one side in this process, and what it took."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from factory.cost.roofline import size_of, training_flops

    torch.set_num_threads(options.threads)
    apply_matmul(side_machine(options.side, options))
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.monotonic())

    with tempfile.TemporaryDirectory() as scratch:
        trainer, tokens = make_trainer(options, folder, Path(scratch))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        trainer.train()
    seconds = ends[-1] - ends[0]
    return {
        "operations a second": options.steps
        * training_flops(size_of(trainer.model), tokens, tokens / options.rows)
        / seconds,
        "tokens a second": options.steps * tokens / seconds,
        "seconds a step": seconds / options.steps,
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "first loss": trainer.state.log_history[0]["loss"],
        "tokens a step": float(tokens),
    }


def best_rate(options: argparse.Namespace) -> float:
    """Operations a second of this processor in float32, with the faster kind of product."""
    import torch

    from factory.cost.roofline import measure_peaks

    apply_matmul(side_machine("ours", options))
    return measure_peaks(torch.device("cpu"), torch.float32).flops_per_second


def run_side(options: argparse.Namespace, side: str, folder: Path) -> dict[str, float]:
    """The figures of one side, measured in a process of its own; ours as our workers start."""
    arguments = ["--side", side, "--model", str(folder)]
    arguments += passed_on(options, ("rows", "tokens", "steps", "threads", "matmul"))
    settings = environment(side_machine(side, options)) if side.startswith("ours") else {}
    return run_alone(__file__, arguments, settings, title=SIDES[side])


def side_machine(side: str, options: argparse.Namespace) -> Machine:
    """Threads and kind of product of a side."""
    matmul = options.matmul if side == "ours" else "float32"
    return Machine(device="cpu", threads=options.threads, matmul=matmul)


def table(results: dict[str, dict[str, float]]) -> Iterator[str]:
    """Lines of a Markdown table: a row a figure, a column a side, and ours against each."""
    ours = results.get("ours", {})
    others = [side for side in results if not side.startswith("ours") and ours]
    headings = [*(SIDES[side] for side in results), *(f"ours / {SIDES[side]}" for side in others)]
    yield "| figure | " + " | ".join(headings) + " |"
    yield "|---|" + "---|" * len(headings)
    for figure, digits in (
        ("tokens a second", 0), ("share of the roofline", 2), ("seconds a step", 2),
        ("peak GiB", 2), ("first loss", 4),
    ):  # fmt: skip
        cells = [f"{result[figure]:.{digits}f}" for result in results.values()]
        cells += [f"{ours[figure] / results[side][figure]:.2f}" for side in others]
        yield f"| {figure} | " + " | ".join(cells) + " |"


def main() -> None:
    options = parse_arguments()
    if options.side:
        print(json.dumps(measure(options, Path(options.model))))
        return
    if options.rows % MICRO_BATCH:
        sys.exit(f"--rows {options.rows}: TRL takes {MICRO_BATCH} rows a pass; give a multiple")
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(device="cpu", threads=options.threads, matmul=options.matmul)
        options.matmul = resolve_matmul(machine, Path(folder)).matmul
        model = save_model(options.model, Path(folder) / "model")
        results = {side: run_side(options, side, model) for side in options.sides}
    rate = best_rate(options)
    for figures in results.values():
        figures["share of the roofline"] = figures["operations a second"] / rate
    tokens = next(iter(results.values()))["tokens a step"]
    print(
        f"{options.rows} rows, {tokens:.0f} tokens a step, {options.steps} steps after one, "
        f"threads {options.threads}, {platform.machine()}, one run each; "
        f"ours: matmul {options.matmul}; this processor: {rate / 1e9:.0f} GFLOP/s"
    )
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
