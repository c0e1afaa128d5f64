"""Mutated recipes, machine files and rows: each is taken or refused, in words and in time.

FACTORY_LONG_TESTS=1 tries 10,000 of them in one process, else as many as fit into the budget.
"""

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mutations import ABSURD, VALUES, at, dumped, mutated, mutated_text, paths
from pydantic import BaseModel

from factory.building.plan import make_plan
from factory.building.recipe import load_machine, load_recipe
from factory.core.errors import FactoryError
from factory.core.jsonl import read_records
from factory.core.records import Trace
from factory.core.yaml12 import load_mapping
from factory.problems.local import LocalRow

ROOT = Path(__file__).resolve().parents[2]
IS_LONG = bool(os.environ.get("FACTORY_LONG_TESTS"))
SECONDS = math.inf if IS_LONG else 3.0
"""Of each of the tests below."""
ROUNDS = 2000 if IS_LONG else 300
SLOWEST = 2.0
TEST = {"stdin": "", "expected_stdout": "1"}
ROWS = [
    {"prompt": "2 + 2?", "reference": "4", "id": "a", "kind": "math", "licence": "", "data": {}},
    {"prompt": "f", "reference": "", "kind": "code", "data": {"tests": [TEST]}},
    {"prompt": "?", "reference": "A", "kind": "choice", "data": {"options": ["x", "y"]}},
]


@cache
def sources() -> list[tuple[str, dict[str, Any]]]:
    names = ("smoke", "quickstart", "r1", *(("lab",) if IS_LONG else ()))
    return [(name, load_recipe(ROOT / f"recipes/{name}.yaml").resolved) for name in names]  # type: ignore[misc]


def rounds() -> Iterator[random.Random]:
    """A seeded source for each try, until the budget is spent."""
    began = time.process_time()
    for seed in range(ROUNDS):
        if time.process_time() - began > SECONDS:
            return
        yield random.Random(seed)


def fault_of(action: Callable[[], Any]) -> str:
    """What is wrong with how an action ended; empty where it was taken or refused in words."""
    began = time.process_time()
    said = ""
    try:
        action()
    except FactoryError as error:
        said = str(error)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    took = time.process_time() - began
    if took > SLOWEST:
        return f"took {took:.1f} s"
    if len(said.splitlines()) > 20 or len(said) > 3000:
        return f"said {len(said.splitlines())} lines, {len(said)} characters"
    return ""


def planned(path: Path) -> None:
    make_plan(load_recipe(path))


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """What the rounds of a test found; none is allowed."""
    seen: list[str] = []
    yield seen
    assert seen == []


def test_mutated_recipes(tmp_path: Path, faults: list[str]) -> None:
    recipes = sources()
    path = tmp_path / "r.json"
    for number, draw in enumerate(rounds()):
        name, resolved = recipes[0] if draw.random() < 0.5 else draw.choice(recipes)
        path.write_text(dumped(mutated(resolved, draw)), encoding="utf-8")
        if fault := fault_of(lambda: planned(path)):
            faults.append(f"{name}, seed {number}: {fault}")


def test_mutated_texts_of_recipes(tmp_path: Path, faults: list[str]) -> None:
    texts = [(ROOT / f"recipes/{name}.yaml").read_bytes() for name in ("smoke", "quickstart")]
    texts += [dumped(sources()[0][1]).encode()]
    for number, draw in enumerate(rounds()):
        text = draw.choice(texts)
        path = tmp_path / ("r.json" if text.startswith(b"{") else "r.yaml")
        path.write_bytes(mutated_text(text, draw))
        if fault := fault_of(lambda path=path: planned(path)):
            faults.append(f"seed {number}: {fault}")


def test_mutated_machine_files(tmp_path: Path, faults: list[str]) -> None:
    files = sorted((ROOT / "recipes/machines").glob("*.yaml"))
    machines = [load_mapping(path) for path in files]
    endpoint = {"url": "http://127.0.0.1/v1", "price_in": 1.0, "price_out": 2.0, "most_spend": 3.0}
    machines.append({"endpoints": [endpoint], "cluster": {"address": "local", "engines": 2}})
    path = tmp_path / "m.json"
    for number, draw in enumerate(rounds()):
        path.write_text(dumped(mutated(draw.choice(machines), draw)), encoding="utf-8")
        if fault := fault_of(lambda: load_machine(path)):
            faults.append(f"seed {number}: {fault}")


def test_mutated_overrides(tmp_path: Path, faults: list[str]) -> None:
    smoke = tmp_path / "smoke.json"
    smoke.write_text(dumped(sources()[0][1]), encoding="utf-8")
    keys = [".".join(map(str, path)) for path in paths(sources()[0][1]) if path]
    for number, draw in enumerate(rounds()):
        text = f"{draw.choice(keys)}={dumped(draw.choice(VALUES))}"
        if draw.random() < 0.3:
            text = mutated_text(text.encode(), draw).decode("utf-8", "replace")
        if fault := fault_of(lambda text=text: make_plan(load_recipe(smoke, [text]))):
            faults.append(f"seed {number}, {text[:80]!r}: {fault}")


@pytest.mark.parametrize("record", [LocalRow, Trace])
def test_mutated_rows(record: type[BaseModel], tmp_path: Path, faults: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    for number, draw in enumerate(rounds()):
        lines = [dumped(mutated(row, draw)).encode() for row in ROWS]
        if draw.random() < 0.4:
            lines = [mutated_text(line, draw) for line in lines]
        path.write_bytes(b"\n".join(lines))
        if fault := fault_of(lambda: list(read_records(path, record))):
            faults.append(f"seed {number}: {fault}")


def test_no_number_of_a_recipe_takes_an_absurd_value(tmp_path: Path) -> None:
    # Every number of the smoke recipe in turn, seen from outside: through the file.
    _, resolved = sources()[0]
    taken = []
    numbers = [p for p in paths(resolved) if type(at(resolved, p)) in (int, float)]
    for path in numbers:
        for value in ABSURD:
            changed = json.loads(json.dumps(resolved))
            at(changed, path[:-1])[path[-1]] = value
            file = tmp_path / "r.json"
            file.write_text(dumped(changed), encoding="utf-8")
            try:
                load_recipe(file)
                taken.append((path, value))
            except FactoryError:
                continue
            if not IS_LONG:
                break
    assert taken == []
