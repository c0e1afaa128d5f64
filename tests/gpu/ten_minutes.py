"""One GPU for ten minutes: what has not run on one is run, timed, and held to what was planned.

    python tests/gpu/ten_minutes.py [--out FOLDER] [--seconds 540] [--dry] [--only NAME]

Every check is a process with a deadline; its figures are a JSON line in FOLDER/checks.jsonl, and
the last thing printed is a table to paste. Models have the shapes of real ones and random weights,
made on the device: nothing is downloaded. `--dry` runs the same on the processor, with tiny shapes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    # hidden, feed-forward, layers, heads, key-value heads, vocabulary, tied (Qwen2.5's config.json)
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "8 layers of 7B": (3584, 18944, 8, 28, 4, 152064, False),
    # What is drawn has to be text of the byte tokenizer, hence its vocabulary.
    "0.36B": (896, 4864, 24, 14, 2, 259, True),
    "dry": (64, 128, 2, 2, 1, 259, True),
}
LONG, SHORT = 30000, 40
"""Characters of a thought, a token each: for memory, and for what a tuned model is asked again."""
CLOSE = 2e-2
"""Largest difference of a weight between two ways to train it in bfloat16; ours."""
PARITY = (5e-2, 2.0)
"""Mean and largest gap of a log-prob in bfloat16, the bounds of factory.trainers.parity."""


@dataclass(frozen=True)
class Ground:
    """Where a check works, and on what."""

    folder: Path
    dry: bool

    def model(self, shape: str) -> Path:
        """A folder with a model of this shape, made once."""
        shape = "dry" if self.dry else shape
        folder = self.folder / f"model {shape}"
        if not (folder / "model.safetensors").exists() and not list(folder.glob("*.index.json")):
            write_model(folder, SHAPES[shape], "cpu" if self.dry else "cuda")
        return folder

    def machine(self, **settings: Any) -> dict[str, Any]:
        common = {"checkpoint_steps": 1000, "micro_batch": 1, "engine": "transformers"}
        if self.dry:
            peaks = {"gflops": 100, "gigabytes_per_second": 10, "memory_gib": 16}
            own = {"device": "cpu", "dtype": "float32", "matmul": "float32", "threads": 1}
            return {**own, **common, "block": 16, "peaks": peaks, **settings}
        peaks = {"gflops": 989000, "gigabytes_per_second": 4800, "memory_gib": gpu_gib()}
        own = {"device": "cuda", "dtype": "bfloat16", "block": 256}
        return {**own, **common, "peaks": peaks, **settings}


def facts(ground: Ground) -> dict[str, Any]:
    """What the device does at best."""
    import torch

    size, device = (512, "cpu") if ground.dry else (8192, "cuda")
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = best(lambda: a @ a, device)
    copied = torch.empty(2**22 if ground.dry else 2**30, device=device)
    bandwidth = best(lambda: copied.clone(), device)
    return {
        "tflops": 2e-12 * size**3 / seconds,
        "tb_per_second": 8e-12 * copied.numel() / bandwidth,
        "device": "processor" if ground.dry else torch.cuda.get_device_name(),
    }


def fine_tuning(shape: str, **settings: Any) -> Callable[[Ground], dict[str, Any]]:
    """SFT with rows of 30,000 tokens: peak against plan, tokens a second."""

    def run(ground: Ground) -> dict[str, Any]:
        stages = {"worked": worked(ground), "tuned": tuned(ground, **settings)}
        return build(ground, shape, stages, "tuned", ground.machine())

    return run


def sharded(ground: Ground) -> dict[str, Any]:
    """FSDP2 in one rank gives what no FSDP2 gives, with and without adapters."""
    from safetensors.torch import load_file

    figures: dict[str, Any] = {}
    for name, lora in (("full", None), ("lora", {"rank": 8})):
        stages = {"worked": worked(ground), "tuned": tuned(ground, lora=lora)}
        weights = []
        for train in ({}, {"shard": "fsdp2"}):
            launched = {"launcher": "accelerate", "processes": 1, "train": train} if train else {}
            machine = ground.machine(**launched)
            store = f"{name} {'fsdp2' if train else 'whole'}"
            figures |= build(ground, "0.36B", stages, "tuned", machine, store=store)
            weights.append(load_file(made(ground, store, "tuned") / "model.safetensors"))
        plain, divided = weights
        gap = max(float((plain[key] - divided[key]).abs().max()) for key in plain)
        figures[f"largest difference, {name}"] = gap
        if plain.keys() != divided.keys() or gap > CLOSE:
            figures["verdict"] = f"{name}: another model"
    return figures


def reinforcement(engine: str) -> Callable[[Ground], dict[str, Any]]:
    """GRPO with a KL term: both training passes timed, KL of the first step, log-probs' parity."""

    def run(ground: Ground) -> dict[str, Any]:
        stage = {
            "kind": "grpo", "model": "base", "problems": "sums", "steps": 2, "prompts": 8,
            "group": 8, "updates_per_rollout": 1, "learning_rate": 1e-5, "kl": 0.01,
            "max_new_tokens": 16 if ground.dry else 256,
            "rewards": [{"name": "accuracy", "weight": 1.0}],
        }  # fmt: skip
        machine = ground.machine(
            engine=engine,
            training_pass="measure",
            **({"engine_memory_gib": 0.25} if ground.dry else {}),
        )
        stages = {"sums": sums(), "zero": stage}
        figures = build(ground, "0.36B", stages, "zero", machine)
        rows = telemetry(made(ground, "", "zero") / "telemetry.jsonl")
        figures["kl of step 1"] = abs(rows[0]["kl"])
        for event in telemetry(run_folder(ground, "", "zero") / "metrics.jsonl"):
            values = event.get("values", {})
            figures |= {key: values[key] for key in values if key.startswith(("pass/", "parity/"))}
        if figures["kl of step 1"] > (1e-6 if ground.dry else PARITY[0]):
            figures["verdict"] = "KL of step 1 is not 0"
        if figures.get("parity/mean", 0.0) > PARITY[0] or figures.get("parity/max", 0) > PARITY[1]:
            figures["verdict"] = "engine and trainer disagree"
        return figures

    return run


