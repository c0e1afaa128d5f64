"""The benches run on tiny models. Of GRPO steps TRL's trainer and ours: the two tuned sides are
the same code with other environments."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from warm import run_script

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run_bench(name: str, settings: str) -> str:
    """What a bench prints."""
    done = run_script(BENCH / name, *settings.split(), settings={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def bench(name: str, settings: str) -> list[list[str]]:
    """The cells of the table that a bench prints."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in run_bench(name, settings).splitlines()
        if line.startswith("| ")
    ]


def test_both_sides_of_fine_tuning_start_with_the_same_loss() -> None:
    small = "--model tiny --rows 8 --tokens 40 --steps 1 --threads 1 --sides trl-float32 ours"
    header, *rows = bench("sft.py", small)
    assert header == ["figure", "TRL float32", "ours", "ours / TRL float32"]
    figures = {name: [float(cell) for cell in cells] for name, *cells in rows}
    shares = figures.pop("share of the roofline")
    assert list(figures) == ["tokens a second", "seconds a step", "peak GiB", "first loss"]
    assert shares[2] == figures["tokens a second"][2]
    assert figures["first loss"][0] == pytest.approx(figures["first loss"][1], abs=1e-4)
    theirs, ours, ratio = figures["tokens a second"]
    assert ratio == pytest.approx(ours / theirs, abs=1e-2)


def test_the_bench_prints_every_phase_of_both_trainers() -> None:
    small = "--model tiny --prompts 4 --group 2 --tokens 8 --threads 1 --engine transformers"
    small += " --sides trl ours"
    rows = bench("grpo_step.py", small)
    assert rows[0][2:] == ["TRL", "ours", "TRL / ours"]
    share = "{}, share of the roofline"
    phases = [
        "generate, s", share.format("generate"), "reference, s", "train, s",
        share.format("train"), "optimizer, s", "step, s",
    ]  # fmt: skip
    assert [row[:2] for row in rows[1:]] == [
        *(["even", phase] for phase in phases),
        *(["uneven", phase] for phase in phases),
        ["memory", "peak GiB"],
    ]
    steps = [row for row in rows if row[1] == "step, s"]
    assert all(float(cell) > 0 for row in steps for cell in row[2:4])


def test_the_bench_of_evaluations_gives_both_harnesses_the_same_scores() -> None:
    small = "--model tiny --problems 3 --tokens 6 --threads 1 --engine transformers"
    small += " --sides hf-16 ours"
    printed = run_bench("evaluate.py", small)
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    assert [row[0] for row in rows] == ["side", "lm_eval, 16", "ours"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:6])
    assert rows[1][-1] == rows[2][-1]
    assert f"Against lm_eval, 16, its fastest: {rows[1][4]} times" in printed
    assert "ours: 6 of 6 completions are those of the first side" in printed


def test_the_bench_of_traces_compares_both_ways_on_one_model() -> None:
    small = "--model tiny --problems 3 --samples 2 --tokens 8 --block 4 --threads 1"
    small += " --sides transformers ours-transformers"
    head, plain, ours = bench("traces.py", small)
    assert head[:4] == ["side", "tokens", "seconds", "tokens/s"]
    assert head[4:] == ["a processor second", "rows busy", "ours / plain"]
    assert (plain[0], ours[0]) == ("transformers", "ours, transformers")
    # A random model hardly ever ends before its limit, but it may.
    assert all(6 <= int(row[1]) <= 3 * 2 * 8 for row in (plain, ours))
    assert plain[6] == "" and float(ours[6]) > 0 and int(ours[4]) > 0


def test_the_bench_of_long_tails_draws_the_same_lengths_in_both_ways() -> None:
    small = "--model tiny --problems 6 --samples 4 --tokens 32 --block 4 --threads 1"
    small += " --lengths long-tail --sides ours-transformers ours-transformers-full"
    printed = run_bench("traces.py", small)
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if "| ours" in line]
    assert [row[0] for row in rows[-2:]] == ["ours, transformers", "ours, transformers, full"]
    assert rows[-2][1] == rows[-1][1]
    assert "rows busy, simulated: blocks" in printed


def test_a_side_of_a_bench_finds_its_neighbours_under_the_settings_of_a_worker() -> None:
    """They leave a script's own folder out of what it imports from."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); import sides; "
    script += (
        "from factory.core.machine import Machine, environment; "
        "print(sides.run_alone(sys.argv[2], [], environment(Machine()), "
    )
    script += "title='side'))"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "neighbour.py").write_text("FIGURE = 7\n", encoding="utf-8")
        side = Path(folder, "side.py")
        text = "import json\nimport neighbour\nprint(json.dumps({'figure': neighbour.FIGURE}))\n"
        side.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", script, str(BENCH), str(side)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stdout.strip() == "{'figure': 7}", done.stderr[-2000:]
