"""What a plan and a help text import: neither may take the seconds that libraries take to load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from factory.core.interpreter import SAFE_PATH

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "torch", "transformers", "trl", "peft", "vllm", "datasets", "lm_eval", "numpy", "scipy",
    "sympy", "sklearn", "reasoning_gym", "nltk",
}  # fmt: skip
PROGRAM = """
import json, resource, sys
from factory.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print()
print(json.dumps([sorted(sys.modules), used.ru_utime + used.ru_stime]))
"""


def modules_of(*arguments: str) -> tuple[list[str], float]:
    """The modules that a command has imported when it ends, and its processor seconds."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True, text=True, cwd=ROOT, env={"PATH": "/usr/bin", **SAFE_PATH},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    modules, seconds = json.loads(done.stdout.splitlines()[-1])
    return modules, seconds


@pytest.mark.parametrize(
    ("most", "seconds", "arguments"),
    [
        (650, 2.0, ("plan", "recipes/lab.yaml")),
        (650, 2.0, ("plan", "recipes/r1-small.yaml")),
        (420, 0.4, ("--help",)),
    ],
)
def test_a_command_that_computes_nothing_imports_no_heavy_library(
    most: int, seconds: float, arguments: tuple[str, ...]
) -> None:
    modules, used = modules_of(*arguments)
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()
    assert len(modules) <= most
    # A busy machine is slower than the numbers that are promised; twice as slow is a fault.
    assert used <= 2 * seconds


def test_what_a_recipe_may_hand_on_to_trl_is_what_trl_has() -> None:
    from factory.stages.grpo.passthrough import PASSED, trl_names

    assert set(PASSED) <= trl_names()
