"""Estimates of a recipe, made as on a fresh store, against what a built store says.

    python bench/estimates.py recipes/quickstart.yaml artifacts --gflops 317 --gigabytes 20

Stages count by name. The peaks are those that the build ran at: its `grpo` stages note them.
"""

import argparse
import os
import tempfile
from pathlib import Path

from factory.building.plan import make_plan
from factory.building.pricing import Row, bill
from factory.building.recipe import load_machine, load_recipe
from factory.core.artifacts import Artifact, stored
from factory.core.machine import DevicePeaks

EXPENSIVE = 0.05
"""Of the build's seconds: what such a stage takes matters."""
CLOSE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--machine", type=Path)
    parser.add_argument("--gflops", type=float, required=True)
    parser.add_argument("--gigabytes", type=float, required=True)
    given = parser.parse_args()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    peaks = DevicePeaks(
        gflops=given.gflops, gigabytes_per_second=given.gigabytes, memory_gib=memory
    )
    machine = load_machine(given.machine).model_copy(update={"peaks": peaks, "parallel": 1})
    with tempfile.TemporaryDirectory() as empty:
        rows = bill(make_plan(load_recipe(given.recipe)), Path(empty), machine).rows
    truth = {artifact.name: artifact for artifact in stored(given.store)}
    show([(row, truth[row.step.name]) for row in rows if row.step.name in truth])


def show(pairs: list[tuple[Row, Artifact]]) -> None:
    """A table in Markdown, the sums, and how many of the expensive stages are close."""
    in_all = sum(artifact.manifest.seconds for _, artifact in pairs)
    print("| stage | kind | estimated s | real s | estimated / real | GiB estimated | real |")
    print("|---|---|---|---|---|---|---|")
    total, expensive, close = 0.0, 0, 0
    for row, artifact in pairs:
        estimate, manifest = row.estimate, artifact.manifest
        if estimate is None:
            continue
        total += estimate.seconds
        ratio = estimate.seconds / max(manifest.seconds, 1e-3)
        if manifest.seconds >= EXPENSIVE * in_all:
            expensive += 1
            close += abs(ratio - 1) <= CLOSE
        if manifest.seconds < 1:
            continue
        print(
            f"| {row.step.name} | {row.step.kind} | {estimate.seconds:.0f} | "
            f"{manifest.seconds:.0f} | {ratio:.2f} | {estimate.memory_gib:.1f} | "
            f"{manifest.peak_memory_gib:.1f} |"
        )
    print(f"| all | | {total:.0f} | {in_all:.0f} | {total / in_all:.2f} | | |")
    print(f"{close} of {expensive} stages of {EXPENSIVE:.0%} and more are within {CLOSE:.0%}.")


if __name__ == "__main__":
    main()
