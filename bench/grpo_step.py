"""Seconds and memory of whole GRPO steps: trl.GRPOTrainer as it comes against the factory's.

    python bench/grpo_step.py [--model MODEL_FOLDER|tiny] [--prompts 8 --group 8 --tokens 64]

Every side runs in a process of its own, one after the other, in float32 on the same questions with
the same number of threads:

    TRL         trl.GRPOTrainer as it comes: samples by transformers' generate, its own passes
    ours        the factory's trainer and sampler as `factory build` starts them: the settings of
                its workers (glibc keeps memory) and the kind of product that `matmul: auto`
                measures to be faster here
    TRL tuned   TRL with these settings and this kind of product
    ours plain  ours with products as torch comes

Where torch may round operands it asks oneDNN instead of MKL. That is still float32 on processors
without AMX, and rounded to bfloat16 on those with it; so the relative error of a product against
float64 is printed with the kind that was taken.

A step is: sample, reward, reference log-probs, forward and backward, optimizer. Everybody trains on
the same completions: the sampler runs in full, `tokens` new tokens a row and no end before, and
then its tokens are replaced by a script: random tokens, all rows `tokens` long ("even") or 18 to
`tokens` long ("uneven"). So the sampling time of uneven rows is that of full ones, on all sides.
Every fourth question gives all its samples the same reward. Each side takes one step of even rows
and then one of uneven rows; --warm-up adds steps before that are not counted. Without --model the
embedded SmolLM2-135M is converted into a temporary folder.

The shares of the roofline are the least seconds that the processor could take, by its own rates
with our kind of product, for what a step has to compute (each prompt once, no pass over groups
without a signal where the KL weight is 0), over those that a side took (factory/cost/roofline.py).

On a machine that others use too, take `--threads 1 --cpu-seconds`: the seconds that a side's
process computed, whoever else did meanwhile. Of two threads the one that waits computes as well.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

from factory.building.launch.measure import resolve_matmul
from factory.core.machine import Machine, Matmul, environment

SIDES = {"trl": "TRL", "ours": "ours", "trl-tuned": "TRL tuned", "ours-plain": "ours plain"}
PAIRS = (("trl", "ours"), ("trl-tuned", "ours"), ("trl", "ours-plain"))
PROMPT_TOKENS = 40
SHORTEST = 18
PHASES = ("generate", "reference", "train", "optimizer", "step")
LENGTHS = ("even", "uneven")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="", help="a folder, or `tiny`")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the measured ones")
    parser.add_argument("--micro-groups", type=int, default=1)
    parser.add_argument("--kl", type=float, default=0.0, help="0 is TRL's default")
    parser.add_argument("--engine", choices=["auto", "vllm", "transformers"], default="auto")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--cpu-seconds", action="store_true", help="of the process, not the clock")
    parser.add_argument("--matmul", choices=["auto", *get_args(Matmul)], default="auto")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def scripted_completions(
    options: argparse.Namespace, vocabulary: int, step: int
) -> list[list[int]]:
    """The tokens that every side trains on at this step, row after row; the last one is uneven."""
    import torch

    stream = torch.Generator().manual_seed(1000 + step)
    rows = options.prompts * options.group
    is_uneven = step > options.warm_up
    shortest = min(SHORTEST, options.tokens) if is_uneven else options.tokens
    lengths = torch.randint(shortest, options.tokens + 1, (rows,), generator=stream).tolist()
    lengths[0] = options.tokens
    return [
        torch.randint(10, vocabulary, (length,), generator=stream).tolist() for length in lengths
    ]


def reward_function(group: int) -> Callable[..., list[float]]:
    """Rewards that differ within a group, but for every fourth group."""

    def accuracy(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        step = trainer_state.global_step
        return [
            0.0 if (row // group) % 4 == 3 else float((row * 7 + step) % 5)
            for row in range(len(completions))
        ]

    return accuracy


def make_trainer(options: argparse.Namespace, folder: Path, output: str) -> tuple[Any, Any]:
    """The side's trainer, and our sampler or None."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    count = options.prompts * (options.warm_up + len(LENGTHS))
    prompts = question_texts(tokenizer, count)
    parts = {
        "model": model,
        "train_dataset": Dataset.from_dict({"prompt": prompts, "problem": list(range(count))}),
        "processing_class": tokenizer,
        "reward_funcs": [reward_function(options.group)],
    }
    if not options.side.startswith("ours"):
        # What is set here says which step is measured; all else is as TRL 1.16 comes, but for
        # checkpointing, which TRL turns on and which would only slow it down.
        arguments = GRPOConfig(
            output_dir=output, use_cpu=True, bf16=False, gradient_checkpointing=False,
            max_steps=options.warm_up + len(LENGTHS),
            per_device_train_batch_size=options.prompts * options.group,
            num_generations=options.group, max_completion_length=options.tokens,
            beta=options.kl, loss_type="grpo", learning_rate=1e-6, logging_steps=1,
            report_to="none", save_strategy="no", shuffle_dataset=False,
            generation_kwargs={"min_new_tokens": options.tokens},
        )  # fmt: skip
        trainer = GRPOTrainer(args=arguments, **parts)
        first = tokenizer(prompts[0], return_tensors="pt")
        trainer.model.generate(**first, max_new_tokens=2)
        return trainer, None
    return our_trainer(options, folder, output, parts)


