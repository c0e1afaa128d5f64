"""Which float32 matrix product this machine is fast at: `python -m factory.launch.measure`.

Torch multiplies float32 matrices with MKL, which runs AVX2 code on AMD processors. When torch may
round operands to bfloat16 it asks oneDNN instead, which is twice as fast there (AMD Zen 5: 100 and
210 GFLOP/s a core) and in fact still multiplies in float32 where the processor has no AMX (measured
error 3.4e-7 against 2.4e-7). On some Intel processors the same switch halves the speed. No CPU flag
tells them apart, so it is measured, once.
"""

import subprocess
import sys
import time
from pathlib import Path

from factory.errors import EngineError
from factory.machine import Machine, Matmul

SHAPE = (1024, 576, 1536)
"""Rows, inputs and outputs of the product: a small model's layer over a batch."""
REPEATS = 12
CLEAR_WIN = 1.25


def resolve_matmul(machine: Machine, store: Path) -> Machine:
    """The machine with `matmul` decided; measured once a store, so that a resumed build agrees."""
    if machine.matmul != "auto" or machine.device == "cuda":
        return machine
    kept = store / f".matmul-{machine.thread_count()}"
    if not kept.exists():
        command = [sys.executable, "-m", "factory.launch.measure", str(machine.thread_count())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EngineError(f"measuring the matrix product failed: {done.stderr[-400:]}")
        kept.write_text(done.stdout, encoding="utf-8")
    choice: Matmul = "bfloat16" if kept.read_text(encoding="utf-8").startswith("b") else "float32"
    return machine.model_copy(update={"matmul": choice})


def apply_matmul(machine: Machine) -> None:
    """Make torch compute float32 products as the machine says; for engine and trainer alike."""
    import torch

    torch.set_num_threads(machine.thread_count())
    if machine.matmul == "bfloat16":
        torch.set_float32_matmul_precision("medium")


def measure(threads: int) -> Matmul:
    """The faster kind, float32 unless bfloat16 wins clearly."""
    import torch

    torch.set_num_threads(threads)
    rows, inputs, outputs = SHAPE
    left, right = torch.randn(rows, inputs), torch.randn(outputs, inputs)

    def best_seconds() -> float:
        best = float("inf")
        for _ in range(REPEATS):
            start = time.perf_counter()
            torch.nn.functional.linear(left, right)
            best = min(best, time.perf_counter() - start)
        return best

    exact = best_seconds()
    torch.set_float32_matmul_precision("medium")
    return "bfloat16" if best_seconds() * CLEAR_WIN < exact else "float32"


if __name__ == "__main__":
    sys.stdout.write(measure(int(sys.argv[1])) + "\n")
