"""What the fork server leaves out of its imports."""

import subprocess
import sys

from factory.building.launch.local import preload

CODE = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print("transformers.generation.candidate_generator" in sys.modules, "sklearn" in sys.modules)
"""


def test_the_fork_server_imports_no_scikit_learn() -> None:
    *modules, last = preload(["factory.sampling.transformers", "factory.stages.grpo.train"])
    assert last == "factory.building.launch.after_imports"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", CODE, *modules], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["True", "False"]


def test_where_nothing_heavy_is_imported_transformers_is_not_either() -> None:
    assert not any("lean" in module for module in preload([]))