def our_trainer(
    options: argparse.Namespace, folder: Path, output: str, parts: dict[str, Any]
) -> tuple[Any, Any]:
    from factory.core.context import Context
    from factory.core.machine import Machine
    from factory.core.records import SamplingConfig
    from factory.rewards import RewardConfig
    from factory.sampling import Request, open_sampler
    from factory.stages.grpo.arguments import training_arguments
    from factory.stages.grpo.config import GrpoConfig
    from factory.stages.grpo.trainer import FactoryGrpoTrainer
    from factory.trainers.weights import policy_weights

    machine = Machine(device="cpu", threads=options.threads, engine=options.engine)
    longest = PROMPT_TOKENS + options.tokens
    sampler = open_sampler(folder, machine, max_length=longest, training=True)
    never_end(sampler)
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=options.tokens, stop=())
    config = GrpoConfig(
        kind="grpo", model="-", problems="-", steps=options.warm_up + len(LENGTHS),
        prompts=options.prompts, group=options.group, updates_per_rollout=1, kl=options.kl,
        reference_refresh_steps=0, max_new_tokens=options.tokens, epsilon=0.2, learning_rate=1e-6,
        rewards=(RewardConfig(name="accuracy"),),
    )  # fmt: skip
    tokenizer = parts["processing_class"]

    # An engine's first call sets it up; TRL's side calls its own once as well.
    sampler.sample([Request((1, 2, 3), 0)], sampling.model_copy(update={"max_new_tokens": 2}))

    def sample(prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        sampler.load_weights(policy_weights(trainer.model))
        requests = [
            Request(tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"]), row)
            for row, prompt in enumerate(prompts)
        ]
        completions = sampler.sample(requests, sampling)
        return {
            "prompt_ids": [list(request.prompt_ids) for request in requests],
            "completion_ids": [list(completion.token_ids) for completion in completions],
            "logprobs": [list(completion.logprobs) for completion in completions],
        }

    trainer = FactoryGrpoTrainer(
        args=training_arguments(
            config, Context(0, machine, Path(output)), rows=options.prompts * options.group
        ),
        rollout_func=sample,
        packed_rows=options.micro_groups * options.group,
        **parts,
    )
    return trainer, sampler


def never_end(sampler: Any) -> None:
    """Have our sampler draw on past the end of text, as TRL's side is told by min_new_tokens."""
    if sampler.name == "vllm":
        import vllm

        plain = vllm.SamplingParams
        setattr(vllm, "SamplingParams", partial(plain, ignore_eos=True))  # noqa: B010
    else:
        sampler._tokenizer.eos_token = None


def question_texts(tokenizer: Any, count: int) -> list[str]:
    """Different questions of PROMPT_TOKENS tokens each."""
    texts = []
    for number in range(count):
        ids = tokenizer(f"Question {number}: " + "add one and two and three, " * 20)["input_ids"]
        texts.append(tokenizer.decode(ids[:PROMPT_TOKENS]))
    return texts


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds by phase of the even and the uneven step of one side in this process, and memory."""
    import torch

    from factory.core.machine import apply_matmul

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as output:
        trainer, sampler = make_trainer(options, folder, output)
        # After the engine has started, which sets it anew.
        apply_matmul(side_machine(options.side, options))
        steps: list[dict[str, float]] = []
        instrument(trainer, steps, options)
        trainer.train()
        if sampler is not None:
            sampler.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = dict(zip(LENGTHS, steps[options.warm_up :], strict=True))
    return {**seconds, "memory": {"peak GiB": peak}}


def instrument(trainer: Any, steps: list[dict[str, float]], options: argparse.Namespace) -> None:
    """Time the parts of every step, and have each train on the scripted completions."""
    import torch

    from factory.trainers.phases import PhaseClock

    clock = PhaseClock(time.process_time if options.cpu_seconds else time.monotonic)
    sample, logprobs = trainer._generate, trainer._get_per_token_logps_and_entropies
    vocabulary = trainer.model.config.vocab_size

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with clock.measure(phase):
                return function(*args, **kwargs)

        return run

    def generate(prompts: list[Any]) -> tuple[Any, ...]:
        with clock.measure("generate"):
            result = list(sample(prompts))
        # Of TRL's result: 1 completion ids, 3 completions as text, 4 the sampler's log-probs.
        result[1] = scripted_completions(options, vocabulary, trainer.state.global_step)
        result[3] = trainer.processing_class.batch_decode(result[1])
        if result[4] is not None:
            result[4] = [[0.0] * len(ids) for ids in result[1]]
        return tuple(result)

    def reference_or_policy(*args: Any, **kwargs: Any) -> Any:
        phase = "train" if torch.is_grad_enabled() else "reference"
        return timed(phase, logprobs)(*args, **kwargs)

    trainer._generate = generate
    trainer._get_per_token_logps_and_entropies = reference_or_policy
    trainer.compute_loss = timed("train", trainer.compute_loss)
    trainer.accelerator.backward = timed("train", trainer.accelerator.backward)

    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            trainer.optimizer.step = timed("optimizer", trainer.optimizer.step)

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.take()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            steps.append(clock.take())

    trainer.add_callback(Steps())


def save_model(name: str, folder: Path) -> Path:
    """The model to measure: a folder as it is, a tiny one, or the embedded SmolLM2-135M."""
    if name == "tiny":
        from factory.models.tiny import save_tiny_model

        return save_tiny_model(folder, "llama", hidden=64)
    if name:
        return Path(name)
    from factory.core.artifacts import Inputs
    from factory.core.context import Context
    from factory.core.machine import Machine
    from factory.stages.model import STAGE, Embedded, ModelConfig

    folder.mkdir()
    config = ModelConfig(kind="model", source=Embedded(type="embedded"))
    with (folder.parent / "events.jsonl").open("w", encoding="utf-8") as events:
        STAGE.run(config, Inputs(), folder, Context(0, Machine(), folder.parent, events))
    return folder


def run_side(options: argparse.Namespace, side: str, folder: Path) -> dict[str, Any]:
    """The figures of one side, measured in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--model", str(folder)]
    for name in ("prompts", "group", "tokens", "threads", "warm_up", "micro_groups", "kl"):
        command += ["--" + name.replace("_", "-"), str(getattr(options, name))]
    command += ["--engine", options.engine, "--matmul", options.matmul]
    command += ["--cpu-seconds"] if options.cpu_seconds else []
    child = subprocess.run(
        command, capture_output=True, text=True, check=False, env=side_environment(side, options)
    )
    if child.returncode:
        sys.exit(f"{SIDES[side]}: {child.stderr[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])


def side_environment(side: str, options: argparse.Namespace) -> dict[str, str]:
    """The environment of a side's process: TRL's as it is here, the others' as our workers'."""
    if side == "trl":
        return dict(os.environ)
    return {**os.environ, **environment(side_machine(side, options))}


def side_machine(side: str, options: argparse.Namespace) -> Machine:
    """Threads and kind of product of a side."""
    matmul = options.matmul if side in ("ours", "trl-tuned") else "float32"
    return Machine(device="cpu", threads=options.threads, matmul=matmul)


def product_error(machine: Machine) -> float:
    """Relative error of a float32 product of a small model's layer, against float64."""
    import torch

    from factory.core.machine import apply_matmul

    apply_matmul(machine)
    left, right = torch.randn(512, 576), torch.randn(576, 1536)
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())


def least_seconds(
    options: argparse.Namespace, folder: Path
) -> tuple[str, dict[tuple[str, str], float]]:
    """The processor's rates, and what it takes at them, by (rows, phase)."""
    import torch
    from transformers import AutoModelForCausalLM

    from factory.core.machine import apply_matmul
    from factory.cost.roofline import generation_seconds, measure_peaks, size_of, training_seconds

    torch.set_num_threads(options.threads)
    apply_matmul(side_machine("ours", options))
    peaks = measure_peaks(torch.device("cpu"), torch.float32)
    size = size_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    rows = options.prompts * options.group
    needs_all = options.kl > 0
    least: dict[tuple[str, str], float] = {}
    for step, kind in enumerate(LENGTHS, options.warm_up):
        lengths = [len(ids) for ids in scripted_completions(options, 1000, step)]
        learned = [n for row, n in enumerate(lengths) if needs_all or row // options.group % 4 != 3]
        least[kind, "generate"] = generation_seconds(
            size, peaks, rows=rows, prompt=PROMPT_TOKENS, completion=options.tokens,
            group=options.group, rows_at_once=rows,
        )  # fmt: skip
        least[kind, "train"] = training_seconds(
            size, peaks, rows=len(learned), prompt=PROMPT_TOKENS,
            completion=sum(learned) / len(learned), group=options.group,
        )  # fmt: skip
    rates = (
        f"{peaks.flops_per_second / 1e9:.0f} GFLOP/s, {peaks.bytes_per_second / 1e9:.1f} GB/s "
        f"({options.matmul})"
    )
    return rates, least


def table(
    results: dict[str, dict[str, dict[str, float]]], least: dict[tuple[str, str], float]
) -> Iterator[str]:
    """Lines of a Markdown table: a row a figure, a column a side, and how often ours fits in."""
    pairs = [pair for pair in PAIRS if set(pair) <= set(results)]
    ratios = [f"{SIDES[plain]} / {SIDES[ours]}" for plain, ours in pairs]
    yield "| rows | figure | " + " | ".join([*(SIDES[side] for side in results), *ratios]) + " |"
    yield "|---|---|" + "---|" * (len(results) + len(pairs))
    for rows in (*LENGTHS, "memory"):
        for figure in PHASES if rows in LENGTHS else ("peak GiB",):
            values = {side: results[side][rows].get(figure, 0.0) for side in results}
            cells = [f"{value:.2f}" for value in values.values()]
            for plain, ours in pairs:
                cells.append(f"{values[plain] / values[ours]:.2f}" if values[ours] else "-")
            unit = "" if rows == "memory" else ", s"
            yield f"| {rows} | {figure}{unit} | " + " | ".join(cells) + " |"
            if (rows, figure) in least:
                shares = [
                    f"{least[rows, figure] / value:.0%}" for value in values.values() if value
                ]
                cells = [*shares, *("" for _ in pairs)]
                yield f"| {rows} | {figure}, share of the roofline | " + " | ".join(cells) + " |"


def main() -> None:
    options = parse_arguments()
    if options.side:
        print(json.dumps(measure(options, Path(options.model))))
        return
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(device="cpu", threads=options.threads, matmul=options.matmul)
        options.matmul = resolve_matmul(machine, Path(folder)).matmul
        model = save_model(options.model, Path(folder) / "model")
        results = {side: run_side(options, side, model) for side in options.sides}
        rates, least = least_seconds(options, model)
    print(
        f"{options.prompts} questions x {options.group} samples x {options.tokens} new tokens, "
        f"threads {options.threads}, float32, KL weight {options.kl:g}, {platform.machine()}, "
        f"{'CPU seconds' if options.cpu_seconds else 'seconds'}, one run each; "
        f"this processor: {rates}"
    )
    for side in results:
        machine = side_machine(side, options)
        print(f"{SIDES[side]}: matmul {machine.matmul}, error {product_error(machine):.1e}")
    print("\n".join(table(results, least)))


if __name__ == "__main__":
    main()
