"""The sides of a bench, each measured in a process of its own."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def passed_on(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """The options of these names as a side's process gets them."""
    return [word for name in names for word in (f"--{name}", str(getattr(options, name)))]


def run_alone(
    script: str, arguments: Iterable[str], settings: Mapping[str, str], *, title: str
) -> dict[str, Any]:
    """What the script prints as one line of JSON; `settings` are added to the environment.

    If it fails, this process ends with the side's title and what the script said last.
    """
    child = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        # The settings of a worker leave a script's own folder out of what it imports from.
        env={**os.environ, **settings, "PYTHONPATH": os.path.dirname(os.path.abspath(script))},
    )
    if child.returncode:
        sys.exit(f"{title}: {child.stderr[-2000:]}")
    # vLLM's engine says more on standard output when it ends.
    return json.loads(next(line for line in child.stdout.splitlines() if line.startswith('{"')))