def traces(engine: str) -> Callable[[Ground], dict[str, Any]]:
    """An engine alone: tokens a second."""

    def run(ground: Ground) -> dict[str, Any]:
        length = 16 if ground.dry else 512
        stage = {
            "kind": "generate", "model": "base", "problems": "sums", "samples": 8,
            "sampling": {"max_new_tokens": length},
        }  # fmt: skip
        machine = ground.machine(
            engine=engine, **({"engine_memory_gib": 0.25} if ground.dry else {})
        )
        return build(ground, "0.36B", {"sums": sums(), "drawn": stage}, "drawn", machine)

    return run


def distillation(ground: Ground) -> dict[str, Any]:
    """On-policy distillation of a model from itself: its loss has to be about 0."""
    stage = {
        "kind": "distill", "model": "base", "teacher": "base", "problems": "sums", "steps": 2,
        "prompts": 8, "learning_rate": 1e-6, "max_new_tokens": 16 if ground.dry else 256,
    }  # fmt: skip
    figures = build(
        ground, "0.36B", {"sums": sums(), "student": stage}, "student", ground.machine()
    )
    rows = telemetry(made(ground, "", "student") / "telemetry.jsonl")
    return {**figures, "loss of step 1": rows[0]["loss"]}


def tests(ground: Ground) -> dict[str, Any]:
    """The tests marked gpu."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "gpu", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    bad = {} if done.returncode == 0 else {"verdict": last}
    return {"tests": last, **bad}


CHECKS: dict[str, tuple[float, Callable[[Ground], dict[str, Any]]]] = {
    "facts": (40, facts),
    "sft, 1.5B": (90, fine_tuning("1.5B")),
    "grpo, transformers": (90, reinforcement("transformers")),
    "traces, vllm": (90, traces("vllm")),
    "grpo, vllm": (110, reinforcement("vllm")),
    "fsdp2 in one rank": (120, sharded),
    "lora, 8 layers of 7B": (90, fine_tuning("8 layers of 7B", lora={"rank": 16})),
    "traces, transformers": (60, traces("transformers")),
    "distill": (60, distillation),
    "tests marked gpu": (150, tests),
}
"""Seconds at most, and what is done; the first ones are worth most."""
SECONDS = 540.0
"""For all of them."""
SLOWER = 6
"""Times as long may a dry run take: four builds on two cores that others used took six minutes."""


def worked(ground: Ground) -> dict[str, Any]:
    """Traces of sums: eight that a model may be asked again, four as long as can be."""
    path = ground.folder / "worked.jsonl"
    long = 400 if ground.dry else LONG
    rows = [
        {"question": f"{n} + {n + 1} =", "answer": str(2 * n + 1),
         "reasoning": (f"{n} and {n + 1} are {2 * n + 1}. " * long)[: SHORT if n < 8 else long]}
        for n in range(12)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "written", "path": str(path), "unlike": "sums"}


def tuned(ground: Ground, **settings: Any) -> dict[str, Any]:
    return {
        "kind": "sft", "model": "base", "traces": "worked", "learning_rate": 1e-5, "epochs": 1,
        "batch": 4, "context": 1024 if ground.dry else 32768,
        **{key: value for key, value in settings.items() if value is not None},
    }  # fmt: skip


def sums() -> dict[str, Any]:
    source = {"type": "reasoning_gym", "family": "chain_sum", "train": 32, "held_out": 8}
    return {"kind": "problems", "sources": [source]}


def build(
    ground: Ground, shape: str, stages: Mapping[str, Any], last: str, machine: Mapping[str, Any],
    store: str = "",
) -> dict[str, Any]:  # fmt: skip
    """`factory build` of a recipe with a random base; figures of its last stage."""
    from factory.building.pricing import recorded
    from factory.core.artifacts import open_artifact
    from factory.core.interpreter import program_command

    base = {"kind": "model", "source": {"type": "local", "path": str(ground.model(shape))}}
    recipe, settings = ground.folder / "recipe.json", ground.folder / "machine.json"
    every = {"base": base, "sums": sums(), **stages}
    recipe.write_text(json.dumps({"name": "check", "seed": 7, "stages": every}), encoding="utf-8")
    settings.write_text(json.dumps(machine), encoding="utf-8")
    where = ["--machine", str(settings), "--store", str(ground.folder / "store" / store)]
    words = ["build", str(recipe), *where, "--plain", "--ignore-fit"]
    done = subprocess.run(program_command(*words), cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit((done.stdout + done.stderr)[-2000:])
    artifact = open_artifact(made(ground, store, last))
    manifest, planned = artifact.manifest, recorded(artifact)
    peak = manifest.metrics.get("gpu_peak_gib", manifest.peak_memory_gib)
    figures: dict[str, Any] = {"stage seconds": manifest.seconds, "peak_gib": peak}
    if planned is not None:
        figures |= {
            "planned_gib": planned.memory_gib,
            "ratio": peak / max(planned.memory_gib, 1e-9),
        }
        figures["tokens_per_second"] = planned.tokens / manifest.seconds
    return figures


def made(ground: Ground, store: str, stage: str) -> Path:
    folders = (ground.folder / "store" / store).glob(f"{stage}-*")
    return next(path for path in folders if not path.suffix)


def run_folder(ground: Ground, store: str, stage: str) -> Path:
    return next((ground.folder / "store" / store).glob(f"{stage}-*.run"))


def telemetry(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_model(
    folder: Path, shape: tuple[int, int, int, int, int, int, bool], device: str
) -> None:
    """A random Qwen2 of a shape, with the byte tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from factory.models.tiny import byte_tokenizer
    from factory.models.transformers4 import write_tokenizer_fields

    hidden, forward, layers, heads, shared, vocabulary, is_tied = shape
    config = Qwen2Config(
        hidden_size=hidden, intermediate_size=forward, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=shared, vocab_size=vocabulary,
        tie_word_embeddings=is_tied, max_position_embeddings=32768,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        model = Qwen2ForCausalLM._from_config(config, dtype=dtype)
    model.to("cpu").save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 32768
    tokenizer.save_pretrained(folder)
    write_tokenizer_fields(folder)


def best(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of five calls."""
    import torch

    times = []
    for _ in range(6):
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def gpu_gib() -> float:
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**30


def run_check(name: str, ground: Ground, seconds: float) -> dict[str, Any]:
    """A check in a process of its own, ended with all its children at its deadline."""
    command = [sys.executable, __file__, "--check", name, "--out", str(ground.folder)]
    begin = time.monotonic()
    process = subprocess.Popen(
        [*command, *(["--dry"] if ground.dry else [])], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"verdict": "late", "seconds": round(time.monotonic() - begin, 1)}
    if process.returncode != 0:
        said = (errors.strip() or output.strip()).splitlines()
        figures: dict[str, Any] = {"verdict": " ".join(said[-3:])[-300:] or "no word"}
    else:
        figures = {"verdict": "ok", **json.loads(output.splitlines()[-1])}
    return {**figures, "seconds": round(time.monotonic() - begin, 1)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a check."""
    columns = ("planned_gib", "peak_gib", "ratio", "tokens_per_second")
    lines = ["| check | verdict | s | " + " | ".join(columns) + " | further |", "|---" * 8 + "|"]
    for row in rows:
        further = "; ".join(
            f"{key} {shown(value)}"
            for key, value in row.items()
            if key not in (*columns, "check", "verdict", "seconds")
        )
        cells = [
            row["check"],
            row["verdict"],
            row["seconds"],
            *(row.get(key, "") for key in columns),
        ]
        lines.append("| " + " | ".join(map(shown, [*cells, further])) + " |")
    return "\n".join(lines)


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument(
        "--seconds", type=float, help=f"{SECONDS:g}, with --dry {SLOWER} times that"
    )
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--only", action="append", choices=[*CHECKS])
    parser.add_argument("--check", choices=[*CHECKS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        own = options.out / options.check.replace(",", "").replace(" ", "-")
        own.mkdir(parents=True, exist_ok=True)
        sys.path.insert(0, str(ROOT))
        print(json.dumps(CHECKS[options.check][1](Ground(own, options.dry))))
        return 0
    ground = Ground(options.out.absolute(), options.dry)
    ground.folder.mkdir(parents=True, exist_ok=True)
    times = SLOWER if options.dry else 1
    end, rows = time.monotonic() + (options.seconds or SECONDS * times), []
    for name in options.only or CHECKS:
        left = min(CHECKS[name][0] * times, end - time.monotonic())
        row = {"check": name, "verdict": "no time left", "seconds": 0.0}
        row |= run_check(name, ground, left) if left > 5 else {}
        rows.append(row)
        with (ground.folder / "checks.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name}: {row['verdict']}, {row['seconds']} s", file=sys.stderr, flush=True)
    print(table(rows))
    return 0 if all(row["verdict"] == "ok" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
