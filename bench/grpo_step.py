"""Seconds and memory of one GRPO update: TRL's own pass against the packed one.

    python bench/grpo_step.py MODEL_FOLDER [--prompts 8 --group 8 --tokens 64 --threads 2]

Both passes run in a process of their own, on the same batch of random tokens: prompts of about 40
tokens, completions of 18 to `tokens` tokens, a quarter of the groups without a signal. Measured
are the reference pass and forward + backward, the second of two runs each; generation and the
optimizer are the same for both and left out.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 40
SHORTEST = 18


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-groups", type=int, default=2)
    parser.add_argument("--kl", type=float, default=0.0)
    parser.add_argument("--only", choices=["plain", "packed"], help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the passes, peak memory and the loss, in this process."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from factory.machine import Machine
    from factory.stages.grpo import GrpoConfig
    from factory.training.grpo import FactoryGrpoTrainer
    from factory.training.grpo_arguments import training_arguments

    torch.set_num_threads(options.threads)
    config = GrpoConfig(
        kind="grpo", model="-", problems="-", steps=1, prompts=options.prompts,
        group=options.group, updates_per_rollout=1, kl=options.kl, reference_refresh_steps=0,
        max_new_tokens=options.tokens,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as output:
        trainer = FactoryGrpoTrainer(
            model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            args=training_arguments(
                config, Machine(device="cpu"), output=output, seed=0, micro_prompts=options.prompts
            ),
            train_dataset=Dataset.from_dict({"prompt": ["q"]}),
            processing_class=AutoTokenizer.from_pretrained(options.model),
            reward_funcs=[_no_reward, _no_reward],
            packed_rows=options.micro_groups * options.group if options.only == "packed" else None,
        )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    inputs = make_batch(options, trainer.model.config.vocab_size)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    result = {}
    for _ in range(2):
        started = time.perf_counter()
        reference = trainer.completion_logprobs(ids, mask, options.tokens)
        result["reference"] = time.perf_counter() - started
        inputs["ref_per_token_logps"] = reference
        trainer.model.zero_grad()
        started = time.perf_counter()
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        result["train"] = time.perf_counter() - started
    norms = [p.grad.norm() for p in trainer.model.parameters()]
    result["gradient norm"] = torch.stack(norms).norm().item()
    result["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return result


def _no_reward(**_: Any) -> list[float]:
    return []


def make_batch(options: argparse.Namespace, vocabulary: int) -> dict[str, Any]:
    """TRL's inputs (rows, tokens): groups one after the other, every fourth without advantage."""
    import torch

    stream = torch.Generator().manual_seed(0)
    rows = options.prompts * options.group
    prompts = torch.randint(10, vocabulary, (options.prompts, PROMPT_TOKENS), generator=stream)
    shortest = min(SHORTEST, options.tokens)
    lengths = torch.randint(shortest, options.tokens + 1, (rows, 1), generator=stream)
    lengths[0] = options.tokens
    mask = (torch.arange(options.tokens) < lengths).long()
    advantages = torch.randn(rows, generator=stream)
    advantages[(torch.arange(rows) // options.group) % 4 == 3] = 0.0
    return {
        "prompt_ids": prompts.repeat_interleave(options.group, dim=0),
        "prompt_mask": torch.ones(rows, PROMPT_TOKENS, dtype=torch.long),
        "completion_ids": torch.randint(10, vocabulary, mask.shape, generator=stream),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }


def main() -> None:
    options = parse_arguments()
    if options.only:
        print(json.dumps(measure(options)))
        return
    results = {}
    for name in ("plain", "packed"):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            sys.exit(f"{name}: {child.stderr[-2000:]}")
        results[name] = json.loads(child.stdout.splitlines()[-1])
    print(f"{'':14} {'TRL':>9} {'packed':>9} {'ratio':>7}")
    for row, plain in results["plain"].items():
        packed = results["packed"][row]
        print(f"{row:14} {plain:9.3f} {packed:9.3f} {plain / packed:7.2f}")


if __name__ == "__main__":
    main()
