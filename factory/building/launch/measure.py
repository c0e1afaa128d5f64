"""What this machine is fast at: `python -m factory.building.launch.measure THREADS...` prints JSON.

Torch multiplies float32 matrices with MKL, which runs AVX2 code on AMD processors. When torch may
round operands to bfloat16 it asks oneDNN instead, which is twice as fast there (AMD Zen 5: 100 and
210 GFLOP/s a core) and in fact still multiplies in float32 where the processor has no AMX (measured
error 3.4e-7 against 2.4e-7). On some Intel processors the same switch halves the speed. No CPU flag
tells them apart, so it is measured, once; and with it whether more threads help, which they do not
where cores are shared.

Products in bfloat16 and float16 are measured to be read, not chosen: an engine and a trainer in
bfloat16 differ by 0.04 nats a token on average and 1.05 at most on a 135M model, so the samples
would not be the policy's own, and float16 overflows in training.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter

from factory.core.errors import EngineError
from factory.core.files import read_file, write_file
from factory.core.interpreter import die_with_parent, module_command
from factory.core.machine import Machine, Matmul
from factory.core.ranks import without_ranks

SHAPE = (1024, 576, 1536)
"""Rows, inputs and outputs of the product: a small model's layer over a batch."""
SECONDS = 0.1
"""For each kind of product and number of threads."""
CLEAR_WIN = 1.25
"""How much faster fewer threads than all must be, so that noise decides nothing."""
PRODUCT_WIN = 1.05
"""How much faster the other product must be. To err costs little: where the win is small both
multiply in float32 (operands that are rounded, on AMX, win fourfold). On a Zen 4, where it was
1.06 to 1.24, the lab's pre-training was 1.16 times as fast, a training pass of its RL 1.05 to 1.10
times, a reference pass 0.95 to 1."""

Rates = Mapping[str, Mapping[str, float]]
"""GFLOP/s by number of threads and kind of product."""


def resolve_matmul(
    machine: Machine, store: Path, announce: Callable[[], None] | None = None
) -> Machine:
    """The machine with `matmul` and `threads` decided where they are open.

    Measured once a user of a processor, so that all stores agree: the choice changes sums, and
    with them the bytes behind a fingerprint. `announce` is called before a measurement, which
    takes seconds.
    """
    if (machine.matmul != "auto" and machine.threads) or machine.device == "cuda":
        return machine
    limit = machine.thread_count()
    kept = store / f".measured-{limit}{'' if machine.threads else '-auto'}"
    counts = [limit] if machine.threads else thread_counts(limit)
    pin = pinned(kept.name)
    pinned_rates, own_rates = (
        read_file(path, lambda text: parse_rates(text, counts), instead="measured again")
        for path in (pin, kept)
    )
    # A store may come from another processor: its own says something only where nothing is kept.
    rates = pinned_rates if _may_keep(pin) else own_rates
    if rates is None:
        if announce is not None:
            announce()
        settings = tuple(map(str, counts))
        printed = measured("factory.building.launch.measure", settings, what="the matrix product")
        rates = parse_rates(printed, counts)
    if pinned_rates is None:
        with suppress(OSError):  # without a folder of the user's, a store keeps to its own
            write_file(pin, json.dumps(rates) + "\n")
    if own_rates is None:
        write_file(kept, json.dumps(rates) + "\n")
    threads, matmul = choose(rates, machine.matmul)
    return machine.model_copy(update={"threads": threads, "matmul": matmul})


def measured(module: str, settings: Sequence[str], *, what: str) -> str:
    """What a module prints that measures in a process of its own; EngineError where it fails."""
    done = subprocess.run(
        module_command(module, *settings),
        capture_output=True,
        text=True,
        check=False,
        env=without_ranks(os.environ),
        preexec_fn=die_with_parent,
    )
    if done.returncode != 0:
        raise EngineError(f"measuring {what} failed: {done.stderr[-400:]}")
    return done.stdout


def _may_keep(pin: Path) -> bool:
    try:
        pin.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(pin.parent, os.W_OK)


def pinned(name: str) -> Path:
    """Where the user's measurements of this processor are kept, under a store's name for them."""
    home = os.environ.get("FACTORY_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    words = ("model name", "cpu family", "model", "stepping", "flags", "CPU part", "Features")
    about = sorted({line for line in lines if line.partition("\t")[0].strip() in words})
    processor = hashlib.sha256("\n".join([platform.node(), *about]).encode()).hexdigest()[:16]
    return Path(home).expanduser() / "model-factory" / f"{name.strip('.')}-{processor}"


def parse_rates(text: str, counts: Sequence[int]) -> Rates:
    """Rates as they are printed; ValueError unless they are those of all these threads."""
    rates = TypeAdapter(dict[str, dict[str, float]]).validate_json(text)
    for count in counts:
        stated = [rates.get(str(count), {}).get(kind, 0.0) for kind in ("float32", "rounded")]
        if not all(0 < rate < float("inf") for rate in stated):
            raise ValueError(f"states no rate of {count} threads")
    return {str(count): rates[str(count)] for count in counts}


def thread_counts(limit: int) -> list[int]:
    """1, 2, 4, ... and the limit."""
    return sorted({*(1 << power for power in range(limit.bit_length())), limit})


def choose(rates: Rates, matmul: str) -> tuple[int, Matmul]:
    """Threads and kind of product: all threads and float32 unless another choice wins clearly."""

    def kind(threads: int) -> Matmul:
        if matmul != "auto":
            return "bfloat16" if matmul == "bfloat16" else "float32"
        own_rates = rates[str(threads)]
        return (
            "bfloat16" if own_rates["rounded"] > PRODUCT_WIN * own_rates["float32"] else "float32"
        )

    def rate(threads: int) -> float:
        return rates[str(threads)]["rounded" if kind(threads) == "bfloat16" else "float32"]

    most = max(map(int, rates))
    best = max(map(int, rates), key=rate)
    threads = best if rate(best) > CLEAR_WIN * rate(most) else most
    return threads, kind(threads)


def measure(threads: int) -> dict[str, float]:
    """Best GFLOP/s of float32, float32 with operands that may be rounded, bfloat16 and float16."""
    import torch

    torch.set_num_threads(threads)
    rows, inputs, outputs = SHAPE
    rates: dict[str, float] = {}
    for kind in ("float32", "rounded", "bfloat16", "float16"):
        dtype = torch.float32 if kind == "rounded" else getattr(torch, kind)
        torch.set_float32_matmul_precision("medium" if kind == "rounded" else "highest")
        left, right = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        torch.nn.functional.linear(left, right)
        best, end = float("inf"), time.perf_counter() + SECONDS
        while best == float("inf") or time.perf_counter() < end:
            start = time.perf_counter()
            torch.nn.functional.linear(left, right)
            best = min(best, time.perf_counter() - start)
        rates[kind] = round(2e-9 * rows * inputs * outputs / best, 1)
    return rates


if __name__ == "__main__":
    sys.stdout.write(json.dumps({count: measure(int(count)) for count in sys.argv[1:]}) + "\n")
