"""Verdicts a second, one worker against two: maths and sandboxed programs.

    python bench/grading.py math|programs|slow [--count 400] [--against CHECKOUT]

maths: correct answers of many forms (integers, decimals, fractions, LaTeX, units), each another
one, so that no cache helps; those that our own code decides and those that sympy has to. programs:
short Python programs with one test on standard output each, every one in a sandbox of its own.
slow: answers made to take long, of which only the longest verdict counts.
Workers are started and warm before the clock. p50, p99 and the longest are of single verdicts in
one worker. `--against` measures the code of another checkout first, in the same run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from factory.core.records import Problem
from factory.grading import GradeItem, GradingPool
from factory.grading.grade import grade_item, grade_plainly
from factory.text.chat import completion_text

FORMS: tuple[tuple[Callable[[int], str], Callable[[int], str]], ...] = (
    (lambda n: str(n), lambda n: f"\\boxed{{{n}}}"),
    (lambda n: f"{n}/8", lambda n: f"{n / 8}"),
    (lambda n: f"\\frac{{{n}}}{{7}}", lambda n: f"\\dfrac{{{2 * n}}}{{14}}"),
    (lambda n: f"{n}\\sqrt{{2}}", lambda n: f"{n} \\sqrt{{2}}"),
    (lambda n: f"x + {n}", lambda n: f"{n} + x"),
    (lambda n: f"({n}, {n + 1})", lambda n: f"( {n}, {n + 1} )"),
    (lambda n: str(n), lambda n: f"{n} apples"),
    (lambda n: f"{n}\\pi", lambda n: f"\\pi \\cdot {n}"),
)


def maths(count: int) -> list[GradeItem]:
    items = []
    for number in range(count):
        reference, answer = FORMS[number % len(FORMS)]
        problem = Problem(
            id=str(number), prompt="", reference=reference(number + 2), kind="math", source="bench"
        )
        items.append(GradeItem(problem, completion_text("so", answer(number + 2))))
    return items


def programs(count: int) -> list[GradeItem]:
    items = []
    for number in range(count):
        tests = [{"stdin": f"{number} 1\n", "expected_stdout": str(number + 1)}]
        problem = Problem(
            id=str(number), prompt="", reference="", kind="code", source="bench",
            data={"tests": tests},
        )  # fmt: skip
        source = f"# {number}\nprint(sum(map(int, input().split())))"
        items.append(GradeItem(problem, completion_text("so", f"```python\n{source}\n```")))
    return items


SLOW = (
    (r"(a+b+c+d+x+y)^{90}", r"(a+b+c+d+x+y)^{89}\cdot a+(a+b+c+d+x+y)^{89}(b+c+d+x+y)"),
    (r"(a+b+c+d+x+y)^{20}", r"(a+b+c+d+x+y)^{19}\cdot a+(a+b+c+d+x+y)^{19}(b+c+d+x+y)"),
    (r"\sqrt{x+1}\sqrt{x+2}\sqrt{x+3}\sqrt{x+4}", r"\sqrt{(x+1)(x+2)(x+3)(x+4)}"),
    (r"\sin(x)^{40}\cos(y)^{40}", r"(1-\cos(x)^2)^{20}(1-\sin(y)^2)^{20}"),
)


def slow(count: int) -> list[GradeItem]:
    items = []
    for number in range(count):
        reference, answer = SLOW[number % len(SLOW)]
        problem = Problem(
            id=str(number), prompt="", reference=reference, kind="math", source="bench"
        )
        items.append(GradeItem(problem, completion_text(f"so {number}", answer)))
    return items


KINDS = {"math": maths, "programs": programs, "slow": slow}


def rate(items: list[GradeItem], workers: int) -> tuple[float, list[float]]:
    """(verdicts a second, seconds of each) with warm workers."""
    with GradingPool(workers) as pool:
        warm = [item for item in items[: 8 * workers]]
        pool.grade(warm)
        rest = items[8 * workers :]
        began = time.perf_counter()
        verdicts = pool.grade(rest)
        seconds = time.perf_counter() - began
    wrong = [v.explanation for v in verdicts if not v.is_correct]
    if wrong and len({item.problem.reference for item in items}) > len(SLOW):
        raise SystemExit(f"{len(wrong)} of {len(verdicts)} are not correct: {wrong[0]}")
    return len(rest) / seconds, [v.seconds for v in verdicts]


def by_processor(items: list[GradeItem]) -> float:
    """Verdicts a second of this process's own time, whatever else the machine does."""
    for item in items[:8]:
        grade_item(item)
    began = time.process_time()
    for item in items[8:]:
        _ = grade_plainly(item) or grade_item(item)
    return len(items[8:]) / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--against", help="the folder of another checkout")
    options = parser.parse_args()
    if options.against:
        arguments = [options.kind, "--count", str(options.count)]
        print(f"of {options.against}:", flush=True)
        checkout = os.path.abspath(options.against)
        command = [sys.executable, os.path.abspath(__file__), *arguments]
        # In its folder: an older pool's workers import from the current one first.
        environment = {**os.environ, "PYTHONPATH": checkout}
        subprocess.run(command, env=environment, cwd=checkout, check=True)
        print("here:")
    items = KINDS[options.kind](options.count)
    single, each = rate(items, 1)
    two, _ = rate(items, 2)
    cuts = statistics.quantiles([1000 * s for s in each if s > 0] or [0.0, 0.0], n=100)
    print(
        "| kind | n | one worker, /s | two workers, /s | ratio | p50, ms | p99, ms | longest, s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    figures = f"{single:.0f} | {two:.0f} | {two / single:.2f} | {cuts[49]:.1f} | {cuts[98]:.1f}"
    figures += f" | {max(each):.2f}"
    print(f"| {options.kind} | {options.count} | {figures} |")
    if options.kind == "math":
        print(f"{by_processor(items):.0f} verdicts a second of processor time, in one process")


if __name__ == "__main__":
    main()
